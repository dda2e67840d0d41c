/**
 * A finished run as it is kept in JSON, and the arithmetic on it: medians over rounds, ranges, and ratios that
 * are formed inside one round before their median is taken, because the machine's mood changes between rounds.
 */
import type { Machine } from './machine.js'
import type { MetricName } from './figures.js'

/** One contender at one workload; every list has one entry per round, null where the round failed. */
export type Cell = {
  figures: Partial<Record<MetricName, (number | null)[]>>
  cpuSeconds: (Record<string, number> | null)[]
  peakMib: (Record<string, number> | null)[]
  errors: (string | null)[]
  /** Share of the machine that others used, 0 to 1. */
  foreignShare: (number | null)[]
}

export type Run = {
  version: 1
  startedAt: string
  tookSeconds: number
  commit: string
  machine: Machine
  settings: { rounds: number; warmUpMs: number; measureMs: number; workers: number; rttMs: number }
  /** `available` is true, or the reason why the contender did not run. */
  contenders: { name: string; title: string; available: true | string }[]
  workloads: { name: string; title: string; shows: readonly MetricName[] }[]
  /** By contender, then workload. A missing cell: the workload has nothing to measure there. */
  cells: Record<string, Record<string, Cell>>
}

/** The contender that others are compared with, if it ran. */
export const BASE = 'relay'

export type Summary = { median: number; min: number; max: number }

export function summary(values: readonly (number | null)[] | undefined): Summary | undefined {
  const sorted = (values ?? [])
    .filter(value => value !== null && Number.isFinite(value))
    .sort((a, b) => a! - b!) as number[]
  const [min, max] = [sorted[0], sorted.at(-1)]
  if (min === undefined || max === undefined) return undefined
  const middle = (sorted.length - 1) / 2
  return { min, max, median: (sorted[Math.floor(middle)]! + sorted[Math.ceil(middle)]!) / 2 }
}

export function figure(
  run: Run,
  contender: string,
  workload: string,
  metric: MetricName
): Summary | undefined {
  return summary(run.cells[contender]?.[workload]?.figures[metric])
}

/** The figure divided by that of `base` in the same round; undefined when no round has both. */
export function ratio(
  run: Run,
  contender: string,
  workload: string,
  metric: MetricName,
  base = BASE
): Summary | undefined {
  const own = run.cells[contender]?.[workload]?.figures[metric] ?? []
  const other = run.cells[base]?.[workload]?.figures[metric] ?? []
  return summary(
    own.map((value, round) => {
      const divisor = other[round]
      return value === null || divisor === null || divisor === undefined || divisor === 0
        ? null
        : value / divisor
    })
  )
}

/** Above this a run says of itself that the machine was not its own. */
export const QUIET_SHARE = 0.05

/** Median share of the machine that processes outside the bench used while it measured. */
export function foreignShare(run: Run): number {
  const shares = Object.values(run.cells).flatMap(cells =>
    Object.values(cells).flatMap(cell => cell.foreignShare)
  )
  return summary(shares)?.median ?? 0
}

/** Workload names and errors of one contender, each error once. */
export function failures(run: Run): { contender: string; workload: string; error: string }[] {
  return Object.entries(run.cells).flatMap(([contender, cells]) =>
    Object.entries(cells).flatMap(([workload, { errors }]) =>
      [...new Set(errors.filter(error => error !== null))].map(error => ({ contender, workload, error }))
    )
  )
}
