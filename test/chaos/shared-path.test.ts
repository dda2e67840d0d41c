/**
 * Many links over one bad path, in simulated time: a connection now and then gets through and does not live long. Each
 * link has its turn, and none is given up while there is a connection for it (docs/protocol.md §6.1).
 */
import t from 'tap'
import { createBackoff } from '@tendril/common/backoff'
import type { Arrival, Door } from '@tendril/common/tunnel/tunnel-manager'
import { TunnelError } from '@tendril/common'
import { type City, createCity, seeded } from '@tendril/common/test/tunnel/simulation'
import { WHOLE, figure } from './traffic.js'

/** The whole ten thousand run with `npm run test:chaos`; `npm test` takes a part, other seeds each day. */
const SCHEDULES = WHOLE ? 10_000 : 120
const FIRST_SEED = WHOLE ? 1 : Math.floor(Date.now() / 86_400_000) * 1_000

const WINDOW_MS = 60_000
/** A dial over the path of a city takes at most this long. */
const DIAL_MS = 60

type Path = {
  door: Door
  /** While false every connection lives until it is cut. */
  bad: boolean
  /** When each of the connections came that lived. */
  livedAtMs: number[]
}

/** A door to one server. When the path is bad, `lifeOf` says how long the next connection lives; 0: not at all. */
function path(city: City, random: () => number, lifeOf: (nowMs: number) => number): Path {
  const connect = async (signal: AbortSignal): Promise<Arrival> => {
    const arrival = await city.door(0).connect(signal)
    if (!path.bad) return arrival
    const nowMs = city.clock.now()
    const lifeMs = lifeOf(nowMs)
    const carrier = city.carriers.at(-1)
    if (lifeMs > 0) {
      path.livedAtMs.push(nowMs)
      city.clock.after(lifeMs, () => carrier?.cut())
    } else if (random() < 0.5) {
      carrier?.cut()
      throw new TunnelError('SERVER_UNREACHABLE', 'the path is bad')
    } else {
      // In the middle of the link's handshake, or on its first message.
      city.clock.after(0, () => carrier?.cut())
    }
    return arrival
  }
  const path: Path = { door: { name: 'path', single: true, connect }, bad: false, livedAtMs: [] }
  return path
}

/** Notes when each line of the city was down: from, to, in milliseconds. */
function watchDowns(city: City): [fromMs: number, toMs: number][] {
  const downs: [number, number][] = []
  for (const { link } of city.keeper.lines) {
    let sinceMs = 0
    link.on('down', () => (sinceMs = city.clock.now()))
    link.on('up', () => downs.push([sinceMs, city.clock.now()]))
  }
  return downs
}

async function live(seed: number): Promise<string | undefined> {
  const random = seeded(seed)
  const slots = 1 + Math.floor(random() * 8)
  // What the client adds at most: a pause after a loss and one after a failure, and the dial between them.
  const pauseMs = 2 * Math.max(500, WINDOW_MS / (4 * slots)) + DIAL_MS
  const periodMs = random() * (WINDOW_MS / slots - pauseMs - DIAL_MS)
  const lifeMs = 50 + random() * 2 * periodMs
  let livedAtMs = -Infinity
  const lifeOf = (nowMs: number): number => {
    if (nowMs < livedAtMs + periodMs) return 0
    livedAtMs = nowMs
    return lifeMs * (0.5 + random())
  }
  let bad!: Path
  const city = createCity({
    seed,
    slots,
    limits: { resumeWindowMs: WINDOW_MS },
    newBackoff: () => createBackoff({ random }),
    doors: city => [(bad = path(city, random, lifeOf)).door]
  })
  await city.leap(20_000)
  const lines = city.keeper.lines
  const downs = watchDowns(city)

  bad.bad = true
  for (const [at, carrier] of city.carriers.entries()) if (at === 0 || random() < 0.7) carrier.cut()
  await city.leap(120_000)

  const problem = ((): string | undefined => {
    if (lines.length !== slots) return `${lines.length} of ${slots} links at the beginning`
    const lost = lines.filter(line => line.over).length
    if (lost > 0) return `${lost} of ${slots} links lost`
    for (const [fromMs, toMs] of downs) {
      const turns = bad.livedAtMs.filter(atMs => atMs > fromMs && atMs <= toMs).length
      if (turns > slots) return `a link waited for connection ${turns} of ${slots}`
      if (toMs - fromMs > slots * (periodMs + pauseMs)) return `a link of ${slots} waited ${toMs - fromMs} ms`
    }
    return downs.length === 0 ? 'nothing happened' : undefined
  })()
  await city.end()
  return problem && `${problem}; one connection in ${Math.round(periodMs)} ms lives ${Math.round(lifeMs)} ms`
}

t.test(`each of k links is resumed within k·T, and none is lost, in ${SCHEDULES} schedules`, async t => {
  for (let seed = FIRST_SEED; seed < FIRST_SEED + SCHEDULES; seed++) {
    const problem = await live(seed)
    if (problem) {
      t.fail(`seed ${seed}: ${problem}`)
      return
    }
  }
  t.pass()
})

t.test(
  'two links take turns over a path that breaks each connection before the next can be made',
  async t => {
    let bad!: Path
    const city = createCity({
      slots: 2,
      limits: { resumeWindowMs: WINDOW_MS },
      newBackoff: () => createBackoff(),
      doors: city => [(bad = path(city, Math.random, () => 20)).door]
    })
    await city.leap(1_000)
    const lines = city.keeper.lines
    const downs = watchDowns(city)

    bad.bad = true
    for (const carrier of city.carriers) carrier.cut()
    await city.leap(600_000)

    t.same(
      lines.map(({ over }) => over),
      [false, false]
    )
    const longestMs = Math.max(...downs.map(([fromMs, toMs]) => toMs - fromMs))
    figure(
      t,
      'two links, connections of 20 ms: times resumed / longest wait ms',
      `${downs.length} / ${Math.round(longestMs)}`
    )
    await city.end()
  }
)
