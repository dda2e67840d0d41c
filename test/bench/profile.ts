/**
 * `npm run bench:profile`: runs Tendril's two programs with --cpu-prof during one workload and leaves a flame graph
 * and the list of the most expensive functions of each.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { tendrilTls, tendrilUds } from './contenders/tendril.js'
import { flameOf, flameSvg, topSelf, type CpuProfile } from './flame.js'
import { metrics } from './figures.js'
import { ROOT } from './bench-paths.js'
import { makePki } from './bench-pki.js'
import { Rig } from './rig.js'
import { workloads } from './workloads.js'

const USAGE = `npm run bench:profile -- [options]

  --workload NAME   default bulk-down-8
  --front tls|uds   default tls
  --seconds N       default 5
  --rtt MS          round trip of the long line, for workloads that end in -rtt; default 50
  --pki DIR         certificates to use; default: made for the run
  --out DIR         default test/dist/bench/profile
`

const { values: options } = parseArgs({
  options: {
    workload: { type: 'string', default: 'bulk-down-8' },
    front: { type: 'string', default: 'tls' },
    seconds: { type: 'string', default: '5' },
    rtt: { type: 'string', default: '50' },
    pki: { type: 'string' },
    out: { type: 'string', default: join(ROOT, 'test', 'dist', 'bench', 'profile') },
    help: { type: 'boolean', default: false }
  }
})

const workRoot = mkdtempSync(join(tmpdir(), 'tendril-profile-'))
process.on('exit', () => rmSync(workRoot, { recursive: true, force: true }))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130))

if (options.help) process.stdout.write(USAGE)
else await profile()

async function profile(): Promise<void> {
  const workload = workloads.find(({ name }) => name === options.workload)
  if (!workload)
    throw new Error(
      `no workload ${options.workload}; there are ${workloads.map(({ name }) => name).join(', ')}`
    )
  const out = resolve(options.out)
  mkdirSync(out, { recursive: true })

  const rig = await Rig.start(options.front === 'uds' ? tendrilUds : tendrilTls, {
    pki: makePki(workRoot, options.pki),
    workers: 2,
    rttMs: workload.line === 'far' ? Number(options.rtt) : 0,
    nodeFlags: ['--cpu-prof', `--cpu-prof-dir=${workRoot}`, '--cpu-prof-interval=500'],
    workRoot
  })
  const { programs } = rig.running
  try {
    const outcome = await workload.run(rig, { warmUpMs: 500, measureMs: Number(options.seconds) * 1000 })
    for (const name of workload.shows) {
      const value = outcome?.figures[name]
      if (value !== undefined)
        process.stdout.write(
          `${metrics[name].label}: ${value.toFixed(metrics[name].digits)} ${metrics[name].unit}\n`
        )
    }
  } finally {
    await rig.stop() // SIGTERM: an orderly end is when Node writes the profile
  }

  for (const { name, pid } of programs) {
    // Node names the file CPU.<date>.<time>.<pid>.<thread>.<sequence>.cpuprofile
    const file = readdirSync(workRoot).find(
      entry => entry.endsWith('.cpuprofile') && entry.split('.')[3] === `${pid}`
    )
    if (!file) {
      process.stdout.write(`\n${name} left no profile: it did not end in order\n`)
      continue
    }
    const root = flameOf(JSON.parse(readFileSync(join(workRoot, file), 'utf8')) as CpuProfile)
    const base = join(out, `${name}-${workload.name}-${options.front}`)
    const list = topSelf(root).join('\n')
    writeFileSync(
      `${base}.svg`,
      flameSvg(
        root,
        `${name}, ${workload.title}, front ${options.front}: ${(root.totalUs / 1e6).toFixed(1)} s busy`
      )
    )
    writeFileSync(`${base}.txt`, `${list}\n`)
    process.stdout.write(`\n${name}: ${base}.svg\n${list}\n`)
  }
}
