/**
 * Which side may open which streams of a session (docs/protocol.md §5). The side that opens streams in version 1.0 uses
 * odd numbers; the other one uses even numbers, and only when TWO_WAY is in force. In each direction a number is larger
 * than all before it. A peer of version 1.0 uses odd and even numbers, which is no conflict: this side then opens
 * nothing.
 */
import { TunnelError } from '../errors.js'

export type Parity = 'odd' | 'even'

export class StreamNumbers {
  readonly #parity: Parity
  readonly #limit: number
  #next: number
  #lastPeer = 0
  /** TWO_WAY is in force. */
  twoWay = false

  /** `parity` of the numbers that this side opens, `limit`: the largest that it uses. */
  constructor(parity: Parity, limit: number) {
    this.#parity = parity
    this.#limit = limit
    this.#next = parity === 'odd' ? 1 : 2
  }

  /** Whether this side may open streams at all. */
  get mayOpen(): boolean {
    return this.#parity === 'odd' || this.twoWay
  }

  /** What the next stream of this side will be called. */
  get next(): number {
    return this.#next
  }

  get isUsedUp(): boolean {
    return this.#next > this.#limit
  }

  /** This side opens the stream `next`. */
  take(): number {
    const id = this.#next
    this.#next += 2
    return id
  }

  /** The peer opens a stream. @throws TunnelError PROTOCOL_ERROR when it may not, or not with this number. */
  openedByPeer(id: number): void {
    if (this.#parity === 'odd' && !this.twoWay) throw broken('OPEN from the side that opens nothing')
    if (id <= this.#lastPeer) throw broken(`stream ${id} opened twice or out of order`)
    if (this.#isOwn(id))
      throw broken(`stream ${id} opened by the wrong side, its own are ${this.#peerParity}`)
    this.#lastPeer = id
  }

  /** Whether this side ever opened the stream: an answer to it may be late, but is not out of place. */
  wasOpenedHere(id: number): boolean {
    return this.#isOwn(id) && id < this.#next
  }

  /** Whether either side ever opened the stream, as far as numbers tell. */
  wasOpened(id: number): boolean {
    return this.#isOwn(id) ? id < this.#next : id > 0 && id <= this.#lastPeer
  }

  /** The peer's numbers when TWO_WAY is in force. */
  get #peerParity(): Parity {
    return this.#parity === 'odd' ? 'even' : 'odd'
  }

  #isOwn(id: number): boolean {
    return this.mayOpen && id % 2 === (this.#parity === 'odd' ? 1 : 0) && id > 0
  }
}

function broken(rule: string): TunnelError {
  return new TunnelError('PROTOCOL_ERROR', rule)
}
