/** What the primary and its workers say to each other over the channel that Node opens between them. */
import type { ErrorCode } from '@tendril/common'
import type { Readiness } from '@tendril/common/admin/admin-listener'
import type { SeedConfig } from '../config.js'
import type { MetricValues } from './totals.js'

/** The first word a worker hears. */
export type Begin = {
  config: SeedConfig
  version: string
  /** Path of the Unix socket where siblings reach this worker, and those where it reaches them. */
  own: string
  siblings: string[]
}

/** What can be asked of a worker, and its answers. */
export type Answers = { ready: Readiness; metrics: MetricValues[]; alive: true }
export type Question = keyof Answers

export type ToWorker = { begin: Begin } | { ask: Question; number: number } | { stop: true }

export type FromWorker =
  /** It listens to what it is told: Node keeps nothing for a worker that does not yet. */
  | { here: true }
  | { started: { id: string } }
  /** Instead of `started`; the worker ends. */
  | { failed: { code: ErrorCode; detail: string | undefined } }
  | { answer: Answers[Question]; number: number }
