/**
 * What arrived on a stream and waits to be read. Its memory is bounded by the stream's credit whatever the peer
 * sends: large chunks are kept by reference, small ones are copied together, so that neither a million one-byte
 * frames nor a few bytes of a large message pin more than four times what they say.
 */

import { Queue } from '../queue.js'

/** A chunk that fills less than this part of the memory it keeps alive is copied out of it. */
const KEPT_PART = 1 / 4

/**
 * Small chunks are copied into memory that they share, which is faster. Node's own pool is 64 KiB from Node 24 on: too
 * much for a byte that stays.
 */
const POOL_BYTES = 8 << 10

/** Chunks below this are not: a byte that stays would keep the pool's 8 KiB. */
const TINY_BYTES = 64

/** Small chunks are gathered in blocks of this size. */
const BLOCK_BYTES = 16 << 10

/** True when keeping `chunk` keeps little else alive: its message, or the socket read that brought it. */
function standsAlone(chunk: Buffer): boolean {
  return chunk.length >= chunk.buffer.byteLength * KEPT_PART
}

/** `chunk`, or a copy that keeps at most 8 KiB alive, and nothing but itself when it is tiny. */
export function alone(chunk: Buffer): Buffer {
  if (standsAlone(chunk)) return chunk
  const copy = allocate(chunk.length)
  chunk.copy(copy)
  return copy
}

let pool = Buffer.allocUnsafeSlow(POOL_BYTES)
let poolUsed = 0

/** As Buffer.allocUnsafe does it, out of a pool whose size is known. */
function allocate(bytes: number): Buffer {
  if (bytes < TINY_BYTES || bytes >= POOL_BYTES / 2) return Buffer.allocUnsafeSlow(bytes)
  if (poolUsed + bytes > POOL_BYTES) {
    pool = Buffer.allocUnsafeSlow(POOL_BYTES)
    poolUsed = 0
  }
  const at = poolUsed
  poolUsed += bytes
  return pool.subarray(at, poolUsed)
}

export class ReceiveQueue {
  readonly #chunks = new Queue<Buffer>()
  /** The block that small chunks are gathered in: the last chunk is a view of its start. */
  #block: Buffer | undefined
  #filled = 0

  get length(): number {
    return this.#chunks.length
  }

  push(chunk: Buffer): void {
    if (chunk.length >= BLOCK_BYTES / 4 && standsAlone(chunk)) {
      this.#seal()
      this.#chunks.push(chunk)
    } else {
      this.#gather(chunk)
    }
  }

  /**
   * The last chunk stays as it is. Few bytes of a block or of the pool get memory of their own, so that only the last
   * chunk of a queue may keep more than four times its size alive: one block, or one pool.
   */
  #seal(): void {
    this.#block = undefined
    const { last } = this.#chunks
    if (!last || standsAlone(last)) return
    const copy = Buffer.allocUnsafeSlow(last.length)
    last.copy(copy)
    this.#chunks.replaceLast(copy)
  }

  #gather(chunk: Buffer): void {
    if (this.#block && this.#filled + chunk.length <= this.#block.length) {
      chunk.copy(this.#block, this.#filled)
      this.#filled += chunk.length
      this.#chunks.replaceLast(this.#block.subarray(0, this.#filled))
      return
    }
    // The first small chunk is copied as it is; a block is made when a second one follows.
    const { last } = this.#chunks
    if (last && this.#block === undefined && last.length + chunk.length <= BLOCK_BYTES / 4) {
      this.#block = Buffer.allocUnsafeSlow(BLOCK_BYTES)
      last.copy(this.#block)
      this.#filled = last.length
      this.#gather(chunk)
      return
    }
    this.#seal()
    this.#chunks.push(alone(chunk))
  }

  shift(): Buffer | undefined {
    const chunk = this.#chunks.shift()
    if (this.#chunks.length === 0) this.clear()
    return chunk
  }

  clear(): void {
    this.#chunks.clear()
    this.#block = undefined
    this.#filled = 0
  }
}
