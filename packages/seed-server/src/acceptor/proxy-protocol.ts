/**
 * Reads the header that a load balancer puts before a connection to say where it came from. Pure: bytes in,
 * source out. Rules: HAProxy's "The PROXY protocol", versions 1 and 2, 2020/03/05. Whoever can reach the port can
 * write such a header: it is for logs, never for access.
 */
import { isIPv4, isIPv6 } from 'node:net'
import { TunnelError } from '@tendril/common'

export type ProxyHeader = {
  /** Where the connection came from; undefined when the balancer did not say (UNKNOWN, LOCAL health checks). */
  source: { host: string; port: number } | undefined
  /** How long the header is: what follows is the connection's. */
  bytes: number
}

/** Section 2.1: the longest version 1 line, its CR LF included. */
export const V1_LIMIT_BYTES = 107

/**
 * Longest version 2 header, extensions included. Section 2 speaks of 536 bytes, which any first segment carries, but
 * HAProxy and Envoy send what their TLVs need: certificates' names, tracing, endpoints of clouds.
 */
export const PROXY_HEADER_LIMIT_BYTES = 4_096

const V1_START = Buffer.from('PROXY ', 'latin1')
const V2_START = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')
const V2_FIXED_BYTES = 16

const PORT = /^(0|[1-9][0-9]{0,4})$/

/** Version 2, byte 13: family in the high half, transport in the low. Only streams reach a TCP listener. */
const TCP_OVER_IPV4 = 0x11
const TCP_OVER_IPV6 = 0x21
const UNSPECIFIED = 0x00
const UNIX_STREAM = 0x31

/**
 * Looks at everything received so far. `limitBytes`: of a version 2 header.
 * @returns the header, or undefined when more bytes are needed.
 * @throws TunnelError BAD_REQUEST naming the rule, as soon as the bytes cannot become a header.
 */
export function parseProxyHeader(
  received: Buffer,
  limitBytes = PROXY_HEADER_LIMIT_BYTES
): ProxyHeader | undefined {
  if (startsLike(received, V1_START)) return parseV1(received)
  if (startsLike(received, V2_START)) return parseV2(received, limitBytes)
  throw bad('the connection does not begin with one')
}

/** Whether `bytes` begin with `start`, or could when more come. */
function startsLike(bytes: Buffer, start: Buffer): boolean {
  const length = Math.min(bytes.length, start.length)
  return bytes.subarray(0, length).equals(start.subarray(0, length))
}

function parseV1(received: Buffer): ProxyHeader | undefined {
  const end = received.subarray(0, V1_LIMIT_BYTES).indexOf('\r\n')
  if (end === -1) {
    if (received.length >= V1_LIMIT_BYTES) throw bad(`a version 1 line has at most ${V1_LIMIT_BYTES} bytes`)
    return undefined
  }
  const bytes = end + 2
  const line = received.toString('latin1', 0, end)
  const [, family, source = '', destination = '', sourcePort = '', destinationPort = '', ...rest] =
    line.split(' ')
  // Section 2.1: whatever follows UNKNOWN is ignored.
  if (family === 'UNKNOWN') return { source: undefined, bytes }

  if (family !== 'TCP4' && family !== 'TCP6') throw bad('the family is TCP4, TCP6 or UNKNOWN')
  const isAddress = family === 'TCP4' ? isIPv4 : isIPv6
  if (!isAddress(source) || !isAddress(destination)) throw bad(`the addresses are not ${family}`)
  if (!isPort(sourcePort) || !isPort(destinationPort)) throw bad('the ports are 0 to 65535')
  if (rest.length > 0) throw bad('the line goes on behind the ports')
  return { source: { host: source, port: Number(sourcePort) }, bytes }
}

function isPort(text: string): boolean {
  return PORT.test(text) && Number(text) <= 65_535
}

function parseV2(received: Buffer, limitBytes: number): ProxyHeader | undefined {
  if (received.length < V2_FIXED_BYTES) return undefined
  const command = received[12]!
  const family = received[13]!
  const length = received.readUInt16BE(14)
  const bytes = V2_FIXED_BYTES + length
  if (command >> 4 !== 2) throw bad(`version ${command >> 4} is not known`)
  if (bytes > limitBytes)
    throw bad(`a version 2 header has at most ${limitBytes} bytes (tunnel.proxyHeaderLimit), not ${bytes}`)
  const isLocal = (command & 0xf) === 0
  if (!isLocal && (command & 0xf) !== 1) throw bad('the command is LOCAL or PROXY')
  if (received.length < bytes) return undefined
  // Section 2.2: a LOCAL connection is the balancer's own, whatever else the header says.
  if (isLocal || family === UNSPECIFIED || family === UNIX_STREAM) return { source: undefined, bytes }

  const addressBytes = family === TCP_OVER_IPV4 ? 4 : family === TCP_OVER_IPV6 ? 16 : undefined
  if (addressBytes === undefined) throw bad('the family is not a stream over IPv4 or IPv6')
  const portsAt = V2_FIXED_BYTES + 2 * addressBytes
  if (bytes < portsAt + 4) throw bad('the addresses are cut off')
  const address = received.subarray(V2_FIXED_BYTES, V2_FIXED_BYTES + addressBytes)
  return { source: { host: formatAddress(address), port: received.readUInt16BE(portsAt) }, bytes }
}

function formatAddress(address: Buffer): string {
  if (address.length === 4) return address.join('.')
  const groups = Array.from({ length: 8 }, (_, index) => address.readUInt16BE(index * 2).toString(16))
  // The URL parser knows RFC 5952: lower case, the longest run of zeros as `::`.
  return new URL(`http://[${groups.join(':')}]`).hostname.slice(1, -1)
}

function bad(rule: string): TunnelError {
  return new TunnelError('BAD_REQUEST', `PROXY protocol: ${rule}`)
}
