// The test runner: compiles what changed, runs the test files that are asked for, prints one line per file and everything
// about what failed, and ends with `N passed, N failed`. A test here is a top-level `t.test` (or assertion) of a file.
import { fork } from 'node:child_process'
import { existsSync, readFileSync, watch } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { sourceFolders } from './build.mjs'
import { makeReady } from './ready.mjs'
import { findTests } from './test-files.mjs'
import { seconds, TestRun } from './test-run.mjs'

const USAGE = `npm test -- [option…] [PART…]

Runs the test files whose path contains each PART, or all of them. Only a run of everything checks types, too.

  --grep NAME   only the tests whose name contains NAME, whatever its case
  --bail        stop at the first file that fails
  --watch       run again whenever a source changes, until Ctrl-C
  --busy        beside one busy loop for each core: what fails then waits for time instead of for a fact
  --help        this text`

const OPTIONS = {
  grep: { type: 'string' },
  bail: { type: 'boolean' },
  watch: { type: 'boolean' },
  busy: { type: 'boolean' },
  help: { type: 'boolean' }
}

const root = resolve(fileURLToPath(import.meta.url), '../../..')
const cores = availableParallelism()
/** An editor writes a file in several steps: a run starts when nothing has changed for so long. */
const SETTLE_MS = 50
/** Sources, settings, and folders. */
const WATCHED = /\.(ts|json)$|^(?!dist$)[^.]+$/

const { values: options, positionals: parts } = parsed()
if (options.help) {
  console.log(USAGE)
  process.exit()
}

let run
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    run?.stop()
    // A watch has no other end: it is not a failure.
    process.exit(options.watch ? 0 : 130)
  })
}

const loops = options.busy
  ? Array.from({ length: cores }, () => fork(join(root, 'test/support/busy.mjs')))
  : []
if (options.watch) for (;;) await Promise.all([nextChange(), runOnce()])
await runOnce()
for (const loop of loops) loop.disconnect()

async function runOnce() {
  try {
    makeReady({ proxies: true, types: parts.length === 0 && !options.grep && !options.watch })
    const files = findTests(root).filter(
      file =>
        parts.every(part => file.name.includes(part)) && (!options.grep || mayHold(file.path, options.grep))
    )
    if (files.length === 0) {
      const named = options.grep ? ` and has a test with "${options.grep}" in its name` : ''
      throw new Error(`no test file matches ${parts.join(' ') || '(no part)'}${named}`)
    }
    run = new TestRun(root, {
      ...options,
      // The long forms of test/chaos get the machine one after the other: their figures stand in the documents.
      jobs: process.env.TENDRIL_CHAOS === 'whole' ? 1 : cores
    })
    process.exitCode = report(files, await run.run(files)) ? 0 : 1
  } catch (error) {
    console.error(error.message)
    process.exitCode = 1
  }
  if (options.watch) console.log('-- waiting for a change; Ctrl-C ends')
}

/** True when all is well. */
function report(files, { passed, failed, skipped, notRun, tookMs }) {
  if (options.grep !== undefined && passed + failed + skipped.length + notRun === 0)
    throw new Error(`no test has a name with "${options.grep}"`)
  const skipFails = process.env.CI === 'true'
  for (const { file, test, reason } of skipped) {
    console.log(
      `!!! SKIPPED ${file}: ${test}${reason ? ` (${reason})` : ''}${skipFails ? ' - CI=true makes this a failure' : ''}`
    )
  }
  const bad = failed + (skipFails ? skipped.length : 0)
  const skippedText = skipped.length > 0 ? `, ${skipped.length} skipped` : ''
  const notRunText = notRun > 0 ? `, ${notRun} not run or not to the end` : ''
  console.log(`${files.length} files in ${seconds(tookMs)}${skippedText}${notRunText}`)
  console.log(`${passed} passed, ${bad} failed`)
  return bad === 0
}

function parsed() {
  try {
    return parseArgs({ options: OPTIONS, allowPositionals: true })
  } catch (error) {
    console.error(`${error.message.split('. ')[0]}\n\n${USAGE}`)
    process.exit(1)
  }
}

/**
 * May this compiled file, or a helper that it imports, have a test whose name contains the text? No for most files: they
 * need not be started. Yes if it puts a name together from parts.
 */
function mayHold(path, text, seen = new Set()) {
  if (seen.has(path) || !existsSync(path)) return false
  seen.add(path)
  const source = readFileSync(path, 'utf8')
  if (source.toLowerCase().includes(text.toLowerCase()) || /\bt\.test\(\s*[^'"\s]/.test(source)) return true
  const helpers = [...source.matchAll(/from ['"](\.[^'"]*)['"]/g)].map(([, to]) => resolve(path, '..', to))
  return helpers.some(helper => !helper.includes('/dist/src/') && mayHold(helper, text, seen))
}

/** Resolves when a source has changed, after it has ended the run under way. */
async function nextChange() {
  let timer
  const watchers = []
  await new Promise(settle => {
    const restart = (_, name) => {
      if (!WATCHED.test(name)) return
      clearTimeout(timer)
      timer = setTimeout(settle, SETTLE_MS)
    }
    for (const folder of sourceFolders(root)) watchers.push(watch(folder, restart))
  })
  for (const watcher of watchers) watcher.close()
  run?.stop()
}
