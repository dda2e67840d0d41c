/**
 * First in, first out, both ends in O(1) however much waits: `Array.shift` moves everything behind the first item,
 * which stops the event loop for seconds once a peer has made a few hundred thousand of them wait. It knows nothing of
 * its items.
 */

/** Places of items that were taken and are not worth moving the others for. */
const GAP = 64

export class Queue<T> {
  #items: (T | undefined)[] = []
  #head = 0

  get length(): number {
    return this.#items.length - this.#head
  }

  /** The item that came last; undefined when nothing waits. */
  get last(): T | undefined {
    return this.length > 0 ? this.#items[this.#items.length - 1] : undefined
  }

  push(item: T): void {
    this.#items.push(item)
  }

  /** Takes out the item that came first; undefined when nothing waits. The queue does not keep it alive. */
  shift(): T | undefined {
    if (this.length === 0) return undefined
    const item = this.#items[this.#head]
    this.#items[this.#head++] = undefined
    if (this.length === 0) this.clear()
    else if (this.#head > GAP && this.#head * 2 > this.#items.length) {
      // Moves fewer items than were taken since the last time.
      this.#items.splice(0, this.#head)
      this.#head = 0
    }
    return item
  }

  /** Puts `item` in the place of the one that came last. */
  replaceLast(item: T): void {
    if (this.length > 0) this.#items[this.#items.length - 1] = item
  }

  clear(): void {
    this.#items = []
    this.#head = 0
  }
}
