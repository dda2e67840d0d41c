/**
 * A Resolve that remembers the addresses of our own servers: when nameservers are silent or say that they cannot say,
 * the last known addresses are used, so that a link comes back while DNS does not. Not for targets, whose addresses
 * belong to others and are judged by the policy at each dial.
 */
import type { Clock } from './clock.js'
import type { Resolve } from './resolve.js'

/** How long nameservers may take before the last known addresses are used, in milliseconds. */
export const REMEMBER_AFTER_MS = 300
/** Most names that are remembered; servers and peers of a configuration are fewer. */
export const REMEMBERED_NAMES = 256

export type RememberOptions = {
  clock: Clock
  /** The last known addresses of `name` are used, because of `reason`. Once for each question to the nameservers. */
  onRemembered?: (name: string, reason: string) => void
}

/** A question to the nameservers that goes on when nobody waits for it any more: its answer is for the next attempt. */
type Question = {
  answer: Promise<string[]>
  /** `onRemembered` was called because of it. */
  reported: boolean
}

/** A name that does not exist is an answer: it is forgotten. Rejects as `resolve` does. */
export function remembering(resolve: Resolve, { clock, onRemembered }: RememberOptions): Resolve {
  const known = new Map<string, string[]>()
  /** By name. */
  const goingOn = new Map<string, Question>()

  async function ask(name: string, signal: AbortSignal): Promise<string[]> {
    try {
      const addresses = await resolve(name, signal)
      known.delete(name)
      if (known.size >= REMEMBERED_NAMES) known.delete([...known.keys()][0] ?? '')
      if (addresses.length > 0) known.set(name, addresses)
      return addresses
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOTFOUND') known.delete(name)
      throw error
    }
  }

  function askOn(name: string): Question {
    const running = goingOn.get(name)
    if (running) return running
    const answer = ask(name, new AbortController().signal).finally(() => goingOn.delete(name))
    const question = { answer, reported: false }
    goingOn.set(name, question)
    answer.catch(() => {})
    return question
  }

  return (name, signal) => {
    const before = known.get(name)
    if (!before) return ask(name, signal)
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason)
      const leave = (): void => {
        timer.cancel()
        signal.removeEventListener('abort', onAbort)
      }
      const onAbort = (): void => (leave(), reject(signal.reason))
      const remember = (reason: string): void => {
        leave()
        // One silent nameserver is first too slow and then fails, and many attempts may wait for it.
        if (!question.reported) onRemembered?.(name, reason)
        question.reported = true
        resolve(before)
      }
      const question = askOn(name)
      const timer = clock.after(REMEMBER_AFTER_MS, () =>
        remember(`no nameserver answered within ${REMEMBER_AFTER_MS} ms`)
      )
      signal.addEventListener('abort', onAbort, { once: true })
      question.answer.then(
        addresses => (leave(), resolve(addresses)),
        (reason: unknown) => {
          const error = reason as NodeJS.ErrnoException
          if (error.code === 'ENOTFOUND') return void (leave(), reject(error))
          if (!signal.aborted) remember(error.message)
        }
      )
    })
  }
}
