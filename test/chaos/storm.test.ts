/** A server with many clients is killed and started again: how long until all are back, what it costs, how they spread. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { deploy } from '../support/deployment.js'
import { PATIENCE_MS, startForTest, until } from '../support/child-process.js'
import { WHOLE, figure } from './traffic.js'

const PROCESSES = WHOLE ? 4 : 1
const PER_PROCESS = WHOLE ? 250 : 100
const CLIENTS = PROCESSES * PER_PROCESS
/**
 * Against waiting for ever. The whole crowd shares its cores with its server: how long it takes is mostly the time of
 * its own handshakes.
 */
const CROWD_PATIENCE_MS = 10 * PATIENCE_MS
const CROWD = join(fileURLToPath(import.meta.url), '../crowd.js')
const TICKS_PER_SECOND = 100

type Report = { attempts: number; reasons: Record<string, number>; up: number[] }

/** CPU seconds used so far, and resident MiB. */
function usage(pid: number): { cpu: number; rssMib: number } {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ')
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return {
    cpu: (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND,
    rssMib: Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024
  }
}

t.test(
  `${CLIENTS} clients are back after their server was killed and started again`,
  { timeout: 3 * CROWD_PATIENCE_MS },
  async t => {
    const { server, clients } = await deploy(t, {
      processes: true,
      startClients: false,
      shoot: settings => ({ ...settings, log: { level: 'info', format: 'json' } })
    })
    const crowds = [...Array(PROCESSES).keys()].map(at =>
      startForTest(t, `crowd ${at}`, process.execPath, [
        CROWD,
        clients[0]!.configFile,
        `p${at}`,
        String(PER_PROCESS)
      ])
    )
    const reports = (): Report[][] =>
      crowds.map(crowd =>
        crowd
          .log()
          .split('\n')
          .filter(line => line.startsWith('{"prefix"'))
          .map(line => JSON.parse(line) as Report)
      )
    await until('all are up', () => reports().every(list => list.length >= 1), CROWD_PATIENCE_MS)
    const idle = usage(server.pid)

    await server.kill('SIGKILL')
    await server.start()
    const startedAt = Date.now()
    let peakCpu = 0
    let peakMib = 0
    let last = { ...usage(server.pid), at: performance.now() }
    await until(
      'all are back',
      () => {
        const now = { ...usage(server.pid), at: performance.now() }
        if (now.at - last.at > 250) {
          peakCpu = Math.max(peakCpu, (now.cpu - last.cpu) / ((now.at - last.at) / 1_000))
          last = now
        }
        peakMib = Math.max(peakMib, now.rssMib)
        return reports().every(list => list.length >= 2)
      },
      CROWD_PATIENCE_MS
    )

    const last2 = reports().map(list => list[1] as Report)
    const connected = last2.flatMap(({ up }) => up).sort((a, b) => a - b)
    const perSecond = new Map<number, number>()
    for (const at of connected) {
      const second = Math.floor((at - startedAt) / 1_000)
      perSecond.set(second, (perSecond.get(second) ?? 0) + 1)
    }
    const afterMs = (share: number): number =>
      (connected[Math.ceil(connected.length * share) - 1] ?? 0) - startedAt
    t.equal(connected.length, CLIENTS)
    const attempts = last2.reduce((sum, report) => sum + report.attempts, 0)
    t.ok(attempts < CLIENTS * 20, `${attempts} attempts failed meanwhile`)
    figure(
      t,
      `${CLIENTS} clients back, ms after the server's start: half / 90 % / all`,
      `${afterMs(0.5)} / ${afterMs(0.9)} / ${afterMs(1)}`
    )
    figure(t, 'why attempts failed in one of the processes', JSON.stringify(last2[0]?.reasons))
    figure(t, 'connected per second', JSON.stringify([...perSecond]))
    figure(
      t,
      'server: peak CPU, cores / CPU seconds / peak MiB / MiB before',
      `${peakCpu.toFixed(2)} / ${usage(server.pid).cpu.toFixed(1)} / ${Math.round(peakMib)} / ${Math.round(idle.rssMib)}`
    )
  }
)
