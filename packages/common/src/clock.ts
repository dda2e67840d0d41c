/**
 * The one source of time and timers. Code takes a `Clock` so that tests set the time and never sleep. Time is
 * monotonic: a wall clock that jumps an hour changes nothing here.
 */
export type Timer = { cancel(): void }

export interface Clock {
  /** Milliseconds since an arbitrary start; never goes back. */
  now(): number
  /** Calls `callback` once after `ms`. The timer keeps the process alive only when `ref` is true (default false). */
  after(ms: number, callback: () => void, options?: { ref?: boolean }): Timer
}

export const systemClock: Clock = {
  now: () => performance.now(),
  after(ms, callback, { ref = false } = {}) {
    const handle = setTimeout(callback, ms)
    if (!ref) handle.unref()
    return { cancel: () => clearTimeout(handle) }
  }
}
