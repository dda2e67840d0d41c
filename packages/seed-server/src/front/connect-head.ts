/**
 * Reads the head of a CONNECT request: bytes in, one target out. Pure: no socket, no timer, no writing. Strict
 * on purpose (RFC 9112): whatever has two readings is refused, because the two ends of a tunnel must agree on
 * its first byte.
 */
import { type Target, TunnelError } from '@tendril/common'
import { parseHostPort } from '@tendril/common/wire/host-port'

export type ConnectHead = {
  target: Target
  /** How many header fields came along. None of them means anything here: kube-apiserver sends `Host: 127.0.0.1`. */
  headers: number
  /** What followed the head in the same read: the first bytes for the target. */
  rest: Buffer
}

/** Most bytes of request line and header fields together, blank line included. */
export const HEADER_LIMIT_BYTES = 8_192

const CR = 0x0d
const LF = 0x0a
const TAB = 0x09
const SPACE = 0x20
const DEL = 0x7f
const TLS_HANDSHAKE = 0x16
const NOTHING = Buffer.alloc(0)

/** RFC 9112 §3: three parts, one space between them. */
const REQUEST_LINE = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP\/([0-9])\.([0-9])$/
/** RFC 9110 §5.1; no space before the colon (RFC 9112 §5.1). */
const FIELD_NAME = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):/

/**
 * One request head. Call `feed` with every chunk until it returns the head; then throw the object away.
 * Errors are found as early as the bytes allow: a wrong method is refused at the end of its line, a TLS
 * ClientHello at its first byte.
 */
export class ConnectParser {
  readonly #limitBytes: number
  /** The line being read, when it did not come in one piece. */
  #partial = NOTHING
  #headBytes = 0
  #headers = 0
  #hosts = 0
  #target: Target | undefined

  constructor(limitBytes = HEADER_LIMIT_BYTES) {
    this.#limitBytes = limitBytes
  }

  /**
   * @returns the head, or undefined when more bytes are needed.
   * @throws TunnelError BAD_REQUEST, NOT_CONNECT, BAD_TARGET or HEADER_TOO_LARGE.
   */
  feed(chunk: Buffer): ConnectHead | undefined {
    let at = 0
    while (at < chunk.length) {
      const lf = chunk.indexOf(LF, at)
      const end = lf === -1 ? chunk.length : lf + 1
      const piece = chunk.subarray(at, end)
      if (this.#headBytes + this.#partial.length + piece.length > this.#limitBytes)
        throw tooLarge(this.#limitBytes)
      checkBytes(piece, this.#headBytes + this.#partial.length === 0)

      if (lf === -1) {
        // A copy: a view would keep the whole read alive while the rest trickles in.
        this.#partial = Buffer.concat([this.#partial, piece])
        return undefined
      }
      const line = this.#partial.length === 0 ? piece : Buffer.concat([this.#partial, piece])
      at = end
      this.#partial = NOTHING
      this.#headBytes += line.length
      const target = this.#line(line)
      if (target) return { target, headers: this.#headers, rest: chunk.subarray(at) }
    }
    return undefined
  }

  /** One whole line with its end; the target when it was the last. */
  #line(line: Buffer): Target | undefined {
    // RFC 9112 §2.2 allows a bare LF to be taken for a line end. Proxies disagree on it, so it is not.
    if (line[line.length - 2] !== CR)
      throw new TunnelError('BAD_REQUEST', 'lines end in CR LF, not in LF alone')
    const text = line.toString('latin1', 0, line.length - 2)
    if (text.includes('\r')) throw new TunnelError('BAD_REQUEST', 'a CR stands alone inside a line')

    if (!this.#target) {
      // RFC 9112 §2.2: an empty line before the request line is skipped. One is enough.
      if (text !== '' || this.#headBytes > 2) this.#target = parseRequestLine(text)
      return undefined
    }
    if (text === '') return this.#target
    this.#headers++
    // RFC 9112 §3.2: who names two hosts may be read in two ways.
    if (/^host:/i.test(text) && this.#hosts++ > 0)
      throw new TunnelError('BAD_REQUEST', 'there are two Host lines')
    checkField(text)
    return undefined
  }
}

function parseRequestLine(line: string): Target {
  const parts = REQUEST_LINE.exec(line)
  if (!parts) throw new TunnelError('BAD_REQUEST', 'the request line is not "CONNECT host:port HTTP/1.1"')
  const [, method, authority, major] = parts as unknown as [string, string, string, string]
  if (major !== '1') throw new TunnelError('BAD_REQUEST', `HTTP/${major} is not spoken here, use HTTP/1.1`)
  if (method !== 'CONNECT') throw new TunnelError('NOT_CONNECT', `not ${method.slice(0, 32)}`)
  // RFC 9112 §3.2.3: authority-form, where a URL is what other methods ask a proxy for (§3.2.2).
  if (authority.includes('://'))
    throw new TunnelError('BAD_TARGET', 'CONNECT asks for host:port, not for a URL')
  return { proto: 'tcp', ...parseHostPort(authority) }
}

function checkField(line: string): void {
  // RFC 9112 §5.2: obsolete line folding is refused.
  if (line[0] === ' ' || line[0] === '\t')
    throw new TunnelError('BAD_REQUEST', 'a header line begins with a space')
  const name = FIELD_NAME.exec(line)?.[1]
  if (name === undefined) throw new TunnelError('BAD_REQUEST', 'a header line is not "name: value"')

  // RFC 9110 §9.3.6: a CONNECT has no content. A caller who announces some believes that the next bytes are a
  // body while the target would read them as its first: refused. `Content-Length: 0`, which some send, is true.
  const lowered = name.toLowerCase()
  if (
    lowered === 'transfer-encoding' ||
    (lowered === 'content-length' && !/^0+$/.test(line.slice(name.length + 1).trim()))
  ) {
    throw new TunnelError('BAD_REQUEST', `a CONNECT has no content, but ${lowered} announces some`)
  }
}

/** Control characters never belong in a head; refusing them at once spares random bytes the header timeout. */
function checkBytes(bytes: Buffer, first: boolean): void {
  if (first && bytes[0] === TLS_HANDSHAKE) {
    throw new TunnelError('BAD_REQUEST', 'this looks like TLS, but this front is plain')
  }
  for (const byte of bytes) {
    if ((byte < SPACE && byte !== TAB && byte !== CR && byte !== LF) || byte === DEL) {
      throw new TunnelError('BAD_REQUEST', 'the request holds control characters')
    }
  }
}

function tooLarge(limitBytes: number): TunnelError {
  return new TunnelError('HEADER_TOO_LARGE', `at most ${limitBytes} bytes are accepted`)
}
