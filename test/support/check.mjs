// `npm run check`: before a commit. Types, lint, and the unit tests beside the packages, each only as far as what changed
// since it was last in order can reach. What the result rests on is hashed, so a thing that is left out would pass again.
// Not test/system and test/chaos: `npm test`. Everything from the start: `npm run lint` and `npm test -- packages/`.
import { spawn } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { makeReady } from './ready.mjs'
import { findTests } from './test-files.mjs'
import { hashFiles, TestInputs } from './test-inputs.mjs'
import { seconds, TestRun } from './test-run.mjs'

const root = resolve(fileURLToPath(import.meta.url), '../../..')
const cache = join(root, 'node_modules/.cache/tendril')
const passedPath = join(cache, 'passed.json')
const startedAt = performance.now()

const children = new Set()
let run
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    run?.stop()
    for (const child of children) child.kill('SIGKILL')
    process.exit(130)
  })
}

let good
try {
  makeReady()
  console.log(`types: ok (${sinceStart()})`)
  const results = await Promise.all([lint(), unitTests()])
  good = results.every(Boolean)
} catch (error) {
  console.error(error.message)
  good = false
}
console.log(`check: ${good ? 'ok' : 'failed'} (${sinceStart()})`)
process.exitCode = good ? 0 : 1

async function lint() {
  const clean =
    (await runTool('eslint', [
      '--cache',
      '--cache-strategy=content',
      `--cache-location=${eslintCache()}`,
      '.'
    ])) &&
    (await runTool('prettier', [
      '--cache',
      '--cache-location',
      join(cache, 'prettier'),
      '--check',
      '.',
      '--log-level=warn'
    ])) &&
    (await runTool('knip', ['--no-progress'])) &&
    (await runProgram(process.execPath, [join(root, 'test/support/unused-names.mjs')]))
  console.log(`lint: ${clean ? 'ok' : 'failed'} (${sinceStart()})`)
  return clean
}

/**
 * ESLint remembers a file by its own text. Typed rules see the declarations of others too: a cache is good only for the
 * declarations, rules and dependencies that it was made with.
 */
function eslintCache() {
  const declarations = ['packages/common', 'packages/seed-server', 'packages/shoot-client', 'test'].flatMap(
    project =>
      readdirSync(join(root, project, 'dist'), { recursive: true })
        .filter(name => name.endsWith('.d.ts'))
        .map(name => join(root, project, 'dist', name))
  )
  const rules = [
    'eslint.config.js',
    'package-lock.json',
    'test/support/import-table.mjs',
    'test/support/handle-errors.mjs'
  ]
  const hash = hashFiles([...declarations, ...rules.map(name => join(root, name))], path =>
    readFileSync(path, 'utf8').replace(/\/\*\*.*?\*\//gs, '')
  )
  mkdirSync(cache, { recursive: true })
  const path = join(cache, `eslint-${hash.slice(0, 16)}`)
  for (const name of readdirSync(cache))
    if (name.startsWith('eslint-') && !path.endsWith(name)) rmSync(join(cache, name))
  return path
}

async function unitTests() {
  const inputs = new TestInputs(root)
  const passed = readPassed()
  const all = findTests(root)
    .filter(({ name }) => name.startsWith('packages/'))
    .map(file => ({ ...file, hash: inputs.hash(file.path) }))
  const reached = all.filter(({ name, hash }) => passed[name] !== hash)
  run = new TestRun(root, {
    jobs: availableParallelism(),
    onPassed: file => (passed[file.name] = file.hash)
  })
  const { passed: ok, failed } = await run.run(reached)
  mkdirSync(dirname(passedPath), { recursive: true })
  writeFileSync(passedPath, JSON.stringify(passed, undefined, 1))
  console.log(
    `unit tests: ${ok} passed, ${failed} failed in ${reached.length} files; ` +
      `${all.length - reached.length} files are not reached by a change since they passed (${sinceStart()})`
  )
  return failed === 0
}

function readPassed() {
  try {
    return JSON.parse(readFileSync(passedPath, 'utf8'))
  } catch {
    return {}
  }
}

/** A command of one of our dependencies. */
function runTool(name, args) {
  return runProgram(join(root, 'node_modules/.bin', name), args)
}

/** True when it ends well. */
async function runProgram(command, args) {
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
  children.add(child)
  const code = await new Promise(settle => child.once('close', settle))
  children.delete(child)
  return code === 0
}

function sinceStart() {
  return seconds(performance.now() - startedAt)
}
