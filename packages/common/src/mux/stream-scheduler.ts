/**
 * Whose turn it is to send: round robin in two lanes. Who has little to say speaks before those who have much,
 * so a 64-byte answer never waits behind sixty bulk streams; and for every 64 KiB said in the short lane the
 * long lane gets a turn, so nobody starves. Knows nothing of streams or bytes but their number.
 */

/** At most this much to say: the short lane. A request, an answer, a keystroke. */
export const SHORT_BYTES = 4_096

/** After this much from the short lane, the long lane has a turn. */
export const SHORT_SHARE_BYTES = 65_536

export class StreamScheduler<T> {
  readonly #short = new Set<T>()
  readonly #long = new Set<T>()
  #shortChargedBytes = 0
  #lastWasShort = false

  get size(): number {
    return this.#short.size + this.#long.size
  }

  /** `item` has `bytes` to say. Who is in line already keeps its place. */
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

  /** Takes out who is next; undefined when nobody waits. Say with `charge` how much was then sent. */
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
