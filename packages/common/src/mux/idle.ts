/** Waiting for sessions to have nothing left to do: the middle part of every drain. */
import type { Clock } from '../clock.js'
import type { Session } from './session.js'

/** Resolves when the last stream of all `sessions` has ended, or after `timeoutMs`, whichever comes first. */
export function allIdle(sessions: readonly Session[], clock: Clock, timeoutMs: number): Promise<void> {
  return new Promise(resolve => {
    const look = (): void => {
      if (sessions.every(({ state, streamCount }) => state === 'closed' || streamCount === 0)) done()
    }
    const done = (): void => {
      timer.cancel()
      for (const session of sessions) session.off('idle', look).off('close', look)
      resolve()
    }
    const timer = clock.after(timeoutMs, done, { ref: true })
    for (const session of sessions) session.on('idle', look).on('close', look)
    look()
  })
}
