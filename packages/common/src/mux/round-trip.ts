/**
 * The session's round trip, measured with PING when somebody needs it. The shortest of the last few answers
 * counts, because a ping that waits behind data measures the queue and not the path.
 */
import type { Clock } from '../clock.js'

/** Answers that are remembered. */
const SAMPLES = 8

/** A figure older than this is refreshed while data flows. */
const FRESH_MS = 1_000

export class RoundTrip {
  readonly #clock: Clock
  readonly #ping: (opaque: Buffer) => void
  readonly #samples: number[] = []
  #sentAtMs = -Infinity
  #waitingFor: bigint | undefined
  #count = 0n
  #ms = 0

  constructor(clock: Clock, ping: (opaque: Buffer) => void) {
    this.#clock = clock
    this.#ping = ping
  }

  /** Shortest of the last few round trips in milliseconds; 0 before the first answer. */
  get ms(): number {
    return this.#ms
  }

  /** Measures again when the last figure is old. Cheap enough for the data path. */
  refresh(): void {
    if (this.#clock.now() - this.#sentAtMs >= FRESH_MS) this.measure()
  }

  measure(): void {
    this.#sentAtMs = this.#clock.now()
    this.#waitingFor = ++this.#count
    const opaque = Buffer.alloc(8)
    opaque.writeBigUInt64BE(this.#waitingFor)
    this.#ping(opaque)
  }

  /** Ignores an answer to any ping but the last. */
  answered(opaque: Buffer): void {
    if (opaque.readBigUInt64BE() !== this.#waitingFor) return
    this.#waitingFor = undefined
    this.#samples.push(this.#clock.now() - this.#sentAtMs)
    if (this.#samples.length > SAMPLES) this.#samples.shift()
    this.#ms = Math.min(...this.#samples)
  }
}
