/**
 * The bound on last words: what was said before a connection broke waits for its reader, but not for one that has
 * stopped reading.
 */
import type { Clock, Timer } from './clock.js'

/** A reader who takes nothing for so long has stopped, in milliseconds. Longer than a link may be down: then nothing moves. */
export const UNREAD_TIMEOUT_MS = 300_000

/** Calls `giveUp` when `left` has been the same for `timeoutMs`; that is looked at once per `timeoutMs`. */
export function whileMoving(clock: Clock, timeoutMs: number, left: () => number, giveUp: () => void): Timer {
  let before = left()
  const look = (): void => {
    const now = left()
    if (now === before) return giveUp()
    before = now
    timer = clock.after(timeoutMs, look)
  }
  let timer = clock.after(timeoutMs, look)
  return { cancel: () => timer.cancel() }
}
