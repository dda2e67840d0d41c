/**
 * Reads what a proxy answers to CONNECT: bytes in, the final status line out. Pure: no socket, no timer. Generous on
 * purpose: only that status line and the end of its header decide, so no field, however it is written, is looked at.
 *
 * - Interim answers (1xx) come before the final one and are skipped: RFC 9110 section 15.2.
 * - Content-Length and Transfer-Encoding mean nothing in a 2xx to CONNECT: RFC 9110 section 9.3.6.
 * - Lines may end in LF alone, and empty lines may come before a status line: RFC 9112 section 2.2.
 * - A line that begins with a blank goes on with the one before, even when nothing else is in it: RFC 9112 section 5.2.
 */
export type ConnectAnswer = {
  status: number
  /** The sentence behind the status; may be empty. */
  reason: string
  /** What came behind the header: the first bytes of the tunnel. */
  rest: Buffer
}

/** `overflow`: more header than the limit. `garbage`: not HTTP/1. */
export class AnswerError extends Error {
  override readonly name = 'AnswerError'
  readonly kind: 'overflow' | 'garbage'

  constructor(kind: 'overflow' | 'garbage') {
    super(kind)
    this.kind = kind
  }
}

const LF = 0x0a
const NOTHING = Buffer.alloc(0)
const STATUS_LINE = /^HTTP\/1\.[0-9] +([1-9][0-9]{2})(?:[ \t]+(.*))?$/
const BEGINNING = 'HTTP/1.'

export class ConnectAnswerParser {
  readonly #limitBytes: number
  #partial = NOTHING
  #headBytes = 0
  #status: Omit<ConnectAnswer, 'rest'> | undefined

  /** `limitBytes`: of the header, with everything before it. */
  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes
  }

  /**
   * Call with every chunk until it returns the answer.
   * @returns undefined when more bytes are needed.
   * @throws AnswerError as soon as the bytes cannot become an answer.
   */
  feed(chunk: Buffer): ConnectAnswer | undefined {
    let at = 0
    while (at < chunk.length) {
      const lf = chunk.indexOf(LF, at)
      const end = lf === -1 ? chunk.length : lf + 1
      const piece = chunk.subarray(at, end)
      this.#headBytes += piece.length
      if (this.#headBytes > this.#limitBytes) throw new AnswerError('overflow')
      const line = this.#partial.length === 0 ? piece : Buffer.concat([this.#partial, piece])
      at = end
      if (lf === -1) {
        this.#partial = Buffer.from(line)
        this.#check(line)
        return undefined
      }
      this.#partial = NOTHING
      const answer = this.#line(line.toString('latin1').replace(/\r?\n$/, ''))
      if (answer) return { ...answer, rest: chunk.subarray(at) }
    }
    return undefined
  }

  /** What begins like nothing in HTTP will not become it: SSH and mail servers speak first, and then wait. */
  #check(partial: Buffer): void {
    const text = partial.toString('latin1', 0, BEGINNING.length)
    if (!this.#status && text !== '\r' && !BEGINNING.startsWith(text)) throw new AnswerError('garbage')
  }

  /** The status when the line was the empty one that ends a final answer. */
  #line(line: string): Omit<ConnectAnswer, 'rest'> | undefined {
    if (!this.#status) {
      if (line === '') return undefined
      const [, status, reason = ''] = STATUS_LINE.exec(line) ?? []
      if (status === undefined) throw new AnswerError('garbage')
      this.#status = { status: Number(status), reason: reason.trim() }
      return undefined
    }
    if (line !== '') return undefined
    const answer = this.#status
    this.#status = undefined
    // 101 is no interim answer: it would end HTTP here, and nobody has asked for that.
    return answer.status >= 200 || answer.status === 101 ? answer : undefined
  }
}
