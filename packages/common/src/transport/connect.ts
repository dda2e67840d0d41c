/**
 * Connects to a server: a socket that leads there, then TLS, then the WebSocket upgrade. One attempt under one time
 * limit; the tunnel manager repeats it. Between two steps `owned` holds the socket and destroys it when the next step
 * fails, so that nothing stays open. Only direct connections are made here; shoot-client adds connectors through
 * proxies.
 *
 *   connector: resolve, connect  →  TLS to the server  →  WebSocket
 */
import type { Socket } from 'node:net'
import { isIP } from 'node:net'
import type { ConnectionOptions, TLSSocket } from 'node:tls'
import type { ClientOptions } from 'ws'
import { type Clock, systemClock } from '../clock.js'
import { type ErrorCode, TunnelError } from '../errors.js'
import { checkServerIdentity } from '../identity/peer.js'
import { owned } from '../owned.js'
import { race } from '../race.js'
import { remembering } from '../remember.js'
import { type Resolve, createResolve } from '../resolve.js'
import { formatHostPort } from '../wire/host-port.js'
import { type ConnectTarget, type Destination, type ServerAddress, connectTargetOf } from './destination.js'
import { secure } from './secure.js'
import { type Upgraded, upgrade } from './upgrade.js'
import { websocketClientOptions } from './websocket.js'

export type { ServerAddress } from './destination.js'

/** One attempt, as its steps see it. */
export type Attempt = {
  signal: AbortSignal
  clock: Clock
  resolve: Resolve
  /** What is being waited for, kept up to date so that a timeout can say it. */
  progress: { code: ErrorCode; waitingFor: string }
}

/** Opens a socket that leads to the destination, by whatever is in between. */
export type Connector = (connectTarget: ConnectTarget, attempt: Attempt) => Promise<Socket>

export type ConnectOptions = {
  /** Certificates for the TLS to the server: what `Bundle.tlsOptions()` gives at the moment of the attempt. */
  tls?: Pick<ConnectionOptions, 'ca' | 'cert' | 'key'>
  /** Default: directly. */
  connector?: Connector
  /** Of the upgrade request. */
  headers?: Record<string, string>
  /** Passed to `ws`. Default: those of websocket.ts. */
  websocketOptions?: ClientOptions
  signal: AbortSignal
  /** Milliseconds for everything, names to upgrade. Default 10 000. */
  timeoutMs?: number
  clock?: Clock
  resolve?: Resolve
}

/** `secured`: the TLS to the server, verified. Without TLS undefined. */
export type Connected = Upgraded & { secured?: TLSSocket }

export const CONNECT_TIMEOUT_MS = 10_000

const systemResolve = remembering(createResolve(), { clock: systemClock })

/**
 * One attempt. The name is resolved anew and certificates are read from `tls` each time; nothing is remembered but the
 * last known addresses of a name, for when nameservers are silent (remember.ts). Rejects with `SERVER_UNREACHABLE`,
 * `SERVER_NOT_IDENTIFIED`, `PROTOCOL_ERROR`, `BAD_CONFIG`, what the connector rejects with, or the server's own refusal
 * (`CLIENT_NOT_IDENTIFIED`, `CLUSTER_DENIED`, `UNKNOWN_CLUSTER`, …); `CLOSED` when aborted. The WebSocket starts to
 * read on the next turn of the event loop.
 */
export async function connect(server: ServerAddress, options: ConnectOptions): Promise<Connected> {
  const { clock = systemClock, resolve = systemResolve, timeoutMs = CONNECT_TIMEOUT_MS } = options
  const { signal: outer } = options
  const progress: Attempt['progress'] = { code: 'SERVER_UNREACHABLE', waitingFor: server.url }
  const controller = new AbortController()
  const onAbort = (): void => controller.abort(new TunnelError('CLOSED', 'stopped', { cause: outer.reason }))
  const timer = clock.after(timeoutMs, () =>
    controller.abort(
      new TunnelError(progress.code, `no answer within ${timeoutMs} ms from ${progress.waitingFor}`)
    )
  )
  if (outer.aborted) onAbort()
  else outer.addEventListener('abort', onAbort, { once: true })
  try {
    return await steps(server, options, { clock, resolve, progress, signal: controller.signal })
  } catch (error) {
    // What is thrown at what somebody has written is a failure of the step it was written for, not of this program.
    throw TunnelError.from(error, progress.code)
  } finally {
    timer.cancel()
    outer.removeEventListener('abort', onAbort)
  }
}

async function steps(server: ServerAddress, options: ConnectOptions, attempt: Attempt): Promise<Connected> {
  const { tls, headers, websocketOptions = websocketClientOptions, connector = connectDirectly } = options
  const { signal, progress } = attempt
  const connectTarget = connectTargetOf(server)
  const { destination, secured: isSecured } = connectTarget
  const serverName = server.serverName ?? connectTarget.host

  const raw = await connector(connectTarget, attempt)
  progress.code = 'SERVER_UNREACHABLE'
  progress.waitingFor = `${formatHostPort(destination)} (TLS handshake as ${serverName})`
  const upgradeOver = (socket: Socket): Promise<Upgraded> => {
    progress.waitingFor = `${formatHostPort(destination)} (WebSocket upgrade)`
    return owned(socket, socket =>
      upgrade(socket, { url: new URL(server.url), websocketOptions, signal, ...(headers && { headers }) })
    )
  }
  if (!isSecured) return upgradeOver(raw)
  const secured = await owned(raw, raw => secure(raw, { ...tls, serverName, checkServerIdentity, signal }))
  return { ...(await upgradeOver(secured)), secured }
}

const connectDirectly: Connector = ({ destination }, attempt) =>
  openSocket(destination, formatHostPort(destination), 'SERVER_UNREACHABLE', attempt)

/** Resolves a host, anew each time, and connects to it. Rejects with `code`, and a sentence that begins with `name`. */
export async function openSocket(
  { host, port }: Destination,
  name: string,
  code: ErrorCode,
  { resolve, clock, signal, progress }: Attempt
): Promise<Socket> {
  progress.code = code
  progress.waitingFor = name
  try {
    const addresses = isIP(host) ? [host] : await resolve(host, signal)
    const socket = await race({ addresses, port, signal, clock })
    progress.waitingFor = name
    return socket
  } catch (error) {
    if (signal.aborted) throw signal.reason
    const { code: errno, message } = error as NodeJS.ErrnoException
    const why = errno === 'ENOTFOUND' ? `the name ${host} does not exist` : message
    throw new TunnelError(code, `${name}: ${why}`, { cause: error })
  }
}
