/**
 * Somebody types beside 64 transfers over a path of 4 MiB/s that breaks once. What was on its way is sent again, and
 * nothing else comes before the next keystroke: soon after that much went through, typing feels as it did before.
 */
import { createHash } from 'node:crypto'
import { type Duplex, Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { deploy } from '../support/deployment.js'
import { PATIENCE_MS, until } from '../support/child-process.js'
import { echoTarget, pseudoRandom, sinkTarget, tcpTarget } from '../support/targets.js'
import { type SlowPath, slowPath } from './slow-path.js'
import { MIB, WHOLE, figure, hashOf, logged, upload } from './traffic.js'
import { type Round, typing } from './typing.js'

const BYTES_PER_SECOND = 4 * MIB
const TRANSFERS = 64
const TRANSFER_BYTES = (WHOLE ? 256 * MIB : 16 * MIB) / TRANSFERS
/** Through the path before it breaks. */
const CUT_AFTER_BYTES = WHOLE ? 80 * MIB : 5 * MIB
/** The path carries them in two seconds, which is many round trips; `link.replayLimit` is four times as much. */
const UNACKNOWLEDGED_LIMIT_BYTES = 8 * MIB
/** For dialling, greeting and whatever else a new connection takes. */
const RESUMED_MS = 1_000
const timeout = (WHOLE ? 10 : 3) * PATIENCE_MS

async function deployBehindSlowPath(t: Test) {
  const state: { path?: SlowPath } = {}
  const built = await deploy(t, {
    processes: true,
    before: async tunnel => (state.path = await slowPath(t, tunnel, BYTES_PER_SECOND))
  })
  const keyboard = typing(await built.dial((await echoTarget(t)).addr))
  return { ...built, client: built.clients[0]!, path: state.path!, keyboard }
}

type Load = {
  transfers: Promise<unknown>
  /** Bytes that the path carried the way the transfers go. */
  carried: () => number
  /** What the sender keeps; without it what it sends again counts, which is at most that. */
  unacknowledged?: () => Promise<number>
}

/** Breaks the path under load, waits for the transfers, and shows how long keystrokes took. */
async function breakOnce(
  t: Test,
  { client, server, path, keyboard }: Awaited<ReturnType<typeof deployBehindSlowPath>>,
  { transfers, carried, unacknowledged }: Load
): Promise<void> {
  // Some went through while the others were dialled.
  const soonBytes = carried()
  await until('the path is full', () => carried() > soonBytes + CUT_AFTER_BYTES / 4)
  const fullMs = performance.now()
  await until('it is time', () => carried() > soonBytes + CUT_AFTER_BYTES)
  const keptBytes = await unacknowledged?.()
  const cutMs = performance.now()
  path.cut()
  await transfers
  const doneMs = performance.now()
  await keyboard.stop()

  const resumed = logged(client.log(), 'link resumed')
  t.equal(resumed.length, 1)
  t.same(logged(client.log(), 'link lost for good, beginning anew'), [])
  for (const { replayedBytes } of [...resumed, ...logged(server.log(), 'link resumed')]) {
    t.ok(Number(replayedBytes) <= UNACKNOWLEDGED_LIMIT_BYTES, `${String(replayedBytes)} bytes sent again`)
  }
  const bytes = keptBytes ?? Number(resumed[0]?.['replayedBytes'])
  t.ok(bytes <= UNACKNOWLEDGED_LIMIT_BYTES, `${bytes} bytes unacknowledged at the cut`)

  const drainMs = (bytes / BYTES_PER_SECOND) * 1_000
  const before = keyboard.rounds.filter(({ beganMs, tookMs }) => beganMs > fullMs && beganMs + tookMs < cutMs)
  const after = keyboard.rounds.filter(
    ({ beganMs }) => beganMs > cutMs + drainMs + RESUMED_MS && beganMs < doneMs
  )
  figure(t, 'unacknowledged at the cut, KiB', bytes >> 10)
  figure(
    t,
    'what that takes at 4 MiB/s / link down, ms',
    `${Math.round(drainMs)} / ${String(resumed[0]?.['downMs'])}`
  )
  figure(t, 'echo p50 before / from that + 1 s on, ms', `${middle(before)} / ${middle(after)}`)
  figure(t, 'longest echo before / of all, ms', `${longest(before)} / ${longest(keyboard.rounds)}`)
}

/** How long they took, in milliseconds. */
function middle(rounds: readonly Round[]): number {
  const sorted = rounds.map(({ tookMs }) => tookMs).sort((a, b) => a - b)
  return Math.round(sorted[sorted.length >> 1] ?? NaN)
}

function longest(rounds: readonly Round[]): number {
  return Math.round(Math.max(...rounds.map(({ tookMs }) => tookMs)))
}

/** One after the other, before there is any load. */
async function dialAll(dial: (addr: string) => Promise<Duplex>, addr: string): Promise<Duplex[]> {
  const streams: Duplex[] = []
  while (streams.length < TRANSFERS) streams.push(await dial(addr))
  return streams
}

t.test(
  '64 uploads over a slow path that breaks: no byte is lost, few are sent again',
  { timeout },
  async t => {
    const there = await deployBehindSlowPath(t)
    const sink = await sinkTarget(t)
    const received = Promise.all(Array.from({ length: TRANSFERS }, () => sink.received()))
    const streams = await dialAll(there.dial, sink.addr)
    const transfers = Promise.all(streams.map(stream => upload(stream, TRANSFER_BYTES)))

    await breakOnce(t, there, {
      transfers,
      carried: () => there.path.downBytes,
      unacknowledged: async () => {
        const metrics = await there.server.metrics()
        return Number(/^tendril_server_replay_bytes\{cluster="demo"\} (\d+)$/m.exec(metrics)?.[1])
      }
    })

    t.same(
      (await received).map(({ sha256 }) => sha256),
      await transfers
    )
  }
)

t.test(
  '64 downloads over a slow path that breaks: no byte is lost, few are sent again',
  { timeout },
  async t => {
    const there = await deployBehindSlowPath(t)
    const source = await tcpTarget(t, socket => {
      socket.once('data', () => Readable.from(pseudoRandom(TRANSFER_BYTES)).pipe(socket))
    })
    const streams = await dialAll(there.dial, source.addr)
    for (const stream of streams) stream.write('go')
    const transfers = Promise.all(streams.map(hashOf))

    await breakOnce(t, there, { transfers, carried: () => there.path.upBytes })

    const sent = createHash('sha256')
    for (const chunk of pseudoRandom(TRANSFER_BYTES)) sent.update(chunk)
    t.same(await transfers, Array<string>(TRANSFERS).fill(sent.digest('hex')))
  }
)
