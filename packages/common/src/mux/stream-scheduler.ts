/**
 * Selects the stream that sends next: round robin in two lanes. A stream with little to send comes before those with
 * much, so that an answer of 64 bytes never waits behind sixty bulk streams. After every 64 KiB of the short lane the
 * long lane sends once, so that no stream is starved. It only knows numbers of bytes, not streams.
 */

/** A stream with at most this much to send is in the short lane: a request, an answer, a keystroke. In bytes. */
export const SHORT_BYTES = 4_096

/** After this much from the short lane, in bytes, the long lane sends once. */
export const SHORT_SHARE_BYTES = 65_536

export class StreamScheduler<T> {
  readonly #short = new Set<T>()
  readonly #long = new Set<T>()
  #shortChargedBytes = 0
  #lastWasShort = false

  get size(): number {
    return this.#short.size + this.#long.size
  }

  /** `item` has `bytes` to send. An item that waits already keeps its place. */
  add(item: T, bytes: number): void {
    if (this.#short.has(item) || this.#long.has(item)) return
    if (bytes <= SHORT_BYTES) this.#short.add(item)
    else this.#long.add(item)
  }

  delete(item: T): void {
    this.#short.delete(item)
    this.#long.delete(item)
  }

  clear(): void {
    this.#short.clear()
    this.#long.clear()
  }

  /** Removes and returns the next item, undefined if none waits. Call `charge` with the bytes that were then sent. */
  next(): T | undefined {
    this.#lastWasShort =
      this.#short.size > 0 && (this.#long.size === 0 || this.#shortChargedBytes < SHORT_SHARE_BYTES)
    const lane = this.#lastWasShort ? this.#short : this.#long
    for (const item of lane) {
      lane.delete(item)
      return item
    }
    return undefined
  }

  charge(bytes: number): void {
    this.#shortChargedBytes = this.#lastWasShort ? this.#shortChargedBytes + bytes : 0
  }
}
