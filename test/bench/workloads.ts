/**
 * The workloads: a table of what is opened, for how long it is measured, and which figures come of it. Each runs
 * against a started Rig and leaves nothing open.
 */
import { availableParallelism } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Figures, MetricName } from './figures.js'
import type { GroupSpec } from './protocol.js'
import { mib, type Rig, type Window } from './rig.js'

/** `warmUpMs` is thrown away, `measureMs` counts. */
export type Timing = { warmUpMs: number; measureMs: number }

export type Outcome = {
  figures: Figures
  cpuSeconds?: Record<string, number>
  peakMib?: Record<string, number>
  /** Share of the machine, 0 to 1, that others used meanwhile: above a few per cent, mistrust the rest. */
  foreignShare?: number
}

export type Workload = {
  name: string
  title: string
  /** Through a direct line, or one with `--rtt` of round trip between the two ends. */
  line: 'near' | 'far'
  /** What the table and the plots show, the first one first. */
  shows: readonly MetricName[]
  /** Programs are started for it and stopped after it: their memory must be fresh, or is spoilt for others. */
  alone?: true
  run(rig: Rig, timing: Timing): Promise<Outcome | undefined>
}

const REQUEST_BYTES = 64
const LIVE_STREAMS = 200
/** 200 streams asking this often are 2000 requests per second: busy, not full. */
const LIVE_EVERY_MS = 100
/** One write fills sockets and windows of a stalled reader; from then on the stall is complete. */
const STALL_MS = 1000
const WEBHOOKS = { streams: 16, requestBytes: 2048, everyMs: 20 }
/**
 * As fast as kubectl cp gets through kube-apiserver (test/e2e). One without a limit fills both cores whatever carries
 * it, and the p99 beside it is then that of the kernel's scheduler: 28 times that without it for the relay.
 */
const CP_MIB_PER_SECOND = 100
const IDLE_STREAMS = 2000
/** Opened and closed before idle memory is measured, so that code and pools are warm. */
const IDLE_WARM_UP_STREAMS = 100
const BURST_STREAMS = 5000
const IDLE_CLIENTS = 1000
const CLOSE_MS = 500
const GIB = 1024 ** 3
const RATE_FIRST: readonly MetricName[] = ['perSecond', 'p50', 'p99', 'p999', 'cpuPerThousand']

export const workloads: readonly Workload[] = [
  {
    name: 'start-up',
    title: 'start-up of the programs',
    line: 'near',
    shows: ['nearReady', 'farReady'],
    run: startUp
  },
  {
    name: 'idle-2000',
    title: `${IDLE_STREAMS} idle streams, memory of each`,
    line: 'near',
    shows: ['nearKib', 'farKib'],
    alone: true,
    run: idleStreams
  },
  ...[1, 8, 64].flatMap(streams => [bulk('down', streams, 'near'), bulk('up', streams, 'near')]),
  requests(1, 'near'),
  requests(64, 'near'),
  {
    name: 'connect-16',
    title: 'CONNECT, 64 B request, close; 16 in flight',
    line: 'near',
    shows: ['perSecond', 'p50', 'p99', 'cpuPerThousand'],
    run: (rig, timing) =>
      operations(rig, timing, [{ kind: 'connects', streams: 16, requestBytes: REQUEST_BYTES }])
  },
  {
    name: 'stalled-1pct-down',
    title: 'bulk down, 99 streams and 1 stalled',
    line: 'near',
    shows: ['mibPerSecond'],
    run: (rig, timing) =>
      transfer(rig, timing, 'down', [
        { kind: 'stalled', streams: 1 },
        { kind: 'bulk', direction: 'down', streams: 99 }
      ])
  },
  {
    name: 'stalled-1pct-requests',
    title: '64 B requests, 99 in flight and 1 stream stalled',
    line: 'near',
    shows: ['perSecond', 'p50', 'p99'],
    run: (rig, timing) =>
      operations(rig, timing, [
        { kind: 'requests', streams: 99, requestBytes: REQUEST_BYTES, everyMs: 0 },
        { kind: 'stalled', streams: 1 }
      ])
  },
  {
    name: 'stalled-reader',
    title: `${LIVE_STREAMS} live streams (2000 requests/s) with and without one stalled reader`,
    line: 'near',
    shows: ['slowdown', 'p99Alone', 'p99Beside'],
    run: (rig, timing) =>
      beside(
        rig,
        timing,
        { kind: 'requests', streams: LIVE_STREAMS, requestBytes: REQUEST_BYTES, everyMs: LIVE_EVERY_MS },
        { kind: 'stalled', streams: 1 }
      )
  },
  {
    name: 'webhooks-beside-cp',
    title: `webhook-like requests (2 KiB, 800/s) with and without an upload of ${CP_MIB_PER_SECOND} MiB/s (kubectl cp)`,
    line: 'near',
    shows: ['slowdown', 'p99Alone', 'p99Beside'],
    run: (rig, timing) =>
      beside(
        rig,
        timing,
        { kind: 'requests', ...WEBHOOKS },
        { kind: 'paced', streams: 1, mibPerSecond: CP_MIB_PER_SECOND }
      )
  },
  {
    name: 'idle-clients-1000',
    title: `${IDLE_CLIENTS} idle clients on one server`,
    line: 'near',
    shows: ['cpuPercent', 'nearKib'],
    alone: true,
    run: idleClients
  },
  {
    name: 'burst-5000',
    title: `${BURST_STREAMS} streams opened at once`,
    line: 'near',
    shows: ['openSeconds', 'p99', 'failed'],
    alone: true,
    run: burst
  },
  ...[1, 8].flatMap(streams => [bulk('down', streams, 'far'), bulk('up', streams, 'far')]),
  requests(1, 'far'),
  requests(64, 'far')
]

function bulk(direction: 'down' | 'up', streams: number, line: 'near' | 'far'): Workload {
  return {
    name: `bulk-${direction}-${streams}${line === 'far' ? '-rtt' : ''}`,
    title: `bulk ${direction}, ${streams} ${streams === 1 ? 'stream' : 'streams'}${line === 'far' ? ', long line' : ''}`,
    line,
    shows: line === 'near' ? ['mibPerSecond', 'cpuPerGib', 'peakMib'] : ['mibPerSecond', 'peakMib'],
    run: (rig, timing) =>
      transfer(rig, line === 'far' ? longer(timing) : timing, direction, [
        { kind: 'bulk', direction, streams }
      ])
  }
}

function requests(streams: number, line: 'near' | 'far'): Workload {
  return {
    name: `requests-${streams}${line === 'far' ? '-rtt' : ''}`,
    title: `64 B requests, ${streams} in flight${line === 'far' ? ', long line' : ''}`,
    line,
    shows:
      line === 'far'
        ? ['p50', 'perSecond']
        : streams === 1
          ? ['p50', 'p99', 'p999', 'perSecond']
          : RATE_FIRST,
    run: (rig, timing) =>
      operations(rig, timing, [{ kind: 'requests', streams, requestBytes: REQUEST_BYTES, everyMs: 0 }])
  }
}

/** Windows must have grown before a long line is measured. */
const longer = ({ warmUpMs, measureMs }: Timing): Timing => ({ warmUpMs: warmUpMs * 3, measureMs })

/** Opens the groups in order, warms up, measures one window, closes. */
async function measured(
  rig: Rig,
  { warmUpMs, measureMs }: Timing,
  specs: readonly GroupSpec[]
): Promise<Window & { first: number }> {
  const groups = []
  try {
    for (const spec of specs) groups.push(await rig.open(spec))
    await sleep(warmUpMs)
    const window = await rig.window(measureMs)
    return { ...window, first: groups[0]?.number ?? 0 }
  } finally {
    for (const group of groups) await group.stop()
    await sleep(CLOSE_MS)
  }
}

const programsOf = (rig: Rig, window: Window): number =>
  rig.running.programs.reduce((total, { name }) => total + (window.cpuSeconds[name] ?? 0), 0)

const loadOf = ({ cpuSeconds }: Window): number =>
  (cpuSeconds['load-worker'] ?? 0) + (cpuSeconds['target'] ?? 0)

/** Contenders without programs (direct) have neither CPU nor memory of their own. */
function resources({ seconds, cpuSeconds, peakMib, foreignCpuSeconds }: Window): Outcome {
  const peaks = Object.values(peakMib)
  return {
    cpuSeconds,
    peakMib,
    foreignShare: foreignCpuSeconds / (seconds * availableParallelism()),
    figures: peaks.length > 0 ? { peakMib: peaks.reduce((total, one) => total + one, 0) } : {}
  }
}

async function transfer(
  rig: Rig,
  timing: Timing,
  direction: 'down' | 'up',
  specs: readonly GroupSpec[]
): Promise<Outcome> {
  const window = await measured(rig, timing, specs)
  const rate = direction === 'down' ? window.downBytesPerSecond : window.upBytesPerSecond
  const gib = (rate * window.seconds) / GIB
  const used = resources(window)
  const figures: Figures = { mibPerSecond: mib(rate), loadCpuPerGib: loadOf(window) / gib, ...used.figures }
  if (rig.running.programs.length > 0) figures.cpuPerGib = programsOf(rig, window) / gib
  return { ...used, figures }
}

/** The figures are those of the first group. */
async function operations(rig: Rig, timing: Timing, specs: readonly GroupSpec[]): Promise<Outcome> {
  const window = await measured(rig, timing, specs)
  const group = window.groups.get(window.first)
  if (!group || group.latencies.total === 0)
    throw new Error(`no request was answered: ${group?.error ?? 'silence'}`)
  const used = resources(window)
  const figures: Figures = {
    perSecond: group.operationsPerSecond,
    p50: group.latencies.quantileMs(0.5),
    p99: group.latencies.quantileMs(0.99),
    p999: group.latencies.quantileMs(0.999),
    failed: group.failures,
    ...used.figures
  }
  if (rig.running.programs.length > 0) {
    figures.cpuPerThousand = (programsOf(rig, window) * 1000) / (group.operationsPerSecond * window.seconds)
  }
  return { ...used, figures }
}

/** The same group measured alone, then beside another one, whose load process is not its own. */
async function beside(
  rig: Rig,
  { warmUpMs, measureMs }: Timing,
  live: GroupSpec,
  other: GroupSpec
): Promise<Outcome> {
  const group = await rig.open(live, 'others')
  try {
    await sleep(warmUpMs)
    const alone = (await rig.window(measureMs)).groups.get(group.number)
    const disturber = await rig.open(other, 'first')
    await sleep(Math.max(warmUpMs, STALL_MS))
    const window = await rig.window(measureMs)
    await disturber.stop()
    const disturbed = window.groups.get(group.number)
    const [p99Alone, p99Beside] = [
      alone?.latencies.quantileMs(0.99) ?? NaN,
      disturbed?.latencies.quantileMs(0.99) ?? NaN
    ]
    if (Number.isNaN(p99Beside)) throw new Error('no request was answered beside the other group')
    return {
      ...resources(window),
      figures: {
        p99Alone,
        p99Beside,
        slowdown: p99Beside / p99Alone,
        failed: (alone?.failures ?? 0) + (disturbed?.failures ?? 0)
      }
    }
  } finally {
    await group.stop()
    await sleep(CLOSE_MS)
  }
}

async function idleStreams(rig: Rig): Promise<Outcome | undefined> {
  if (rig.running.programs.length === 0) return undefined
  const warm = await rig.open({ kind: 'idle', streams: IDLE_WARM_UP_STREAMS, allAtOnce: false })
  await warm.stop()
  await sleep(CLOSE_MS)
  const before = await rig.memoryKib()
  const group = await rig.open({ kind: 'idle', streams: IDLE_STREAMS, allAtOnce: false })
  await sleep(CLOSE_MS)
  const after = await rig.memoryKib()
  await group.stop()
  await sleep(CLOSE_MS)
  const { opened, failed } = group.opened
  return {
    figures: {
      nearKib: (after.near - before.near) / opened,
      farKib: (after.far - before.far) / opened,
      failed
    }
  }
}

async function idleClients(rig: Rig, { warmUpMs, measureMs }: Timing): Promise<Outcome | undefined> {
  const before = await rig.memoryKib()
  const clients = await rig.idleClients(IDLE_CLIENTS)
  if (!clients) return undefined
  try {
    await sleep(warmUpMs)
    const cpuBefore = rig.cpuSeconds()
    // Heartbeats come every few seconds: a short window would see none of them or all.
    const windowMs = measureMs * 5
    await sleep(windowMs)
    const cpuPercent = ((rig.cpuSeconds() - cpuBefore) * 100_000) / windowMs
    const after = await rig.memoryKib()
    return { figures: { cpuPercent, nearKib: (after.near - before.near) / IDLE_CLIENTS } }
  } finally {
    await clients.stop()
    await sleep(CLOSE_MS)
  }
}

async function burst(rig: Rig): Promise<Outcome> {
  const group = await rig.open({ kind: 'idle', streams: BURST_STREAMS, allAtOnce: true })
  await group.stop()
  await sleep(CLOSE_MS)
  const { tookMs, failed, latencies } = group.opened
  return {
    figures: {
      openSeconds: tookMs / 1000,
      p50: latencies.quantileMs(0.5),
      p99: latencies.quantileMs(0.99),
      failed
    }
  }
}

async function startUp(rig: Rig): Promise<Outcome | undefined> {
  const { readyMs } = rig.running
  return readyMs && { figures: { nearReady: readyMs.near, farReady: readyMs.far } }
}
