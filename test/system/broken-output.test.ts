/** Both programs with a full disk or a broken pipe where their log goes: they serve, and they stop when they are told to. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { writePki } from '@tendril/seed-server/identity/authority'
import { reservePort } from '../support/ports.js'
import { until } from '../support/child-process.js'

const root = resolve(fileURLToPath(import.meta.url), '../../../..')
const PROGRAMS = ['seed-server', 'shoot-client'] as const
type Program = (typeof PROGRAMS)[number]

/** A directory with what both programs need; their admin listeners are on `port`. */
async function configure(t: Test, port: number): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), 'tendril-output-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  await writePki({ dir: join(directory, 'pki'), hosts: ['127.0.0.1'], clusters: ['demo'] })
  const admin = { listen: `127.0.0.1:${port}` }
  const log = { level: 'debug' }
  const tls = { cert: 'pki/server.crt', key: 'pki/server.key', clientCa: 'pki/ca.crt' }
  const seed = {
    tunnel: { listen: '127.0.0.1:0', tls },
    fronts: [{ name: 'demo', listen: `unix:${join(directory, 'front.sock')}`, cluster: 'demo' }],
    clusters: [{ name: 'demo' }],
    admin,
    log
  }
  const shoot = {
    cluster: 'demo',
    // Nobody is there: it says so from time to time.
    servers: [{ url: 'wss://127.0.0.1:1' }],
    reconnect: { maxDelay: '100ms' },
    tls: { ca: 'pki/ca.crt', cert: 'pki/client-demo.crt', key: 'pki/client-demo.key' },
    proxy: 'none',
    admin,
    log
  }
  writeFileSync(join(directory, 'seed-server.json'), JSON.stringify(seed))
  writeFileSync(join(directory, 'shoot-client.json'), JSON.stringify(shoot))
  return directory
}

function run(t: Test, program: Program, args: string[], stdio: (number | 'pipe' | 'ignore')[]): ChildProcess {
  const child = spawn(process.execPath, [join(root, `packages/${program}/bin/${program}.js`), ...args], {
    stdio
  })
  t.teardown(() => child.kill('SIGKILL'))
  return child
}

const alive = async (port: number): Promise<boolean> =>
  fetch(`http://127.0.0.1:${port}/livez`).then(
    ({ ok }) => ok,
    () => false
  )

async function dropped(port: number): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
  return Number(/^tendril_log_lines_dropped_total (\d+)/m.exec(text)?.[1])
}

/** SIGTERM, and how it ended: `0` is a clean stop. */
async function stopped(child: ChildProcess): Promise<unknown> {
  const ended = once(child, 'exit')
  child.kill('SIGTERM')
  const [code, signal] = await ended
  return code ?? signal
}

t.test('a full disk: lines are dropped and counted, the program serves on and stops', async t => {
  const check = async (program: Program): Promise<void> => {
    const port = await reservePort()
    const directory = await configure(t, port)
    const full = openSync('/dev/full', 'w')
    t.teardown(() => closeSync(full))

    const child = run(
      t,
      program,
      ['run', '--config', join(directory, `${program}.json`)],
      ['ignore', full, full]
    )
    await until(`${program} is alive`, () => alive(port))
    await until(`${program} counts`, async () => (await dropped(port)) > 0)
    t.ok(await alive(port), `${program} serves on`)

    t.equal(await stopped(child), 0, `${program} stops`)
  }
  await Promise.all(PROGRAMS.map(check))
})

t.test('a reader that leaves: the program serves on and stops', async t => {
  const check = async (program: Program): Promise<void> => {
    const port = await reservePort()
    const directory = await configure(t, port)

    const child = run(
      t,
      program,
      ['run', '--config', join(directory, `${program}.json`)],
      ['ignore', 'pipe', 'pipe']
    )
    await once(child.stdout!, 'data')
    child.stdout!.destroy()
    child.stderr!.destroy()
    await until(`${program} is alive`, () => alive(port))
    await until(`${program} counts`, async () => (await dropped(port)) > 0)

    t.equal(await stopped(child), 0, `${program} stops`)
  }
  await Promise.all(PROGRAMS.map(check))
})

t.test('when it works again a line says how many are missing', async t => {
  const port = await reservePort()
  const directory = await configure(t, port)
  const fifo = join(directory, 'log')
  execFileSync('mkfifo', [fifo])
  const reader = (): number => openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK)
  const first = reader()
  const writer = openSync(fifo, 'w')
  const config = join(directory, 'shoot-client.json')
  const child = run(t, 'shoot-client', ['run', '--config', config], ['ignore', writer, 'ignore'])
  closeSync(writer)
  await until('it is alive', () => alive(port))

  closeSync(first)
  await until('it counts', async () => (await dropped(port)) > 0)
  const log = new Socket({ fd: reader(), readable: true, writable: false })
  let text = ''
  const gap = /"level":"warn".*"dropped":(\d+),"msg":"log lines were dropped/
  for await (const chunk of log) if (gap.test((text += String(chunk)))) break

  const [, missing] = gap.exec(text) ?? []
  t.equal(Number(missing), await dropped(port), 'as many as were counted')
  t.match(text.split('\n')[0], /^\{.*\}$/, 'no line is cut')
  t.equal(await stopped(child), 0)
})

t.test('several workers on a full disk', async t => {
  const port = await reservePort()
  const directory = await configure(t, port)
  const full = openSync('/dev/full', 'w')
  t.teardown(() => closeSync(full))

  const config = join(directory, 'seed-server.json')
  const child = run(t, 'seed-server', ['run', '--config', config, '--workers', '2'], ['ignore', full, full])
  await until('they are alive', () => alive(port))
  await until('they count', async () => (await dropped(port)) > 0)

  t.equal(await stopped(child), 0)
})

t.test(
  'a short command says that it could not write, or ends quietly when its reader has enough',
  async t => {
    const check = async (program: Program): Promise<void> => {
      const directory = await configure(t, 1)
      const args = ['check-config', '--config', join(directory, `${program}.json`)]
      const full = openSync('/dev/full', 'w')
      const complaint = join(directory, 'stderr')
      const errors = openSync(complaint, 'w')
      t.teardown(() => {
        closeSync(full)
        closeSync(errors)
      })

      const [code] = await once(run(t, program, args, ['ignore', full, errors]), 'exit')
      t.equal(code, 1, program)
      t.match(readFileSync(complaint, 'utf8'), /^[a-z-]+: cannot write to standard output: ENOSPC: [^\n]*\n$/)
      const [silent] = await once(run(t, program, args, ['ignore', full, full]), 'exit')
      t.equal(silent, 1, `${program}, and nowhere to say it`)

      const closed = run(t, program, args, ['ignore', 'pipe', errors])
      closed.stdout!.destroy()
      const [quiet] = await once(closed, 'exit')
      t.equal(quiet, 0, `${program}, nobody reads`)
    }
    await Promise.all(PROGRAMS.map(check))
  }
)
