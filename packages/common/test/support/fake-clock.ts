/** A clock whose hands a test turns itself. */
import type { Clock, Timer } from '../../src/clock.js'

export class FakeClock implements Clock {
  #nowMs = 1_000
  readonly #timers = new Set<{ atMs: number; callback: () => void }>()

  now(): number {
    return this.#nowMs
  }

  /** Timers that neither ran nor were cancelled. */
  get pending(): number {
    return this.#timers.size
  }

  /** When the next timer is due; Infinity when there is none. */
  get nextMs(): number {
    let next = Infinity
    for (const { atMs } of this.#timers) next = Math.min(next, atMs)
    return next
  }

  after(ms: number, callback: () => void): Timer {
    const timer = { atMs: this.#nowMs + ms, callback }
    this.#timers.add(timer)
    return { cancel: () => void this.#timers.delete(timer) }
  }

  /** Goes on by `ms` and runs what is due, in order. */
  tick(ms: number): void {
    const untilMs = this.#nowMs + ms
    for (;;) {
      const [next] = [...this.#timers].filter(({ atMs }) => atMs <= untilMs).sort((a, b) => a.atMs - b.atMs)
      if (!next) break
      this.#timers.delete(next)
      this.#nowMs = Math.max(this.#nowMs, next.atMs)
      next.callback()
    }
    this.#nowMs = untilMs
  }

  /** Goes on by `ms` at once: timers that were due meanwhile run late, as when the process stood still. */
  jump(ms: number): void {
    this.#nowMs += ms
    this.tick(0)
  }
}
