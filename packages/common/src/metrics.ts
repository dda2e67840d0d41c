/**
 * A registry of Prometheus metrics with one spelling for names: `tendril_…`, units at the end, labels from closed
 * sets only (codes of the table of errors, names from the configuration), never addresses or names of callers.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client'

export const METRICS_PREFIX = 'tendril_'

/** Seconds. The buckets of kube-apiserver's own egress metrics, so that both can be laid over each other. */
export const DIAL_BUCKETS_S = [0.005, 0.025, 0.1, 0.5, 2.5, 12.5]

/**
 * How often the event loop's lag is sampled, in milliseconds; an idle process shows as much. prom-client's own 10 wakes
 * it a hundred times a second, for 0.6 % of a core.
 */
const LAG_EVERY_MS = 50

export type MetricsOptions = {
  /** `seed-server` or `shoot-client`: the label `program` of `tendril_build_info`. */
  program: string
  version: string
  /** Also CPU, memory and event loop of the process, under the names that dashboards know. Default true. */
  processMetrics?: boolean
}

/** What becomes of a gauge's values where several processes are shown as one (workers of seed-server). */
export type Aggregator = 'sum' | 'first' | 'min' | 'max'

export type Metrics = {
  readonly registry: Registry
  /** Every program has a log. */
  readonly logLinesDropped: Counter
  counter<L extends string = never>(name: string, help: string, labels?: readonly L[]): Counter<L>
  /** `collect` sets the value at the moment somebody asks, which spares keeping it up to date. */
  gauge<L extends string = never>(
    name: string,
    help: string,
    labels?: readonly L[],
    collect?: (gauge: Gauge<L>) => void,
    /** Default `sum`. */
    aggregator?: Aggregator
  ): Gauge<L>
  histogram<L extends string = never>(
    name: string,
    help: string,
    buckets: readonly number[],
    labels?: readonly L[]
  ): Histogram<L>
}

/** A registry of its own: two in one process (tests) know nothing of each other. */
export function createMetrics({ program, version, processMetrics = true }: MetricsOptions): Metrics {
  const registry = new Registry()
  if (processMetrics)
    collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: LAG_EVERY_MS })
  const base = (name: string, help: string) => ({ name: METRICS_PREFIX + name, help, registers: [registry] })

  const metrics: Metrics = {
    registry,
    logLinesDropped: new Counter(
      base('log_lines_dropped_total', 'Log lines lost because standard output was full, broken or not read.')
    ),
    counter: (name, help, labels = []) => new Counter({ ...base(name, help), labelNames: labels }),
    gauge: (name, help, labels = [], collect, aggregator = 'sum') =>
      new Gauge({
        ...base(name, help),
        labelNames: labels,
        aggregator,
        ...(collect
          ? {
              collect() {
                collect(this)
              }
            }
          : {})
      }),
    histogram: (name, help, buckets, labels = []) =>
      new Histogram({ ...base(name, help), labelNames: labels, buckets: [...buckets] })
  }
  metrics
    .gauge(
      'build_info',
      'Always 1; the labels tell what runs.',
      ['program', 'version', 'node'],
      undefined,
      'first'
    )
    .set({ program, version, node: process.version }, 1)
  return metrics
}
