/**
 * A histogram of latencies with about 1 % of precision in a fixed 16 KiB, however many values it is given. It
 * knows nothing of time or processes; `toJSON` and `add` carry it from a load worker to the bench.
 */

/** Buckets per doubling: neighbouring buckets differ by a factor of 2^(1/64), 1.1 %. */
const BUCKETS_PER_DOUBLING = 64
const BUCKETS = 32 * BUCKETS_PER_DOUBLING

/** Pairs of bucket and count; buckets without a count are left out. */
export type HistogramJSON = [bucket: number, count: number][]

export class Histogram {
  readonly #counts = new Float64Array(BUCKETS)
  #total = 0

  get total(): number {
    return this.#total
  }

  /** Values under one microsecond count as one; values over an hour count as an hour. */
  record(ms: number): void {
    const bucket = Math.floor(Math.log2(Math.max(ms * 1000, 1)) * BUCKETS_PER_DOUBLING)
    const index = Math.min(bucket, BUCKETS - 1)
    this.#counts[index] = (this.#counts[index] ?? 0) + 1
    this.#total++
  }

  /** The value below which `share` (0 to 1) of all values lie, in milliseconds; NaN when there is none. */
  quantileMs(share: number): number {
    if (this.#total === 0) return Number.NaN
    let left = Math.max(1, Math.ceil(this.#total * share))
    const index = this.#counts.findIndex(count => (left -= count) <= 0)
    return 2 ** ((index + 0.5) / BUCKETS_PER_DOUBLING) / 1000
  }

  add(other: HistogramJSON): this {
    for (const [index, count] of other) {
      this.#counts[index] = (this.#counts[index] ?? 0) + count
      this.#total += count
    }
    return this
  }

  reset(): void {
    this.#counts.fill(0)
    this.#total = 0
  }

  toJSON(): HistogramJSON {
    const pairs: HistogramJSON = []
    this.#counts.forEach((count, index) => {
      if (count > 0) pairs.push([index, count])
    })
    return pairs
  }
}
