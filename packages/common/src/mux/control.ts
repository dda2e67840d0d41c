/**
 * Control frames that wait to be sent, in the order in which they were queued. A peer can cause most of them, so the
 * memory they keep must be what is counted: frames are copied into blocks. A frame of 12 bytes kept by itself would
 * keep 100 bytes for the object and up to 64 KiB of the pool that it was allocated from.
 */
import { Queue } from '../queue.js'

/** A block holds whole frames; the largest one, OPEN, has 531 bytes. */
const BLOCK_BYTES = 2_048

const NOTHING: readonly Buffer[] = []

export class ControlQueue {
  /** Blocks that are full, as far as they are filled. */
  readonly #blocks = new Queue<Buffer>()
  /** The block that is being filled. It is used again after it was sent, so that single frames allocate nothing. */
  #block: Buffer | undefined
  #filled = 0
  #bytes = 0

  /** Bytes of frames that wait. Their memory is at most a third more, and one block. */
  get bytes(): number {
    return this.#bytes
  }

  /** Copies `frame`. */
  push(frame: Buffer): void {
    if (this.#filled + frame.length > (this.#block?.length ?? 0)) {
      if (this.#block && this.#filled > 0) this.#blocks.push(this.#block.subarray(0, this.#filled))
      this.#block = Buffer.allocUnsafeSlow(Math.max(BLOCK_BYTES, frame.length))
      this.#filled = 0
    }
    this.#filled += frame.copy(this.#block as Buffer, this.#filled)
    this.#bytes += frame.length
  }

  /**
   * Takes out the oldest whole frames, about `bytes` of them: at most one block more. To be copied before the next
   * push.
   */
  take(bytes: number): readonly Buffer[] {
    // Most messages of a bulk transfer carry none.
    if (this.#bytes === 0) return NOTHING
    const parts: Buffer[] = []
    let taken = 0
    while (taken < bytes && taken < this.#bytes) {
      let part = this.#blocks.shift()
      if (!part) {
        part = (this.#block as Buffer).subarray(0, this.#filled)
        this.#filled = 0
      }
      parts.push(part)
      taken += part.length
    }
    this.#bytes -= taken
    return parts
  }

  clear(): void {
    this.#blocks.clear()
    this.#block = undefined
    this.#filled = 0
    this.#bytes = 0
  }
}
