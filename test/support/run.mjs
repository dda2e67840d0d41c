// Runs every compiled tap test, prints one line per file and everything about what failed, and ends with
// `N passed, N failed`. A test here is a top-level `t.test` (or assertion) of a file. The files run under plain
// node rather than under the `tap` command: they print the same TAP and start in 0.15 s instead of 1 s.
//
//   run.mjs [--busy] [PART…]    files whose path contains each PART; --busy: beside one busy loop for each core
import { fork, spawn } from 'node:child_process'
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join, relative, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const root = resolve(fileURLToPath(import.meta.url), '../../..')
const words = process.argv.slice(2)
const filters = words.filter(word => !word.startsWith('--'))
const unknown = words.filter(word => word.startsWith('--') && word !== '--busy')

/** A file that takes this long is taken for hung, in milliseconds: many times what the slowest takes on a busy machine. */
const FILE_TIMEOUT_MS = Number(process.env.TEST_FILE_TIMEOUT_MS ?? 1_200_000)
/** Lines of a failing file that are shown, the last ones. */
const SHOWN_LINES = 400

const skipFails = process.env.CI === 'true'
const totals = { passed: 0, failed: 0, skipped: [] }
const running = new Set()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    for (const child of running) killGroup(child, 'SIGKILL')
    process.exit(130)
  })
}

if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(' ')}; there is --busy`)
  process.exit(1)
}
const files = findTests().filter(file => filters.every(filter => file.name.includes(filter)))
if (files.length === 0) {
  console.error(`no test file matches ${filters.join(' ') || '(no filter)'}`)
  process.exit(1)
}
const cores = availableParallelism()
const loops = words.includes('--busy') ? Array.from({ length: cores }, keepBusy) : []
const startedAt = Date.now()
// The long forms of test/chaos get the machine one after the other: their figures stand in the documents.
await runAll(files, process.env.TENDRIL_CHAOS === 'whole' ? 1 : cores)

for (const loop of loops) loop.disconnect()

for (const { file, test, reason } of totals.skipped) {
  console.log(
    `!!! SKIPPED ${file}: ${test}${reason ? ` (${reason})` : ''}${skipFails ? ' - CI=true makes this a failure' : ''}`
  )
}
if (skipFails) totals.failed += totals.skipped.length
const skippedText = totals.skipped.length > 0 ? `, ${totals.skipped.length} skipped` : ''
console.log(`${files.length} files in ${seconds(Date.now() - startedAt)}${skippedText}`)
console.log(`${totals.passed} passed, ${totals.failed} failed`)
process.exitCode = totals.failed > 0 ? 1 : 0

function keepBusy() {
  return fork(join(root, 'test/support/busy.mjs'))
}

/** Test files by the name of their source; compiled files whose source is gone are removed on the way. */
function findTests() {
  const places = [
    ...readdirSync(join(root, 'packages')).map(name => ({
      compiled: join(root, 'packages', name, 'dist/test'),
      source: join(root, 'packages', name, 'test')
    })),
    { compiled: join(root, 'test/dist'), source: join(root, 'test') }
  ]
  const found = []
  for (const { compiled, source } of places) {
    if (!existsSync(compiled)) continue
    for (const path of readdirSync(compiled, { recursive: true }).map(String).sort()) {
      if (!path.endsWith('.test.js')) continue
      // The end-to-end tests need Go and half an hour: `npm run test:e2e`.
      if (source === join(root, 'test') && path.startsWith('e2e/')) continue
      const sourcePath = join(source, path.replace(/\.js$/, '.ts'))
      const compiledPath = join(compiled, path)
      if (existsSync(sourcePath)) found.push({ name: relative(root, sourcePath), path: compiledPath })
      else
        for (const end of ['.js', '.js.map', '.d.ts', '.d.ts.map'])
          rmSync(compiledPath.replace(/\.js$/, end), { force: true })
    }
  }
  return found
}

async function runAll(queue, jobs) {
  const waiting = [...queue]
  const worker = async () => {
    for (let file = waiting.shift(); file; file = waiting.shift()) await runFile(file)
  }
  await Promise.all(Array.from({ length: jobs }, worker))
}

async function runFile(file) {
  const began = Date.now()
  // A process group of its own, so that a hung file takes its children with it.
  const child = spawn(process.execPath, ['--enable-source-maps', file.path], {
    cwd: root,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TAP: '1', TAP_TIMEOUT: String(FILE_TIMEOUT_MS / 1000) }
  })
  running.add(child)
  const lines = []
  const counts = { passed: 0, failed: 0, skipped: 0 }
  const keep = line => {
    lines.push(line)
    if (lines.length > 20_000) lines.splice(0, 10_000)
  }
  createInterface({ input: child.stderr }).on('line', keep)
  createInterface({ input: child.stdout }).on('line', line => {
    keep(line)
    count(line, file, counts)
  })
  let hung = false
  const timer = setTimeout(() => {
    hung = true
    killGroup(child, 'SIGKILL')
  }, FILE_TIMEOUT_MS + 5_000)
  const [code, signal] = await new Promise(settle => child.once('close', (...result) => settle(result)))
  clearTimeout(timer)
  running.delete(child)
  killGroup(child, 'SIGKILL')
  if (counts.failed === 0 && (code !== 0 || hung)) {
    counts.failed = 1
    keep(
      hung
        ? `did not end in ${seconds(FILE_TIMEOUT_MS)}: something is left open`
        : `ended with ${signal ?? `exit code ${code}`}`
    )
  }
  totals.passed += counts.passed
  totals.failed += counts.failed
  const mark = counts.failed > 0 ? 'FAIL' : counts.skipped > 0 ? 'skip' : 'ok  '
  console.log(
    `${mark} ${file.name} (${counts.passed}${counts.failed ? `, ${counts.failed} failed` : ''}, ${seconds(Date.now() - began)})`
  )
  if (counts.failed > 0) showFailures(lines)
}

/** TAP: a point at the left margin is one test; a skip counts wherever it stands. */
function count(line, file, counts) {
  const point = /^( *)(not ok|ok) \d+(?: - (.*?))?(?: # (?:time=[^#]*|(SKIP|TODO)\b\s*(.*)))?$/i.exec(line)
  if (!point) return
  const [, indent, result, test = '', directive, reason = ''] = point
  if (directive) {
    if (directive.toUpperCase() !== 'SKIP') return
    counts.skipped += 1
    totals.skipped.push({ file: file.name, test, reason })
  } else if (indent === '') {
    if (result === 'ok') counts.passed += 1
    else counts.failed += 1
  }
}

/** Drops the passed points, keeps the failed ones with their names, messages and everything written to stderr. */
function showFailures(lines) {
  const shown = lines.filter(line => !/^ *(ok \d|\d+\.\.\d+|TAP version)/.test(line) && line.trim() !== '')
  for (const line of shown.slice(-SHOWN_LINES)) console.log(`     ${line}`)
}

function killGroup(child, signal) {
  try {
    process.kill(-child.pid, signal)
  } catch {
    // Nobody of the group is left: the usual case.
  }
}

function seconds(ms) {
  return `${(ms / 1000).toFixed(1)} s`
}
