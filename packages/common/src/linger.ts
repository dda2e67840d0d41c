/**
 * The time limit of pending data: data that was received before a connection broke waits for its reader, but not for a
 * reader that has stopped reading.
 */
import type { Clock, Timer } from './clock.js'

/**
 * A reader that takes nothing for so long has stopped, in milliseconds. Longer than a link may be down, when nothing
 * can be read.
 */
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
