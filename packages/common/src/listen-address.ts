/**
 * Where a program listens, as people write it: `127.0.0.1:9443`, `[::1]:9443`, `:9443`, `unix:/run/tendril.sock`.
 * Fronts, acceptor and admin handle the connections.
 */
import { BlockList, type ListenOptions, type Server, isIP } from 'node:net'
import { TunnelError } from './errors.js'
import type { Log } from './log.js'

/**
 * A TCP address (`host` '' means every address of the machine, both families; port 0 means any free port) or a Unix
 * socket.
 */
export type ListenAddress = { host: string; port: number } | { path: string }

/** sun_path has 108 bytes on Linux, one of them for the closing NUL. */
export const UNIX_PATH_LIMIT_BYTES = 107

/**
 * Connections that the kernel keeps for us until we accept them. Beyond it a SYN is dropped, and its sender repeats it
 * after 1, 2, 4, 8 s and so on: Node's 511 made the last of 1000 clients that came at once wait for more than a minute.
 * Linux takes net.core.somaxconn where that is less; 4096 is its default.
 */
const BACKLOG = 4096

export const LISTEN_FORM = 'an address such as 127.0.0.1:9443, [::1]:9443, :9443 or unix:/path'

const UNIX_PREFIX = 'unix:'
const HOST_NAME =
  /^(?=.{1,253}$)[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?)*$/i
const LOOKS_LIKE_IPV4 = /^[0-9.]+$/

const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8, 'ipv4')
loopback.addAddress('::1', 'ipv6')

/**
 * Reads one address. Names are allowed (`localhost:9443`); they are resolved when the socket is opened.
 *
 * @throws Error one sentence that says what is wrong with the text
 */
export function parseListen(text: string): ListenAddress {
  if (text.startsWith(UNIX_PREFIX)) return { path: parseUnixPath(text) }

  const colon = text.lastIndexOf(':')
  if (colon < 0) throw new Error(`"${text}" has no port: expected ${LISTEN_FORM}`)
  const portText = text.slice(colon + 1)
  const port = Number(portText)
  if (!/^[0-9]{1,5}$/.test(portText) || port > 65_535) {
    throw new Error(`"${portText}" is not a port from 0 to 65535: expected ${LISTEN_FORM}`)
  }
  return { host: parseHost(text.slice(0, colon)), port }
}

function parseUnixPath(text: string): string {
  const path = text.slice(UNIX_PREFIX.length)
  if (path === '' || path.includes('\0')) throw new Error(`"${text}" names no file: expected unix:/path`)
  if (path.startsWith('//')) throw new Error(`"${text}" is a URL: write unix:${path.replace(/^\/+/, '/')}`)
  if (Buffer.byteLength(path) > UNIX_PATH_LIMIT_BYTES) {
    throw new Error(
      `the path of a Unix socket has at most ${UNIX_PATH_LIMIT_BYTES} bytes, "${path}" has more`
    )
  }
  return path
}

function parseHost(host: string): string {
  if (host === '') return ''
  if (host.startsWith('[') && host.endsWith(']')) {
    const inner = host.slice(1, -1)
    if (isIP(inner) !== 6) throw new Error(`"${inner}" is not an IPv6 address: expected ${LISTEN_FORM}`)
    return inner
  }
  if (host.includes(':')) throw new Error(`an IPv6 address is written in brackets: [${host}]`)
  if (isIP(host) === 4) return host
  if (LOOKS_LIKE_IPV4.test(host) || !HOST_NAME.test(host)) {
    throw new Error(`"${host}" is neither an IP address nor a host name: expected ${LISTEN_FORM}`)
  }
  return host
}

/** The text that `parseListen` reads back to the same address. */
export function formatListen(address: ListenAddress): string {
  if ('path' in address) return UNIX_PREFIX + address.path
  return `${isIP(address.host) === 6 ? `[${address.host}]` : address.host}:${address.port}`
}

/**
 * Whether only processes of this machine can reach the address. A name counts only if it is `localhost` or below it.
 */
export function isLoopback(address: ListenAddress): boolean {
  if ('path' in address) return true
  const family = isIP(address.host)
  if (family === 0) return /^(.+\.)?localhost$/i.test(address.host)
  // BlockList reads IPv4-mapped IPv6 (::ffff:127.0.0.1) as the IPv4 address it is.
  return loopback.check(address.host, family === 6 ? 'ipv6' : 'ipv4')
}

/**
 * Opens a listener. `what` is its name in the configuration, `begin` how it begins where that is not a plain `listen`.
 * @returns the address, with the real port. Rejects with LISTEN_FAILED.
 */
export async function listenAt(
  server: Server,
  what: string,
  address: ListenAddress,
  begin: () => void = () => server.listen(listenOptions(address))
): Promise<ListenAddress> {
  await new Promise<void>((resolve, reject) => {
    const onError = (error: unknown): void => reject(listenFailure(what, address, error))
    server.once('error', onError)
    server.once('listening', () => {
      server.off('error', onError)
      resolve()
    })
    try {
      begin()
    } catch (error) {
      onError(error)
    }
  })
  const bound = server.address()
  return bound === null || typeof bound === 'string' ? address : { host: bound.address, port: bound.port }
}

/**
 * Announces a listener in the log, once it accepts connections. `name` is `tunnel`, `admin`, or `front` and the front's
 * name. Whoever started the program reads the port from this line when the configuration says 0.
 */
export function logListening(log: Log, name: string, address: ListenAddress): void {
  log.info({ event: 'listening', name, address: formatListen(address) }, 'listening for connections')
}

/** For `server.listen`. */
export function listenOptions(address: ListenAddress): ListenOptions {
  if ('path' in address) return { path: address.path, backlog: BACKLOG }
  const { host, port } = address
  return { port, backlog: BACKLOG, ...(host !== '' && { host }) }
}

const LISTEN_REASONS: Record<string, string> = {
  EADDRINUSE: 'the address is in use by another program',
  EADDRNOTAVAIL: 'this machine has no such address',
  EACCES: 'this user may not listen there',
  ENOTFOUND: 'the host name is not known',
  ENOENT: 'the directory of the socket does not exist'
}

/** The error of a listener that could not start: `what` is its name in the configuration. */
export function listenFailure(what: string, address: ListenAddress, error: unknown): TunnelError {
  const code = (error as NodeJS.ErrnoException).code ?? ''
  const reason = LISTEN_REASONS[code] ?? (error instanceof Error ? error.message : String(error))
  return new TunnelError('LISTEN_FAILED', `on ${formatListen(address)} (${what}): ${reason}`, {
    cause: error
  })
}
