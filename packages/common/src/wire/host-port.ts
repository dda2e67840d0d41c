/**
 * The `host:port` of a CONNECT request or an OPEN frame, as text and as two fields. Pure; decides what is well
 * formed, not who may be reached (policy) nor whether a name exists (resolver). The grammar is RFC 9112 §3.2.3
 * with the port made mandatory (RFC 9110 §9.3.6), cut down to the forms that have exactly one reading.
 */
import { isIPv4, isIPv6 } from 'node:net'
import { TunnelError } from '../errors.js'

/** `host` carries no brackets; `port` is 1 to 65535. */
export type HostPort = { host: string; port: number }

/** Longest host accepted, in characters: one more than any DNS name, so that a full name with its dot passes. */
export const HOST_LIMIT = 255

/** Letters, digits, hyphen, underscore (service names have them) in non-empty labels, a final dot allowed. */
const NAME = /^[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?$/i
const PORT = /^[1-9][0-9]{0,4}$/
/** `127.1`, `0x7f000001`, `2130706433`, `010.0.0.1`: C libraries read these as addresses, and not all alike. */
const ENDS_IN_NUMBER = /(^|\.)(0x[0-9a-f]*|[0-9]+)\.?$/i
const QUOTE_LIMIT = 80

/**
 * Reads `10.0.0.5:10250`, `[2001:db8::5]:10250` or `name:port`. The host is kept as it was written (an
 * IPv4-mapped address stays mapped), without brackets.
 * @throws TunnelError BAD_TARGET for everything else: no port, zone id, user info, non-canonical IPv4, …
 */
export function parseHostPort(text: string): HostPort {
  const colon = text.lastIndexOf(':')
  if (text.startsWith('[') ? text[colon - 1] !== ']' : colon === -1) {
    throw bad(text, 'has no port, write host:port')
  }
  return { host: parseHost(text.slice(0, colon), text), port: parsePort(text.slice(colon + 1), text) }
}

/** The reverse: puts IPv6 addresses in brackets. */
export function formatHostPort({ host, port }: HostPort): string {
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`
}

function parsePort(port: string, text: string): number {
  if (!PORT.test(port) || Number(port) > 65_535) throw bad(text, 'needs a port from 1 to 65535')
  return Number(port)
}

function parseHost(written: string, text: string): string {
  if (written.startsWith('[')) {
    const address = written.slice(1, -1)
    // RFC 6874 zone ids name an interface of the machine that reads them: never meaningful to a far client.
    if (address.includes('%')) throw bad(text, 'has a zone id, which means nothing in another network')
    if (!isIPv6(address)) throw bad(text, 'has no IPv6 address between the brackets')
    return address
  }
  if (written === '') throw bad(text, 'has no host')
  if (written.length > HOST_LIMIT) throw bad(text, `has a host longer than ${HOST_LIMIT} characters`)
  if (written.includes('@')) throw bad(text, 'has user information before the host')
  if (written.includes(':')) throw bad(text, 'is ambiguous, write IPv6 addresses in brackets: [address]:port')
  if (!NAME.test(written)) throw bad(text, 'is neither an IP address nor a host name')
  if (ENDS_IN_NUMBER.test(written) && !isIPv4(written)) {
    throw bad(text, 'is not a plain IPv4 address, write four decimal numbers without leading zeros')
  }
  return written
}

function bad(text: string, why: string): TunnelError {
  const shown = text.length > QUOTE_LIMIT ? `${text.slice(0, QUOTE_LIMIT)}…` : text
  return new TunnelError('BAD_TARGET', `${JSON.stringify(shown)} ${why}`)
}
