/**
 * The host and port of a connection, from the URLs and addresses of a configuration. Opens nothing, so that
 * `check-config` uses the same code as an attempt to connect.
 */
import { TunnelError } from '../errors.js'
import { parseHostPort } from '../wire/host-port.js'

export type ServerAddress = {
  /** `wss://name:port`, or `ws://` without TLS (whether that may be is decided by the configuration). */
  url: string
  /** `host:port` to connect to instead of the URL's. The name asked for and checked stays the same. */
  address?: string | undefined
  /** Name to ask for and to check, instead of the URL's host. */
  serverName?: string | undefined
}

/** Host without brackets. */
export type Destination = { host: string; port: number }

/** What a connection to a server has to reach, over a proxy and an upstream proxy or directly. */
export type ConnectTarget = {
  destination: Destination
  /** The host of the server's URL, which may be another than that of the destination. */
  host: string
  /** TLS goes through it. */
  secured: boolean
}

/** What a connection to this server has to reach. Throws `BAD_CONFIG` for an address that cannot be read. */
export function connectTargetOf({
  url: written,
  address
}: Pick<ServerAddress, 'url' | 'address'>): ConnectTarget {
  const url = new URL(written)
  const secured = url.protocol === 'wss:'
  const destination =
    address === undefined ? destinationOf(url, secured ? HTTPS_PORT : HTTP_PORT) : parseAddress(address)
  return { destination, host: hostOf(url), secured }
}

const HTTP_PORT = 80
const HTTPS_PORT = 443

/** The host of a URL without brackets. */
export function hostOf(url: URL): string {
  return url.hostname.replace(/^\[|\]$/g, '')
}

/** The port is that of `https:` and `http:` unless the URL or `defaultPort` names one. */
export function destinationOf(
  url: URL,
  defaultPort = url.protocol === 'https:' ? HTTPS_PORT : HTTP_PORT
): Destination {
  return { host: hostOf(url), port: url.port === '' ? defaultPort : Number(url.port) }
}

function parseAddress(address: string): Destination {
  try {
    return parseHostPort(address)
  } catch (error) {
    throw new TunnelError('BAD_CONFIG', `the server's address ${TunnelError.from(error).detail ?? ''}`, {
      cause: error
    })
  }
}
