/**
 * How long to wait before the next attempt: full jitter, so that a thousand clients of one server that went away do
 * not come back in step. Knows no timers. Rule: delay = random in [0, min(cap, base * 2^n)), after "Exponential
 * Backoff And Jitter" (AWS Architecture Blog, 2015).
 */
export type BackoffOptions = {
  /** Ceiling of the first delay that is not zero, in milliseconds. Default 500. */
  baseMs?: number
  /** Ceiling of every delay, in milliseconds. Default 30 000. */
  capMs?: number
  /**
   * A connection counts as good after this long, in milliseconds; only then do the delays start over. Default 10 000.
   */
  provenMs?: number
  /** A number in [0, 1). Default Math.random. */
  random?: () => number
}

export interface Backoff {
  /** Failures in a row: 0 after a connection that proved itself. */
  readonly failures: number
  /** Whether a connection that lived for `livedMs` counts as good. */
  isProven(livedMs: number): boolean
  /** After an attempt whose connection lived for `livedMs` (0: never came up). The first answer is 0: retry at once. */
  delayAfter(livedMs: number): number
  /** The wait after a failure that needs a change to recover from: between one and two caps, never 0. */
  slowDelay(): number
}

export const BACKOFF_BASE_MS = 500
export const BACKOFF_CAP_MS = 30_000
export const BACKOFF_PROVEN_MS = 10_000

export function createBackoff({
  baseMs = BACKOFF_BASE_MS,
  capMs = BACKOFF_CAP_MS,
  provenMs = BACKOFF_PROVEN_MS,
  random = Math.random
}: BackoffOptions = {}): Backoff {
  let failures = 0
  return {
    get failures() {
      return failures
    },
    isProven: livedMs => livedMs >= provenMs,
    delayAfter(livedMs) {
      if (livedMs >= provenMs) failures = 0
      failures++
      if (failures === 1) return 0
      // 2 ** 1024 would be Infinity, which min() takes in its stride.
      return Math.floor(random() * Math.min(capMs, baseMs * 2 ** (failures - 2)))
    },
    slowDelay() {
      failures++
      return Math.floor(capMs * (1 + random()))
    }
  }
}
