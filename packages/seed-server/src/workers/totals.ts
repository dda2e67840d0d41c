/**
 * The metrics of several processes as those of one: each metric is added up, or as its `aggregator` says. What a
 * process that ended had counted is kept, so that no counter goes back.
 */
import { AggregatorRegistry } from 'prom-client'

/** One metric as `Registry.getMetricsAsJSON` gives it; survives being sent to another process. */
export type MetricValues = { name: string; type: unknown }

export class Totals {
  #ended: MetricValues[] = []

  /** A process has ended; `last` is what it was seen to have counted. */
  async keep(last: readonly MetricValues[]): Promise<void> {
    const counted = last.filter(({ type }) => type === 'counter' || type === 'histogram')
    this.#ended = await AggregatorRegistry.aggregate([this.#ended, counted]).getMetricsAsJSON()
  }

  /** The text that Prometheus reads. */
  of(processes: readonly (readonly MetricValues[])[]): Promise<string> {
    return AggregatorRegistry.aggregate([...processes, this.#ended]).metrics()
  }
}
