/**
 * Callers that do not read what they ask for, and targets that do not read what they are sent: both programs live under the
 * memory limit of their charts, others dial meanwhile, and when all have gone the memory is given back. The programs run
 * as their images run them, in a network of their own whose sockets are as docs/operations.md tells pods to have them:
 * what the kernel keeps for a socket counts towards the limit as well.
 */
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { Duplex } from 'node:stream'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { GIVE_BACK_EVERY_MS, GIVE_BACK_FROM_BYTES } from '@tendril/common/heap'
import { readDockerfile, ROOT_PATH, textsOf } from '../support/dockerfile.js'
import { type Program, type Kind, type Launch, type Settings, deploy } from '../support/deployment.js'
import { type MemoryGroup, memoryGroup } from '../support/memory-group.js'
import { until } from '../support/child-process.js'
import { type TargetServer, echoTarget, sourceTarget, stalledTarget } from '../support/targets.js'
import { MIB, WHOLE, figure } from './traffic.js'

const STREAMS = WHOLE ? 300 : 100
/** Each target has this to send, and nobody reads it; each caller sends as long as it can. More than the kernel keeps. */
const BYTES = 16 * MIB
/** Dialled at once. */
const AT_ONCE = 20
/** New dials while all others stand still. */
const DIALS = 20
/** Two looks of `giveMemoryBack`, on a machine that is busy with other things. */
const GIVEN_BACK_MS = 4 * GIVE_BACK_EVERY_MS

/** Packets as large as on a wire, and the sysctls of docs/operations.md, "Memory limits". */
const NETWORK = `ip link set lo mtu 1500 up &&
  echo 4096 131072 2097152 > /proc/sys/net/ipv4/tcp_rmem &&
  echo 4096 16384 1048576 > /proc/sys/net/ipv4/tcp_wmem`
const IN_OWN_NETWORK = process.env['TEST_IN_OWN_NETWORK'] === 'yes'

/** One program in its group. */
type Limited = { program: Program; limitBytes: number; group: MemoryGroup | undefined }

/** What a chart sets, in bytes. */
function limitOf(chart: Kind): number {
  const values = parse(readFileSync(`${ROOT_PATH}/deploy/helm/${chart}/values.yaml`, 'utf8')) as {
    resources: { limits: { memory: string } }
  }
  const [, number, unit] = /^(\d+)(Mi|Gi)$/.exec(values.resources.limits.memory) ?? []
  return Number(number) * (unit === 'Gi' ? 1024 : 1) * MIB
}

/** Starts each program with the flags and variables of its image, in a group with the limit of its chart. */
async function asDeployed(
  t: Test
): Promise<{ launch: Launch; groups: Record<Kind, MemoryGroup | undefined> }> {
  const dockerfile = await readDockerfile()
  const groupOf = (kind: Kind) => (IN_OWN_NETWORK ? memoryGroup(t, kind, limitOf(kind)) : undefined)
  const groups = { 'seed-server': groupOf('seed-server'), 'shoot-client': groupOf('shoot-client') }
  const about = groups['seed-server']?.about
  t.comment(about ?? 'no network or cgroup can be made here: nothing is limited, resident memory is measured')
  const launch: Launch = (kind, [bin = '', ...args]) => {
    const [, ...flags] = JSON.parse(textsOf(dockerfile, kind, 'ENTRYPOINT').at(-1) ?? '[]') as string[]
    const env = textsOf(dockerfile, kind, 'ENV').flatMap(text => text.split(' ').map(pair => pair.split('=')))
    const node = [process.execPath, ...flags.slice(0, -1), bin, ...args]
    const enter = `echo $$ > "$0" && exec "$@"`
    const { procsFile } = groups[kind] ?? {}
    return {
      command: procsFile ? ['/bin/sh', '-c', enter, procsFile, ...node] : node,
      env: Object.fromEntries(env) as Record<string, string>
    }
  }
  return { launch, groups }
}

const canMakeNetwork = spawnSync('unshare', ['-n', 'sh', '-c', NETWORK]).status === 0
if (canMakeNetwork && !IN_OWN_NETWORK) {
  const itself = [process.execPath, ...process.execArgv, fileURLToPath(import.meta.url)]
  await t.spawn(
    'unshare',
    ['-n', 'sh', '-c', `${NETWORK} && exec "$0" "$@"`, ...itself],
    { env: { ...process.env, TEST_IN_OWN_NETWORK: 'yes' }, timeout: 1_200_000 },
    'in a network of its own'
  )
} else {
  t.test(`${STREAMS} callers stop reading a download, and leave`, { timeout: 600_000 }, stalledDownloads)
  t.test(`${STREAMS} targets stop reading an upload, and leave`, { timeout: 600_000 }, stalledUploads)
}

async function stalledDownloads(t: Test): Promise<void> {
  await stall(t, await sourceTarget(t, BYTES), () => {})
}

async function stalledUploads(t: Test): Promise<void> {
  const chunk = Buffer.alloc(64 << 10)
  await stall(t, await stalledTarget(t), stream => {
    const fill = (): void => {
      while (!stream.destroyed && stream.write(chunk));
    }
    stream.on('drain', fill)
    fill()
  })
}

async function stall(t: Test, target: TargetServer, use: (stream: Duplex) => void): Promise<void> {
  const { launch, groups } = await asDeployed(t)
  const { dial, server, clients } = await deploy(t, {
    processes: true,
    launch,
    // A machine that is busy with something else is no reason to fail.
    seed: settings => ({
      ...settings,
      fronts: (settings['fronts'] as Settings[]).map(front => ({ ...front, dialTimeout: '1m' }))
    })
  })
  const limited = ([server, clients[0]!] as const).map((program, at): Limited => {
    const kind = at === 0 ? 'seed-server' : 'shoot-client'
    return { program, limitBytes: limitOf(kind), group: groups[kind] }
  })
  const pids = limited.map(({ program }) => program.pid)
  const inMebibytes = (bytes: number[]): string => bytes.map(one => Math.round(one / MIB)).join(' and ')
  const buffers = (): Promise<number[]> => valuesOf(limited, 'nodejs_external_memory_bytes')
  const resident = (): number[] => pids.map(pid => statusOf(pid, 'VmRSS'))
  const report = async (when: string): Promise<void> => {
    const sockets = limited.map(({ group }) => group?.socketBytes() ?? NaN)
    const parts = [resident(), await buffers(), sockets].map(inMebibytes)
    figure(t, `${when}, MiB of server and client: resident / buffers / in the kernel`, parts.join(' / '))
  }

  await report('before')
  const before = resident()
  const streams: Duplex[] = []
  t.teardown(() => streams.forEach(stream => stream.destroy()))
  while (streams.length < STREAMS) {
    const dialled = await Promise.all(Array.from({ length: AT_ONCE }, () => dial(target.addr)))
    for (const stream of dialled) {
      stream.on('error', () => {}).pause()
      use(stream)
      streams.push(stream)
    }
  }
  const moved = (): number =>
    [...target.sockets].reduce((sum, { bytesRead, bytesWritten }) => sum + bytesRead + bytesWritten, 0)
  let last = { moved: -1, resident: [0] }
  await until('nothing moves any more', async () => {
    const earlier = last
    last = { moved: moved(), resident: resident() }
    await new Promise(resolve => setTimeout(resolve, 500))
    return (
      last.moved === earlier.moved &&
      last.resident.every((bytes, at) => bytes <= (earlier.resident[at] ?? 0) + MIB)
    )
  })
  await report('stalled')

  const echo = await echoTarget(t)
  for (let count = 0; count < DIALS; count++) {
    const stream = await dial(echo.addr)
    stream.write('x')
    t.equal(String((await once(stream, 'data'))[0]), 'x')
    stream.destroy()
  }
  for (const { program, limitBytes, group } of limited) {
    const peakBytes = Math.max(statusOf(program.pid, 'VmHWM'), group?.peakBytes() ?? 0)
    figure(t, `${program.name}, MiB at most of its limit`, inMebibytes([peakBytes, limitBytes]))
    t.ok(peakBytes < limitBytes, `${program.name} stays below its limit`)
    t.equal(group?.kills() ?? 0, 0, `nothing of ${program.name} was killed`)
  }
  for (const stream of streams) stream.destroy()
  // A caller that leaves behind its last bytes is waited for until a target has taken them.
  await target.close()
  await until(
    'the buffers are given back',
    async () => {
      // Whoever is asked all the time is busy, and a busy program does not look.
      await new Promise(resolve => setTimeout(resolve, 2_000))
      return (await buffers()).every(bytes => bytes < GIVE_BACK_FROM_BYTES)
    },
    GIVEN_BACK_MS
  )
  await report('gone')
  const left = resident().map((bytes, at) => bytes - (before[at] ?? 0))
  figure(t, 'more than before, MiB of server and client', inMebibytes(left))
  t.same([server.pid, clients[0]!.pid], pids, 'both still live')
}

async function valuesOf(limited: readonly Limited[], name: string): Promise<number[]> {
  return Promise.all(
    limited.map(async ({ program }) =>
      Number(new RegExp(`^${name} (\\S+)`, 'm').exec(await program.metrics())?.[1])
    )
  )
}

/** What the kernel says of a process, in bytes. */
function statusOf(pid: number, name: 'VmRSS' | 'VmHWM'): number {
  const [, kibibytes] =
    new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kibibytes) * 1024
}
