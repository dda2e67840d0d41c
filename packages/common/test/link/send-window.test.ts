import t from 'tap'
import { SEND_WINDOW_INITIAL_BYTES, SEND_WINDOW_MIN_BYTES, SendWindow } from '../../src/link/send-window.js'

const MIB = 1 << 20
const MESSAGE_BYTES = 128 << 10

type Receiver = { everyBytes: number; soonBytes: number; soonMs: number; latestMs: number }
/** As docs/protocol.md §6.1 asks for. */
const PROMPT: Receiver = { everyBytes: 256 << 10, soonBytes: 32 << 10, soonMs: 25, latestMs: 250 }
/** As version 0.1 did. */
const LAZY: Receiver = { everyBytes: 2 * MIB, soonBytes: Infinity, soonMs: 0, latestMs: 250 }

/**
 * A sender that always has something to send, over a path that carries `mibPerSecond` and delays by a fixed time, in
 * steps of a millisecond. What the path cannot carry yet waits in front of it, without bound.
 */
class Path {
  mibPerSecond: number
  roundTripMs: number
  readonly #receiver: Receiver
  readonly window: SendWindow
  #nowMs = 0
  #sent = 0
  #acknowledged = 0
  /** Bytes of the first waiting message that the path has carried. */
  #carried = 0
  #waiting: number[] = []
  #arriving: { message: number; atMs: number }[] = []
  #acks: { count: number; atMs: number }[] = []
  #received = 0
  #unacked = 0
  #unackedSinceMs = 0
  #soonSinceMs = 0
  deliveredBytes = 0
  /** Most bytes that were ever unacknowledged since it was last set. */
  peakBytes = 0

  constructor(mibPerSecond: number, roundTripMs: number, receiver = PROMPT, limitBytes = 32 * MIB) {
    this.mibPerSecond = mibPerSecond
    this.roundTripMs = roundTripMs
    this.#receiver = receiver
    this.window = new SendWindow(limitBytes)
  }

  get inFlightBytes(): number {
    return (this.#sent - this.#acknowledged) * MESSAGE_BYTES
  }

  /** Goes on for `ms`; returns the rate at which bytes arrived, in MiB/s. */
  run(ms: number, idle = false): number {
    const before = this.deliveredBytes
    this.peakBytes = 0
    for (const endMs = this.#nowMs + ms; this.#nowMs < endMs; this.#nowMs++) this.#step(idle)
    return (this.deliveredBytes - before) / MIB / (ms / 1_000)
  }

  #step(idle: boolean): void {
    const nowMs = this.#nowMs
    for (let ack = this.#acks[0]; ack && ack.atMs <= nowMs; ack = this.#acks[0]) {
      this.#acks.shift()
      const bytes = (ack.count - this.#acknowledged) * MESSAGE_BYTES
      this.#acknowledged = ack.count
      this.window.acknowledged(ack.count, bytes, nowMs)
    }
    while (!idle && this.inFlightBytes < this.window.bytes) {
      this.window.sent(++this.#sent, this.inFlightBytes - MESSAGE_BYTES, nowMs)
      this.#waiting.push(this.#sent)
    }
    this.peakBytes = Math.max(this.peakBytes, this.inFlightBytes)
    if (this.#waiting.length > 0) this.#carried += (this.mibPerSecond * MIB) / 1_000
    else this.#carried = 0
    while (this.#waiting.length > 0 && this.#carried >= MESSAGE_BYTES) {
      this.#carried -= MESSAGE_BYTES
      this.#arriving.push({ message: this.#waiting.shift() as number, atMs: nowMs + this.roundTripMs / 2 })
    }
    for (let next = this.#arriving[0]; next && next.atMs <= nowMs; next = this.#arriving[0]) {
      this.#arriving.shift()
      this.#receive(next.message)
    }
    const { soonBytes, soonMs, latestMs } = this.#receiver
    if (this.#unacked === 0) return
    const soon = this.#unacked >= soonBytes && nowMs - this.#soonSinceMs >= soonMs
    if (soon || nowMs - this.#unackedSinceMs >= latestMs) this.#acknowledge()
  }

  #receive(message: number): void {
    const { everyBytes, soonBytes } = this.#receiver
    this.#received = message
    this.deliveredBytes += MESSAGE_BYTES
    if (this.#unacked === 0) this.#unackedSinceMs = this.#nowMs
    if (this.#unacked < soonBytes) this.#soonSinceMs = this.#nowMs
    this.#unacked += MESSAGE_BYTES
    if (this.#unacked >= everyBytes) this.#acknowledge()
  }

  #acknowledge(): void {
    this.#unacked = 0
    this.#acks.push({ count: this.#received, atMs: this.#nowMs + this.roundTripMs / 2 })
  }
}

t.test('a fast long line is filled, and soon', async t => {
  for (const [mibPerSecond, roundTripMs] of [
    [300, 50],
    [100, 150],
    [20, 300],
    [500, 1],
    [50, 5]
  ] as const) {
    const path = new Path(mibPerSecond, roundTripMs)
    path.run(1_000 + 10 * roundTripMs)

    const reached = path.run(60_000)

    t.ok(reached > mibPerSecond * 0.97, `${reached.toFixed(1)} of ${mibPerSecond} MiB/s at ${roundTripMs} ms`)
  }
})

t.test('in front of a slow line no more waits than a few round trips of it', async t => {
  for (const [mibPerSecond, roundTripMs, mostBytes] of [
    [4, 50, 1.5 * MIB],
    [4, 1, 1.25 * MIB],
    [1, 20, 0.5 * MIB],
    [10, 100, 4 * MIB]
  ] as const) {
    const path = new Path(mibPerSecond, roundTripMs)
    path.run(10_000)

    const reached = path.run(600_000)

    t.ok(path.peakBytes <= mostBytes, `${mibPerSecond} MiB/s, ${roundTripMs} ms: ${path.peakBytes / MIB} MiB`)
    t.ok(reached > mibPerSecond * 0.95, `${reached.toFixed(2)} of ${mibPerSecond} MiB/s`)
  }
})

t.test('a receiver that acknowledges late, as older versions do, costs little', async t => {
  for (const [mibPerSecond, roundTripMs] of [
    [300, 50],
    [20, 5],
    [4, 50]
  ] as const) {
    const path = new Path(mibPerSecond, roundTripMs, LAZY)
    path.run(5_000)

    const reached = path.run(60_000)

    t.ok(reached > mibPerSecond * 0.9, `${reached.toFixed(1)} of ${mibPerSecond} MiB/s at ${roundTripMs} ms`)
  }
})

t.test('the window follows a path that changes, down and up', async t => {
  const path = new Path(100, 50)
  path.run(5_000)
  t.ok(path.peakBytes > 8 * MIB, `${path.peakBytes / MIB} MiB`)

  path.mibPerSecond = 4
  path.run(20_000)
  path.run(10_000)
  t.ok(path.peakBytes < 2 * MIB, `${path.peakBytes / MIB} MiB after the path got slower`)

  path.mibPerSecond = 100
  path.run(2_000)
  t.ok(path.run(5_000) > 95)
})

t.test('a path that takes longer than before is measured anew, and filled', async t => {
  const path = new Path(50, 5)
  path.run(5_000)

  path.roundTripMs = 200
  path.run(15_000)

  const reached = path.run(10_000)
  t.ok(reached > 45, `${reached.toFixed(1)} of 50 MiB/s`)
})

t.test('an idle link keeps its window, for the next burst', async t => {
  const path = new Path(100, 100)
  path.run(5_000)
  const before = path.window.bytes
  path.run(600_000, true)

  t.equal(path.window.bytes, before)
  t.ok(path.run(1_000) > 80)
})

t.test('the limit holds, and small limits are not exceeded by the smallest window', async t => {
  const path = new Path(300, 50, PROMPT, 4 * MIB)
  path.run(10_000)
  t.equal(path.window.bytes, 4 * MIB)

  t.equal(new SendWindow(100_000).bytes, 100_000)
  t.equal(new SendWindow(32 * MIB).bytes, SEND_WINDOW_INITIAL_BYTES)
  const crawling = new Path(0.1, 10)
  crawling.run(60_000)
  t.ok(crawling.window.bytes < 2 * SEND_WINDOW_MIN_BYTES, `${crawling.window.bytes} bytes`)
})
