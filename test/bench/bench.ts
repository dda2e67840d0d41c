/**
 * `npm run bench`: runs every contender through every workload, repeats the round, prints medians and ratios and
 * keeps them. Measures; judges nothing, except for the smoke run, which fails on a gross loss of speed.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { loadContender, type Contender } from './contender.js'
import { direct } from './contenders/direct.js'
import { nodeRelay } from './contenders/node-relay.js'
import { openvpn } from './contenders/openvpn.js'
import { relay } from './contenders/relay.js'
import { tendrilTls, tendrilUds } from './contenders/tendril.js'
import { describeCommit, describeMachine } from './machine.js'
import { metrics, type MetricName } from './figures.js'
import { EXPECTED, ROOT } from './bench-paths.js'
import { makePki } from './bench-pki.js'
import { writeReport } from './report.js'
import { foreignShare, QUIET_SHARE, ratio, type Cell, type Run } from './results.js'
import { Rig, type RigOptions } from './rig.js'
import { ran, ratioTable, table } from './table.js'
import { workloads, type Outcome, type Timing, type Workload } from './workloads.js'

const USAGE = `npm run bench -- [options]

  --only NAME,…         only these workloads and contenders (prefixes will do: bulk-down, tendril)
  --contender FILE      one more contender: a module with a Contender as its default export; may be repeated
  --rounds N            default 3
  --seconds N           measured per workload, default 2
  --workers N           load processes, default 2
  --rtt MS              round trip of the long line, default 50
  --relay-threads N     nbthread of each HAProxy, default 1
  --pki DIR             certificates as \`seed-server pki\` lays them out; default: made for the run
  --json FILE           where the figures go; default test/dist/bench/results.json
  --docs                write docs/benchmarks.md and its plots from this run
  --from FILE           measure nothing: print (and with --docs write) an earlier run
  --smoke               about three minutes: four workloads, fails when the median of three rounds is below half of expected.json
  --limit MINUTES       give up after, default 90
`

const SMOKE = {
  contenders: ['direct', 'relay', 'tendril-tls', 'tendril-uds'],
  workloads: ['bulk-down-8', 'bulk-up-8', 'requests-1', 'connect-16'],
  // The median of three rounds is judged: one round varies by a third on a machine that is shared.
  rounds: 3,
  // Long enough for V8 to have compiled the data path, as when the expected ratios were measured.
  timing: { warmUpMs: 1500, measureMs: 1500 }
}
const WARM_UP_MS = 700
/** Share of the expected ratio under which the smoke run fails. */
const GROSS_LOSS = 0.5

const { values: options } = parseArgs({
  options: {
    only: { type: 'string' },
    contender: { type: 'string', multiple: true, default: [] },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '2' },
    workers: { type: 'string', default: '2' },
    rtt: { type: 'string', default: '50' },
    'relay-threads': { type: 'string', default: '1' },
    pki: { type: 'string' },
    json: { type: 'string', default: join(ROOT, 'test', 'dist', 'bench', 'results.json') },
    docs: { type: 'boolean', default: false },
    from: { type: 'string' },
    smoke: { type: 'boolean', default: false },
    limit: { type: 'string', default: '90' },
    help: { type: 'boolean', default: false }
  }
})

let current: Rig | undefined
const workRoot = mkdtempSync(join(tmpdir(), 'tendril-bench-'))
const say = (line: string): void => void process.stderr.write(`${line}\n`)

process.on('exit', () => rmSync(workRoot, { recursive: true, force: true }))
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.once(signal, () => void giveUp(`stopped by ${signal}`, 130))
setTimeout(
  () => void giveUp(`not finished after ${options.limit} minutes`, 1),
  Number(options.limit) * 60_000
).unref()

async function giveUp(why: string, status: number): Promise<void> {
  say(`bench: ${why}, cleaning up`)
  await current?.stop().catch(() => {})
  process.exit(status)
}

process.exitCode = await main()

async function main(): Promise<number> {
  if (options.help) {
    process.stdout.write(USAGE)
    return 0
  }
  const run = options.from ? (JSON.parse(readFileSync(options.from, 'utf8')) as Run) : await measure()
  process.stdout.write(`\n${heading(run)}\n\n${table(run)}\n\n${ratioTable(run)}\n`)
  if (!options.from) {
    mkdirSync(dirname(options.json), { recursive: true })
    writeFileSync(options.json, JSON.stringify(run, null, 1) + '\n')
    process.stdout.write(`\nfigures: ${options.json}\n`)
  }
  if (options.docs) writeReport(run)
  return options.smoke ? judge(run) : 0
}

function heading(run: Run): string {
  const { machine, commit, settings } = run
  const { cpu, cores, memoryGib, kernel, node, haproxy, openvpn: vpn } = machine
  const foreign = foreignShare(run)
  const lines = [
    `${cores} cores, ${cpu}, ${memoryGib} GiB, Linux ${kernel}; commit ${commit}`,
    `Node ${node}, HAProxy ${haproxy ?? 'absent'}, OpenVPN ${vpn ?? 'absent'}; ` +
      `${settings.rounds} rounds of ${settings.measureMs / 1000} s, ${settings.workers} load processes, long line ${settings.rttMs} ms`
  ]
  if (foreign > QUIET_SHARE) {
    lines.push(
      `NOT A QUIET MACHINE: others used ${(foreign * 100).toFixed(0)} % of it; ratios are rough, latencies worthless`
    )
  }
  return lines.join('\n')
}

async function measure(): Promise<Run> {
  const startedAt = new Date()
  const timing = options.smoke
    ? SMOKE.timing
    : { warmUpMs: WARM_UP_MS, measureMs: Number(options.seconds) * 1000 }
  const rounds = options.smoke ? SMOKE.rounds : Number(options.rounds)
  const all = [direct, relay(Number(options['relay-threads'])), nodeRelay, openvpn, tendrilTls, tendrilUds]
  for (const path of options.contender) all.push(await loadContender(path))
  const chosen = choose(all)

  const pki = makePki(workRoot, options.pki)
  const contenders: Run['contenders'] = []
  for (const { name, title, available } of chosen.contenders)
    contenders.push({ name, title, available: await available() })
  for (const { name, available } of contenders)
    if (available !== true) say(`bench: ${name} will not run: ${available}`)
  const ready = chosen.contenders.filter((_, index) => contenders[index]?.available === true)

  const cells: Run['cells'] = {}
  for (let round = 0; round < rounds; round++) {
    // Another one begins each time, so that none always follows the same neighbour.
    const order = ready.map((_, index) => ready[(index + round) % ready.length]!)
    for (const contender of order) {
      for (const line of ['near', 'far'] as const) {
        const list = chosen.workloads.filter(workload => workload.line === line)
        const rig = {
          pki,
          workers: Number(options.workers),
          rttMs: line === 'far' ? Number(options.rtt) : 0,
          nodeFlags: [],
          workRoot
        }
        await runWorkloads(contender, list, rig, timing, (workload, outcome) => {
          if (outcome) keep((cells[contender.name] ??= {}), workload.name, round, rounds, outcome)
          say(`round ${round + 1}/${rounds} ${contender.name} ${workload.name}: ${sketch(workload, outcome)}`)
        })
      }
    }
  }
  return {
    version: 1,
    startedAt: startedAt.toISOString(),
    tookSeconds: Math.round((Date.now() - startedAt.getTime()) / 1000),
    commit: describeCommit(),
    machine: describeMachine(),
    settings: { rounds, ...timing, workers: Number(options.workers), rttMs: Number(options.rtt) },
    contenders,
    workloads: chosen.workloads.map(({ name, title, shows }) => ({ name, title, shows })),
    cells
  }
}

/** `--only` takes names of both; a kind that is not named is left whole. */
function choose(all: readonly Contender[]): {
  contenders: readonly Contender[]
  workloads: readonly Workload[]
} {
  const only =
    options.only?.split(',').filter(Boolean) ??
    (options.smoke ? [...SMOKE.contenders, ...SMOKE.workloads] : [])
  const names = [...all, ...workloads].map(({ name }) => name)
  for (const word of only) {
    if (!names.some(name => name.startsWith(word))) {
      throw new Error(`--only ${word}: no such workload or contender. There are: ${names.join(', ')}`)
    }
  }
  // A whole name means no other that begins with it.
  const means = (word: string, name: string): boolean =>
    names.includes(word) ? name === word : name.startsWith(word)
  const pick = <T extends { name: string }>(list: readonly T[]): readonly T[] => {
    const picked = list.filter(({ name }) => only.some(word => means(word, name)))
    return picked.length > 0 ? picked : list
  }
  return { contenders: pick(all), workloads: pick(workloads) }
}

type Result = Outcome | { error: string } | undefined

/** Runs the workloads in one start of the contender; after a failure the next one gets a fresh start. */
async function runWorkloads(
  contender: Contender,
  list: readonly Workload[],
  rigOptions: RigOptions,
  timing: Timing,
  done: (workload: Workload, result: Result) => void
): Promise<void> {
  for (const workload of list) {
    try {
      if (workload.alone) await stopCurrent()
      current ??= await Rig.start(contender, rigOptions)
      done(workload, await workload.run(current, timing))
      if (workload.alone) await stopCurrent()
    } catch (error) {
      const dead = current?.dead()
      done(workload, { error: (error as Error).message + (dead ? `; ${dead}` : '') })
      await stopCurrent()
    }
  }
  await stopCurrent()
}

async function stopCurrent(): Promise<void> {
  const rig = current
  current = undefined
  await rig?.stop()
}

function keep(
  cells: Record<string, Cell>,
  workload: string,
  round: number,
  rounds: number,
  result: Outcome | { error: string }
): void {
  const empty = (): null[] => Array.from({ length: rounds }, () => null)
  const cell = (cells[workload] ??= {
    figures: {},
    cpuSeconds: empty(),
    peakMib: empty(),
    errors: empty(),
    foreignShare: empty()
  })
  if ('error' in result) {
    cell.errors[round] = result.error
    return
  }
  cell.cpuSeconds[round] = result.cpuSeconds ?? null
  cell.peakMib[round] = result.peakMib ?? null
  cell.foreignShare[round] = result.foreignShare ?? null
  for (const [name, value] of Object.entries(result.figures) as [MetricName, number][]) {
    const list = (cell.figures[name] ??= empty())
    list[round] = Number.isFinite(value) ? Number(value.toPrecision(5)) : null
  }
}

function sketch({ shows }: Workload, result: Result): string {
  if (!result) return 'nothing to measure here'
  if ('error' in result) return `failed: ${result.error}`
  return shows
    .map(name =>
      `${metrics[name].label} ${result.figures[name]?.toFixed(metrics[name].digits) ?? '-'} ${metrics[name].unit}`.trim()
    )
    .join(', ')
}

/** Compares with the ratios kept in the repository; only half of one, or worse, is a failure, and only on a quiet machine. */
function judge(run: Run): number {
  const { ratios } = JSON.parse(readFileSync(EXPECTED, 'utf8')) as {
    ratios: Record<string, Record<string, number>>
  }
  // Others on the machine slow a chain of processes more than they slow the relay: nothing can be said then.
  const quiet = foreignShare(run) <= QUIET_SHARE
  let lost = 0
  for (const contender of ran(run)) {
    for (const [workload, expected] of Object.entries(ratios[contender] ?? {})) {
      const shown = run.workloads.find(({ name }) => name === workload)?.shows[0]
      const error = run.cells[contender]?.[workload]?.errors.find(Boolean)
      const found = shown && ratio(run, contender, workload, shown)?.median
      if (error) {
        say(`smoke: ${contender} ${workload} failed: ${error}`)
        lost++
      } else if (!shown || found === undefined) {
        say(`smoke: SKIPPED ${contender} ${workload}: no ratio, because the relay did not run`)
      } else if (
        metrics[shown].better === 'higher' ? found < expected * GROSS_LOSS : found > expected / GROSS_LOSS
      ) {
        say(`smoke: ${contender} ${workload}: ${found.toFixed(2)} x relay, expected about ${expected}`)
        if (quiet) lost++
      }
    }
  }
  say(
    lost === 0
      ? quiet
        ? 'smoke: no gross loss of speed'
        : 'smoke: everything was measured; speed is not judged on a machine that others use'
      : `smoke: ${lost} ratios are less than half of what is expected`
  )
  return lost === 0 ? 0 : 1
}
