/**
 * One cluster does all it can to a server that it shares with another (attack.ts). The other one has its throughput and its
 * answers, as beside a busy loop that burns the CPU which the attack burns, and has all back at once when the attack is
 * over. What is asserted are counts and bytes; how fast it was is shown.
 */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Duplex } from 'node:stream'
import t, { type Test } from 'tap'
import { type Settings, deploy } from '../support/deployment.js'
import { startForTest, until } from '../support/child-process.js'
import { echoTarget, tcpTarget } from '../support/targets.js'
import type { Attack } from './attack.js'
import { MIB, WHOLE, figure } from './traffic.js'

const ATTACK = join(fileURLToPath(import.meta.url), '../attack.js')
const MEASURE_MS = WHOLE ? 6_000 : 1_000
const REPLAY_MIB = WHOLE ? 256 : 32
const UPLOADS = 4
const MORE = WHOLE ? 1 : 0.1
const ROUNDS = WHOLE ? 5 : 1
/** Limits that are set so low in the short form that the attack runs into them. */
const REACHED = WHOLE ? [] : ['links', 'streams', 'dialsPerSecond']

type Dial = (addr: string) => Promise<Duplex>
type Round = Record<'alone' | 'attacked' | 'after' | 'beside', Measured>
type Measured = { mibPerSecond: number; p50Ms: number; p99Ms: number; rounds: number; failed: number }

type Traffic = { bytes(): number; dial(): Promise<Duplex>; end(): void }

/**
 * What a cluster does all the time: a few uploads as fast as they go, which are the same in all rounds (their windows have
 * grown once and for all), and a target that answers.
 */
async function traffic(t: Test, dial: Dial): Promise<Traffic> {
  let bytes = 0
  const sink = await tcpTarget(t, socket => socket.on('data', chunk => (bytes += chunk.length)))
  const echo = await echoTarget(t)
  const chunk = Buffer.alloc(64 << 10)
  const uploads = await Promise.all(Array.from({ length: UPLOADS }, () => dial(sink.addr)))
  for (const upload of uploads) {
    upload.on('error', () => {})
    const fill = (): void => {
      while (!upload.destroyed && upload.write(chunk));
    }
    upload.on('drain', fill)
    fill()
  }
  return {
    bytes: () => bytes,
    dial: () => dial(echo.addr),
    end: () => uploads.forEach(upload => upload.destroy())
  }
}

/** The bytes of the uploads, and dials with one round trip each, one after the other. */
async function measure({ bytes, dial }: Traffic): Promise<Measured> {
  const times: number[] = []
  let failed = 0
  const began = performance.now()
  const bytesBefore = bytes()
  while (performance.now() - began < MEASURE_MS) {
    const asked = performance.now()
    try {
      const stream = await dial()
      stream.on('error', () => {})
      stream.write('x')
      await once(stream, 'data')
      stream.destroy()
      times.push(performance.now() - asked)
    } catch {
      failed++
    }
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  const mibPerSecond = (bytes() - bytesBefore) / MIB / ((performance.now() - began) / 1_000)
  times.sort((a, b) => a - b)
  const at = (part: number): number =>
    times[Math.min(times.length - 1, Math.floor(times.length * part))] ?? NaN
  return { mibPerSecond, p50Ms: at(0.5), p99Ms: at(0.99), rounds: times.length, failed }
}

/** CPU seconds that a process has used. */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}

/** A process that burns this part of one core. */
function busy(t: Test, cores: number) {
  const code = `const on = ${Math.min(1, cores) * 20}
    const burn = () => { const end = performance.now() + on; while (performance.now() < end); setTimeout(burn, 20 - on) }
    burn()`
  return startForTest(t, 'busy loop', process.execPath, ['-e', code])
}

function shown({ measured, cores }: { measured: Measured; cores: number }): string {
  const { mibPerSecond, p50Ms, p99Ms, rounds } = measured
  const dials = `p50 ${p50Ms.toFixed(1)} ms, p99 ${p99Ms.toFixed(1)} ms of ${rounds} dials`
  return `${mibPerSecond.toFixed(1)} MiB/s, ${dials}, server ${cores.toFixed(2)} cores`
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN
}

/** The metric's value for these labels. */
function valueOf(metrics: string, name: string, labels: string): number {
  const line = metrics.split('\n').find(line => line.startsWith(`tendril_${name}{${labels}}`))
  return Number(line?.split(' ').at(-1) ?? 0)
}

t.test(
  'a cluster has its part of the server whatever another one does',
  { timeout: WHOLE ? 400_000 : 170_000 },
  async t => {
    const limits: Settings = WHOLE
      ? {}
      : { links: 30, linksPerClient: 2, connections: 60, streams: 40, dialsPerSecond: 10 }
    const deployment = await deploy(t, {
      clusters: ['a', 'b'],
      processes: true,
      front: 'plain',
      startClients: false,
      seed: settings => ({
        ...settings,
        clusters: [{ name: 'a', limits }, { name: 'b' }] as Settings[],
        // A machine that is busy with something else is no reason to fail.
        fronts: (settings['fronts'] as Settings[]).map(front => ({
          ...front,
          dialTimeout: front['name'] === 'b' ? '1m' : '4s'
        })),
        link: { replayBudget: `${REPLAY_MIB}MiB` },
        log: { level: 'info', format: 'json' }
      })
    })
    const { server, clients, pki, tunnel, fronts } = deployment
    const b = clients[1]!
    await b.start()
    await b.ready()
    const ofB = await traffic(t, addr => deployment.dial(addr, { cluster: 'b' }))
    const withCpuTime = async (work: () => Promise<Measured>) => {
      const before = cpuSeconds(server.pid)
      const began = performance.now()
      const measured = await work()
      return { measured, cores: (cpuSeconds(server.pid) - before) / ((performance.now() - began) / 1_000) }
    }
    const kept = async (cluster: string): Promise<number> =>
      valueOf(await server.metrics(), 'server_replay_bytes', `cluster="${cluster}"`)
    const refused = async (limit: string, cluster: string): Promise<number> =>
      valueOf(await server.metrics(), 'server_limit_refusals_total', `limit="${limit}",cluster="${cluster}"`)
    const plan: Attack = {
      cluster: 'a',
      tunnel,
      front: fronts['a'] as { host: string; port: number },
      ca: pki('ca.crt'),
      cert: pki('client-a.crt'),
      key: pki('client-a.key'),
      hogs: 9,
      callers: 3,
      lostPerSecond: WHOLE ? 5 : 40,
      lost: 500 * MORE,
      silent: 300 * MORE,
      streams: 500 * MORE,
      dialers: 20 * MORE,
      dialsPerSecond: WHOLE ? 5 : 20
    }
    const rounds: Round[] = []
    let during = ''
    await measure(ofB)
    for (let round = 0; round < ROUNDS; round++) {
      const alone = await withCpuTime(() => measure(ofB))
      const attack = startForTest(t, 'attack', process.execPath, [ATTACK, JSON.stringify(plan)])
      // Nine links that acknowledge no more hold their send windows.
      await until('the attack holds memory', async () => (await kept('a')) >= REPLAY_MIB * MIB * 0.25, 60_000)
      for (const limit of REACHED)
        await until(`a is refused more ${limit}`, async () => (await refused(limit, 'a')) > 0, 60_000)
      const cpuBefore = cpuSeconds(attack.pid)
      const began = performance.now()
      const attacked = await withCpuTime(() => measure(ofB))
      const ownCores = (cpuSeconds(attack.pid) - cpuBefore) / ((performance.now() - began) / 1_000)
      during = await server.metrics()
      attack.kill('SIGKILL')
      await attack.exited
      const after = await withCpuTime(() => measure(ofB))
      // What the server used for b is taken from what b's bytes cost it alone: b moves fewer of them beside the attack.
      const ofBytes = alone.cores * Math.min(1, attacked.measured.mibPerSecond / alone.measured.mibPerSecond)
      const burnt = ownCores + Math.max(0, attacked.cores - ofBytes)
      const loops = [...Array(Math.ceil(burnt)).keys()].map(at => busy(t, burnt - at))
      const beside = await withCpuTime(() => measure(ofB))
      for (const loop of loops) await loop.stop()
      for (const { measured } of [alone, attacked, after, beside]) {
        t.equal(measured.failed, 0, 'every dial of b is answered')
        t.ok(measured.mibPerSecond > 0, 'bytes of b arrive')
      }
      figure(t, 'b alone', shown(alone))
      figure(t, `b beside the attack, which burns ${ownCores.toFixed(2)} cores itself`, shown(attacked))
      figure(t, 'b when it is over', shown(after))
      figure(t, `b beside busy loops of ${burnt.toFixed(2)} cores`, shown(beside))
      rounds.push({
        alone: alone.measured,
        attacked: attacked.measured,
        after: after.measured,
        beside: beside.measured
      })
    }

    ofB.end()

    const total = REPLAY_MIB * MIB
    const held = valueOf(during, 'server_replay_bytes', 'cluster="a"')
    const links = valueOf(during, 'server_clients', 'cluster="a"')
    // What a link may keep anyhow, and the message that goes over its limit.
    const minima = links * ((256 + 130) << 10)
    t.ok(held <= total * 0.8 + minima, `a keeps ${Math.round(held / MIB)} of ${REPLAY_MIB} MiB`)
    for (const limit of [
      'links',
      'linksPerClient',
      'connections',
      'streams',
      'dialsPerSecond',
      'routesPerClient'
    ])
      t.equal(await refused(limit, 'b'), 0, `b is not refused anything (${limit})`)

    const ratio = (of: keyof Round, to: keyof Round, what: 'mibPerSecond' | 'p99Ms'): string =>
      median(rounds.map(round => round[of][what] / round[to][what])).toFixed(2)
    figure(
      t,
      'bars, medians: throughput >= 0.8, p99 <= 1.5 of beside the busy loops',
      `${ratio('attacked', 'beside', 'mibPerSecond')}, ${ratio('attacked', 'beside', 'p99Ms')}`
    )
    figure(
      t,
      'when it is over, of alone: throughput, p99',
      `${ratio('after', 'alone', 'mibPerSecond')}, ${ratio('after', 'alone', 'p99Ms')}`
    )
    const counts = await Promise.all(
      ['links', 'linksPerClient', 'connections', 'streams', 'dialsPerSecond'].map(
        async limit => `${limit} ${await refused(limit, 'a')}`
      )
    )
    figure(t, 'refused to a', counts.join(', '))
    figure(t, 'a keeps, MiB / links', `${Math.round(held / MIB)} / ${links}`)
  }
)
