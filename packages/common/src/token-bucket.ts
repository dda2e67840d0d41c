/** A limit on how often something happens: so many a second, and after a pause as many at once. Starts full. */
import type { Clock } from './clock.js'

const MS_PER_S = 1_000

export class TokenBucket {
  readonly perSecond: number
  readonly #clock: Clock
  #tokens: number
  #atMs: number

  constructor(perSecond: number, clock: Clock) {
    this.perSecond = perSecond
    this.#clock = clock
    this.#tokens = perSecond
    this.#atMs = clock.now()
  }

  /** False: too soon. */
  take(): boolean {
    const nowMs = this.#clock.now()
    const gained = ((nowMs - this.#atMs) / MS_PER_S) * this.perSecond
    this.#tokens = Math.min(this.perSecond, this.#tokens + gained)
    this.#atMs = nowMs
    if (this.#tokens < 1) return false
    this.#tokens--
    return true
  }
}
