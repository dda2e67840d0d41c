/**
 * Many links over one bad path, in simulated time: a connection now and then gets through and does not live long. Each
 * link has its turn, and none is given up while there is a connection for it (docs/protocol.md §6.1).
 */
import t from 'tap'
import { createBackoff } from '@tendril/common/backoff'
import type { EstablishedConnection, Endpoint } from '@tendril/common/tunnel/tunnel-manager'
import { TunnelError } from '@tendril/common'
import { type Simulation, createSimulation, seeded } from '@tendril/common/test/tunnel/simulation'
import { WHOLE, figure } from './traffic.js'

/** The whole ten thousand run with `npm run test:chaos`; `npm test` takes a part, other seeds each day. */
const SCHEDULES = WHOLE ? 10_000 : 120
const FIRST_SEED = WHOLE ? 1 : Math.floor(Date.now() / 86_400_000) * 1_000

const WINDOW_MS = 60_000
/** A dial over the path of a simulation takes at most this long. */
const DIAL_MS = 60

type Path = {
  endpoint: Endpoint
  /** While false every connection lives until it is cut. */
  bad: boolean
  /** When each of the connections came that lived. */
  livedAtMs: number[]
}

/** An endpoint to one server. When the path is bad, `lifeOf` says how long the next connection lives; 0: not at all. */
function path(simulation: Simulation, random: () => number, lifeOf: (nowMs: number) => number): Path {
  const connect = async (signal: AbortSignal): Promise<EstablishedConnection> => {
    const connection = await simulation.endpoint(0).connect(signal)
    if (!path.bad) return connection
    const nowMs = simulation.clock.now()
    const lifeMs = lifeOf(nowMs)
    const carrier = simulation.carriers.at(-1)
    if (lifeMs > 0) {
      path.livedAtMs.push(nowMs)
      simulation.clock.after(lifeMs, () => carrier?.cut())
    } else if (random() < 0.5) {
      carrier?.cut()
      throw new TunnelError('SERVER_UNREACHABLE', 'the path is bad')
    } else {
      // In the middle of the link's handshake, or on its first message.
      simulation.clock.after(0, () => carrier?.cut())
    }
    return connection
  }
  const path: Path = { endpoint: { name: 'path', single: true, connect }, bad: false, livedAtMs: [] }
  return path
}

/** Notes when each tunnel of the simulation was down: from, to, in milliseconds. */
function watchDowns(simulation: Simulation): [fromMs: number, toMs: number][] {
  const downs: [number, number][] = []
  for (const { link } of simulation.manager.tunnels) {
    let sinceMs = 0
    link.on('down', () => (sinceMs = simulation.clock.now()))
    link.on('up', () => downs.push([sinceMs, simulation.clock.now()]))
  }
  return downs
}

async function live(seed: number): Promise<string | undefined> {
  const random = seeded(seed)
  const connections = 1 + Math.floor(random() * 8)
  // What the client adds at most: a pause after a loss and one after a failure, and the dial between them.
  const pauseMs = 2 * Math.max(500, WINDOW_MS / (4 * connections)) + DIAL_MS
  const periodMs = random() * (WINDOW_MS / connections - pauseMs - DIAL_MS)
  const lifeMs = 50 + random() * 2 * periodMs
  let livedAtMs = -Infinity
  const lifeOf = (nowMs: number): number => {
    if (nowMs < livedAtMs + periodMs) return 0
    livedAtMs = nowMs
    return lifeMs * (0.5 + random())
  }
  let bad!: Path
  const simulation = createSimulation({
    seed,
    connections,
    limits: { resumeWindowMs: WINDOW_MS },
    newBackoff: () => createBackoff({ random }),
    endpoints: simulation => [(bad = path(simulation, random, lifeOf)).endpoint]
  })
  await simulation.leap(20_000)
  const tunnels = simulation.manager.tunnels
  const downs = watchDowns(simulation)

  bad.bad = true
  for (const [at, carrier] of simulation.carriers.entries()) if (at === 0 || random() < 0.7) carrier.cut()
  await simulation.leap(120_000)

  const problem = ((): string | undefined => {
    if (tunnels.length !== connections) return `${tunnels.length} of ${connections} links at the beginning`
    const lost = tunnels.filter(tunnel => tunnel.over).length
    if (lost > 0) return `${lost} of ${connections} links lost`
    for (const [fromMs, toMs] of downs) {
      const turns = bad.livedAtMs.filter(atMs => atMs > fromMs && atMs <= toMs).length
      if (turns > connections) return `a link waited for connection ${turns} of ${connections}`
      if (toMs - fromMs > connections * (periodMs + pauseMs))
        return `a link of ${connections} waited ${toMs - fromMs} ms`
    }
    return downs.length === 0 ? 'nothing happened' : undefined
  })()
  await simulation.end()
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
    const simulation = createSimulation({
      connections: 2,
      limits: { resumeWindowMs: WINDOW_MS },
      newBackoff: () => createBackoff(),
      endpoints: simulation => [(bad = path(simulation, Math.random, () => 20)).endpoint]
    })
    await simulation.leap(1_000)
    const tunnels = simulation.manager.tunnels
    const downs = watchDowns(simulation)

    bad.bad = true
    for (const carrier of simulation.carriers) carrier.cut()
    await simulation.leap(600_000)

    t.same(
      tunnels.map(({ over }) => over),
      [false, false]
    )
    const longestMs = Math.max(...downs.map(([fromMs, toMs]) => toMs - fromMs))
    figure(
      t,
      'two links, connections of 20 ms: times resumed / longest wait ms',
      `${downs.length} / ${Math.round(longestMs)}`
    )
    await simulation.end()
  }
)
