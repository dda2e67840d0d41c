/**
 * The edit-test loop (test/support/run.mjs, build.mjs), run in a checkout of its own with two small projects: what it
 * selects, when it stops, and that what it compiles without types is what the compiler would have made of it.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { cp, mkdir, mkdtemp, rename, rm, symlink, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { startForTest, until } from '../support/child-process.js'

const ROOT = fileURLToPath(new URL('../../../', import.meta.url))

const PASSES = `import t from 'tap'
import { one } from './helper.js'
t.test('one is one', async t => { t.equal(one, 1) })
t.test('Two (2) is two', async t => { t.equal(one + 1, 2) })
`
const FAILS = `import t from 'tap'
t.test('one is two', async t => { t.equal(1, 2) })
`
/** Says that it runs, and would go on for ever, with a child of its own. */
const STAYS = `import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import t from 'tap'
t.test('stays', async () => {
  const child = spawn('sleep', ['1000'], { detached: true })
  writeFileSync('stays', \`\${process.pid} \${child.pid}\`)
  await new Promise(() => setInterval(() => {}, 1000))
})
`

let built: string | undefined
t.teardown(() => built && rm(built, { recursive: true }))

/** A folder with the runner, the packages of this checkout and two projects, compiled. Made once, to be copied. */
async function template(): Promise<string> {
  if (built) return built
  const root = (built = await mkdtemp(join(tmpdir(), 'tendril-loop-')))
  const write = async (name: string, text: string) => {
    await mkdir(join(root, name, '..'), { recursive: true })
    await writeFile(join(root, name), text)
  }
  await cp(join(ROOT, 'test/support'), join(root, 'test/support'), {
    recursive: true,
    filter: source => !source.endsWith('.ts')
  })
  for (const name of ['package.json', 'package-lock.json', 'packages/tsconfig.base.json'])
    await write(name, readFileSync(join(ROOT, name), 'utf8'))
  await symlink(join(ROOT, 'node_modules'), join(root, 'node_modules'))
  await write(
    'tsconfig.json',
    '{ "files": [], "references": [{ "path": "packages/one" }, { "path": "test" }] }'
  )
  await write('packages/one/package.json', '{ "type": "module" }')
  for (const { project, base } of [
    { project: 'packages/one', base: '..' },
    { project: 'test', base: '../packages' }
  ]) {
    const compilerOptions = { rootDir: '.', outDir: 'dist' }
    const settings = { extends: `${base}/tsconfig.base.json`, compilerOptions, exclude: ['dist'] }
    await write(`${project}/tsconfig.json`, JSON.stringify(settings))
  }
  await write('packages/one/test/helper.ts', 'export const one: number = 1\n')
  await write('packages/one/test/passes.test.ts', PASSES)
  await write('test/small.ts', 'export const small = true\n')
  const { stdout } = spawnSync(process.execPath, ['node_modules/typescript/bin/tsc', '-b'], { cwd: root })
  if (stdout.length > 0) throw new Error(stdout.toString())
  return root
}

/** A checkout of its own, with these files more. */
async function checkout(t: Test, files: Record<string, string>) {
  const root = await mkdtemp(join(tmpdir(), 'tendril-loop-'))
  t.teardown(() => rm(root, { recursive: true }))
  const path = (name: string) => join(root, name)
  await cp(await template(), root, { recursive: true, preserveTimestamps: true, verbatimSymlinks: true })
  for (const [name, text] of Object.entries(files)) await writeFile(path(name), text)

  const tsc = () => {
    const { status, stdout } = spawnSync(process.execPath, ['node_modules/typescript/bin/tsc', '-b'], {
      cwd: root
    })
    return { status, output: stdout.toString() }
  }
  const runner = join(root, 'test/support/run.mjs')
  return {
    path,
    tsc,
    /** Written a while after everything that is there: file systems keep times in steps. */
    async change(name: string, text: string) {
      await writeFile(path(name), text)
      const soon = new Date(Date.now() + 10)
      await utimes(path(name), soon, soon)
    },
    async run(...args: string[]) {
      const { status, stdout, stderr } = spawnSync(process.execPath, [runner, ...args], { cwd: root })
      return { status, output: stdout.toString() + stderr.toString() }
    },
    start: (...args: string[]) => startForTest(t, 'runner', process.execPath, [runner, ...args])
  }
}

t.test('what changed is compiled without its types, to what the compiler makes of it', async t => {
  const { path, run, change, tsc } = await checkout(t, {})
  const output = path('packages/one/dist/test/helper.js')
  const [code, map] = [readFileSync(output, 'utf8'), readFileSync(`${output}.map`, 'utf8')]

  await change('packages/one/test/helper.ts', 'export const one: string = 2 // one\n')
  const wrong = await run('passes')
  t.equal(readFileSync(output, 'utf8').split('\n')[0], 'export const one = 2; // one')
  t.match(wrong, { status: 1, output: /0 passed, 2 failed\n/ })
  t.match(
    tsc(),
    { output: /helper\.ts\(1,14\): error TS2322/ },
    'the type is wrong, and the compiler sees it'
  )

  await change('packages/one/test/helper.ts', 'export const one: number = 1\n')
  const right = await run('passes')
  t.match(right, { status: 0, output: /2 passed, 0 failed\n/ })
  t.equal(readFileSync(output, 'utf8'), code)
  t.equal(readFileSync(`${output}.map`, 'utf8'), map)
})

t.test('the compiler makes again what it has not made itself', async t => {
  const { path, run, change, tsc } = await checkout(t, {})

  await change('packages/one/test/helper.ts', 'export const one: number = 2\n')
  await run('passes')
  await change('packages/one/test/helper.ts', 'export const one: number = 1\n')

  t.equal(tsc().output, '')
  t.match(readFileSync(path('packages/one/dist/test/helper.js'), 'utf8'), /one = 1/)
})

t.test('a compiled file whose source is gone is removed, and made again when the source is back', async t => {
  const { path, run, tsc } = await checkout(t, {})
  const [here, there] = [path('packages/one/test/passes.test.ts'), path('packages/one/test/renamed.test.ts')]

  await rename(here, there)
  t.match(await run('packages/one/'), {
    status: 0,
    output: /^ok {3}packages\/one\/test\/renamed\.test\.ts \(2, /
  })
  t.strictSame(
    readdirSync(path('packages/one/dist/test')).filter(name => name.startsWith('passes')),
    []
  )

  await rename(there, here)
  await run('passes')
  t.equal(tsc().output, '')
  t.ok(existsSync(path('packages/one/dist/test/passes.test.js')))
})

t.test('a source that is no TypeScript fails with its line', async t => {
  const { run, change } = await checkout(t, {})

  await change('packages/one/test/helper.ts', 'export const one = = 1\n')

  t.match(await run('passes'), { status: 1, output: /helper\.ts\(1,20\): error TS1109/ })
})

t.test('--grep runs the tests whose name has the text, and fails without one', async t => {
  const { run } = await checkout(t, { 'packages/one/test/fails.test.ts': FAILS })

  t.match(await run('--grep', 'two (2)'), {
    status: 0,
    output: /^ok .*passes\.test\.ts \(1, .*\n.*\n1 passed, 0 failed\n/
  })
  t.match(await run('--grep=IS TWO'), { status: 1, output: /1 passed, 1 failed\n/ })
  t.match(await run('--grep', 'three'), { status: 1, output: /no test .* with "three"/ })
  t.match(await run('--grep', 'one', 'fails', 'one/'), { status: 1, output: /0 passed, 1 failed\n/ })
  t.match(await run('--grep', 'helper'), { status: 1, output: /no test .* with "helper"/ })
})

t.test('a part that is in no path, and an option that there is not, are refused', async t => {
  const { run } = await checkout(t, {})

  t.match(await run('nothing'), { status: 1, output: /^no test file matches nothing\n/ })
  t.match(await run('passes', 'nothing'), { status: 1, output: /^no test file matches passes nothing\n/ })
  const refused = await run('--gerp', 'one')
  t.match(refused, { status: 1, output: /^Unknown option '--gerp'/ })
  for (const option of ['--grep NAME', '--bail', '--watch', '--busy', '--help'])
    t.match(refused.output, `  ${option}`)
  t.match(await run('--grep'), { status: 1, output: /argument missing/ })
  t.match(await run('--help'), { status: 0, output: /^npm test -- / })
})

t.test('--bail ends with the first file that fails, and ends the others', async t => {
  const { path, run } = await checkout(t, {
    // In the order of their names: one of the two processors stays with the first.
    'packages/one/test/a-stays.test.ts': STAYS,
    'packages/one/test/fails.test.ts': FAILS.replace(
      't.test',
      "import { existsSync } from 'node:fs'\nwhile (!existsSync('stays')) await new Promise(next => setTimeout(next, 5))\nt.test"
    )
  })

  const { status, output } = await run('--bail', 's.test')

  t.equal(status, 1)
  t.match(output, /FAIL packages\/one\/test\/fails\.test\.ts/)
  t.match(output, /3 files in .*, \d not run or not to the end\n/)
  t.match(output, /\d passed, 1 failed\n/)
  await allGone(path('stays'))
})

t.test('--watch runs again when a source changes, and leaves nothing behind on Ctrl-C', async t => {
  const { path, start, change } = await checkout(t, { 'packages/one/test/stays.test.ts': FAILS })
  const runner = start('--watch', 'one/')
  await runner.logs(/2 passed, 1 failed\n-- waiting for a change/)

  await change('packages/one/test/helper.ts', 'export const one: number = 3\n')
  await runner.logs(/0 passed, 3 failed\n-- waiting for a change/)
  await change('packages/one/test/helper.ts', 'export const one = = 3\n')
  await runner.logs(/error TS1109.*\n-- waiting for a change/)
  await change('packages/one/test/helper.ts', 'export const one: number = 1\n')
  await runner.logs(/0 passed, 3 failed[^]*2 passed, 1 failed\n-- waiting for a change/)
  await change('packages/one/test/stays.test.ts', STAYS)
  await until('the test runs', () => existsSync(path('stays')) && readFileSync(path('stays'), 'utf8') !== '')
  runner.kill('SIGINT')

  t.match(await runner.exited, { code: 0, signal: null })
  await allGone(path('stays'))
})

/** The processes whose numbers are in the file have ended. */
async function allGone(path: string): Promise<void> {
  const pids = readFileSync(path, 'utf8').split(' ').map(Number)
  for (const pid of pids) await until(`process ${pid} has ended`, () => !isAlive(pid))
}

function isAlive(pid: number): boolean {
  try {
    // A zombie has ended; who inherits it here may never ask for it.
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

t.test(
  'what a test depends on is its code and all that it imports, or everything if it sees more',
  async t => {
    const { path } = await checkout(t, {})
    const place = 'packages/common/dist'
    const write = async (name: string, text: string) => {
      await mkdir(join(path(`${place}/${name}`), '..'), { recursive: true })
      await writeFile(path(`${place}/${name}`), text)
    }
    await write('test/near.test.js', `import { x } from '../src/x.js'`)
    await write('test/far.test.js', `import { x } from '@tendril/common/far'`)
    await write('test/all.test.js', `import { spawn } from 'node:child_process'`)
    await write('src/x.js', `export { y as x } from './y.js'`)
    await write('src/y.js', `export const y = 1`)
    await write('src/far.js', `export const x = 1`)
    spawnSync('git', ['init', '-q'], { cwd: path('.') })
    const { TestInputs } = (await import(join(ROOT, 'test/support/test-inputs.mjs'))) as {
      TestInputs: new (root: string) => { hash(path: string): string }
    }
    const hashes = () => {
      const inputs = new TestInputs(path('.'))
      return ['near', 'far', 'all'].map(name => inputs.hash(path(`${place}/test/${name}.test.js`)))
    }

    const before = hashes()
    t.strictSame(hashes(), before)
    await write('src/y.js', `export const y = 2`)
    const near = hashes()
    await write('src/far.js', `export const x = 2`)
    const far = hashes()
    await writeFile(path('packages/one/new.txt'), 'new')
    const all = hashes()

    const changed = (now: string[], then: string[]) => now.map((hash, at) => hash !== then[at])
    t.strictSame(changed(near, before).slice(0, 2), [true, false])
    t.strictSame(changed(far, near).slice(0, 2), [false, true])
    t.strictSame(changed(all, far), [false, false, true])
  }
)
