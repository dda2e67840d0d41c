/**
 * Bounds the log lines that peers can cause: of each cause a few are written at once, then one per minute, which tells
 * how many were left out. Those left out are written at `debug`. A cause is what is said (a constant), with which code
 * of the table of errors, of which cluster of the configuration: nothing that a peer chooses.
 */
import { type Clock, systemClock } from './clock.js'
import type { Log } from './log.js'

/** Lines of one cause that are written at once, and how long until one more may be, in milliseconds. */
export const REFUSAL_LINES = { burst: 5, everyMs: 60_000 }

/** The same for events of verified peers: connect, resume, leave. */
export const CLIENT_LINES = { burst: 200, everyMs: 1_000 }

/** Causes kept apart. Beyond them all others are one. */
export const CAUSE_LIMIT = 4_096

type Fields = { code?: unknown; err?: unknown; cluster?: unknown } & Record<string, unknown>
type Write = (fields: Fields, message: string) => void
/** What is written through it is limited. */
export type LimitedLog = { readonly info: Write; readonly warn: Write }

/** A token bucket, and what it refused since the last line. */
type Cause = { tokens: number; atMs: number; suppressed: number }

export class LogLimiter {
  readonly #burst: number
  readonly #everyMs: number
  readonly #clock: Clock
  readonly #causes = new Map<string, Cause>()

  constructor({ burst, everyMs, clock = systemClock }: { burst: number; everyMs: number; clock?: Clock }) {
    this.#burst = burst
    this.#everyMs = everyMs
    this.#clock = clock
  }

  /** `log`, limited together with all that this limiter gave out. `scope`: the cluster, where lines do not name it. */
  of(log: Log, scope = ''): LimitedLog {
    return {
      info: (fields, message) => this.#write(log, 'info', scope, fields, message),
      warn: (fields, message) => this.#write(log, 'warn', scope, fields, message)
    }
  }

  #write(log: Log, level: 'info' | 'warn', scope: string, fields: Fields, message: string): void {
    const cause = this.#cause([message, codeOf(fields), scope, fields.cluster].join(' '))
    const nowMs = this.#clock.now()
    cause.tokens = Math.min(this.#burst, cause.tokens + (nowMs - cause.atMs) / this.#everyMs)
    cause.atMs = nowMs
    if (cause.tokens < 1) {
      cause.suppressed++
      return log.debug(fields, message)
    }
    cause.tokens--
    const { suppressed } = cause
    cause.suppressed = 0
    log[level](suppressed > 0 ? { ...fields, suppressed } : fields, message)
  }

  #cause(name: string): Cause {
    const known = this.#causes.get(name)
    if (known) return known
    const isFull = this.#causes.size >= CAUSE_LIMIT
    if (isFull && name !== OTHERS) return this.#cause(OTHERS)
    const cause = { tokens: this.#burst, atMs: this.#clock.now(), suppressed: 0 }
    this.#causes.set(name, cause)
    return cause
  }
}

const OTHERS = ''

function codeOf({ code, err }: Fields): unknown {
  return code ?? (err as { code?: unknown } | undefined)?.code
}
