// One run of test files: each in a process of its own, `jobs` at a time, its TAP counted, everything it printed shown when it
// failed. The files run under plain node rather than under the `tap` command: they print the same TAP and start in 0.15 s
// instead of 1 s.
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { readFileSync, readdirSync } from 'node:fs'
import { createInterface } from 'node:readline'

/** A file that takes this long is taken for hung, in milliseconds: many times what the slowest takes on a busy machine. */
const FILE_TIMEOUT_MS = Number(process.env.TEST_FILE_TIMEOUT_MS ?? 1_200_000)
/** Lines of a failing file that are shown, the last ones. */
const SHOWN_LINES = 400
/** Lines that are kept of a file, to show the last ones. */
const KEPT_LINES = 20_000

export class TestRun {
  #root
  #grep
  #bail
  #jobs
  #onPassed
  #waiting = []
  #running = new Set()
  #stopped = false
  #totals = { passed: 0, failed: 0, skipped: [], notRun: 0, tookMs: 0 }
  /** A variable that every process of the run inherits, also inside a run that a test starts. `stop` finds them by it. */
  #mark = `TEST_RUN=${process.env.TEST_RUN ?? ''}/${randomUUID()}`

  /**
   * `grep`: text in the names of the tests that count; `bail`: to stop at the first file that fails; `onPassed`: called with
   * each file that failed nowhere and left nothing out.
   */
  constructor(root, { grep, bail = false, jobs, onPassed = () => {} }) {
    this.#root = root
    this.#grep = grep
    this.#bail = bail
    this.#jobs = jobs
    this.#onPassed = onPassed
  }

  /** The tests that `passed`, `failed` and were `skipped`, and the number of files that were `notRun` to their end. */
  async run(files) {
    const startedAt = performance.now()
    this.#waiting = [...files]
    const worker = async () => {
      for (let file = this.#waiting.shift(); file; file = this.#waiting.shift()) await this.#runFile(file)
    }
    await Promise.all(Array.from({ length: this.#jobs }, worker))
    return { ...this.#totals, tookMs: performance.now() - startedAt }
  }

  /** Ends what runs, with everything it started, and runs no more. May be called twice. */
  stop() {
    if (this.#stopped) return
    this.#stopped = true
    this.#totals.notRun += this.#waiting.splice(0).length
    for (const child of this.#running) killGroup(child.pid)
    killMarked(this.#mark)
  }

  async #runFile(file) {
    const startedAt = performance.now()
    const child = spawn(process.execPath, ['--enable-source-maps', file.path], {
      cwd: this.#root,
      // A process group of its own, so that a hung file takes its children with it.
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: this.#environment()
    })
    this.#running.add(child)
    const lines = []
    const counts = { passed: 0, failed: 0, skipped: [] }
    const keep = line => {
      lines.push(line)
      if (lines.length > KEPT_LINES) lines.splice(0, KEPT_LINES / 2)
    }
    createInterface({ input: child.stderr }).on('line', keep)
    createInterface({ input: child.stdout }).on('line', line => {
      keep(line)
      this.#count(line, file, counts)
    })
    let hung = false
    const timer = setTimeout(() => {
      hung = true
      killGroup(child.pid)
    }, FILE_TIMEOUT_MS + 5_000)
    const [code, signal] = await new Promise(settle => child.once('close', (...result) => settle(result)))
    clearTimeout(timer)
    this.#running.delete(child)
    killGroup(child.pid)
    if (this.#stopped) {
      this.#totals.notRun += 1
      return
    }
    if (counts.failed === 0 && (code !== 0 || hung)) {
      counts.failed = 1
      keep(
        hung
          ? `did not end in ${seconds(FILE_TIMEOUT_MS)}: something is left open`
          : `ended with ${signal ?? `exit code ${code}`}`
      )
    }
    this.#add(counts)
    const nothing = counts.passed + counts.failed + counts.skipped.length === 0
    if (nothing && this.#grep !== undefined) return
    const mark = counts.failed > 0 ? 'FAIL' : counts.skipped.length > 0 ? 'skip' : 'ok  '
    const failedText = counts.failed > 0 ? `, ${counts.failed} failed` : ''
    console.log(
      `${mark} ${file.name} (${counts.passed}${failedText}, ${seconds(performance.now() - startedAt)})`
    )
    if (counts.failed + counts.skipped.length === 0) this.#onPassed(file)
    if (counts.failed === 0) return
    showFailures(lines)
    if (this.#bail) this.stop()
  }

  #environment() {
    const [name, value] = this.#mark.split('=')
    const environment = {
      ...process.env,
      [name]: value,
      TAP: '1',
      TAP_TIMEOUT: String(FILE_TIMEOUT_MS / 1000)
    }
    if (this.#grep !== undefined) environment.TAP_GREP = `/${escaped(this.#grep)}/i`
    return environment
  }

  /** TAP: a point at the left margin is one test; a skip counts wherever it stands. */
  #count(line, file, counts) {
    const point = /^( *)(not ok|ok) \d+(?: - (.*?))?(?: # (?:time=[^#]*|(SKIP|TODO)\b\s*(.*)))?$/i.exec(line)
    if (!point) return
    const [, indent, result, test = '', directive, reason = ''] = point
    if (directive) {
      const chosen = !reason.startsWith('filter: ')
      if (directive.toUpperCase() === 'SKIP' && chosen) counts.skipped.push({ file: file.name, test, reason })
    } else if (indent === '') {
      if (result === 'not ok') counts.failed += 1
      // An assertion outside of every test always runs. It counts if its own name has the text.
      else if (this.#grep === undefined || new RegExp(escaped(this.#grep), 'i').test(test)) counts.passed += 1
    }
  }

  #add({ passed, failed, skipped }) {
    this.#totals.passed += passed
    this.#totals.failed += failed
    this.#totals.skipped.push(...skipped)
  }
}

export function seconds(ms) {
  return `${(ms / 1000).toFixed(1)} s`
}

/** A pattern that fits this text alone. */
function escaped(text) {
  return text.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&')
}

/** Drops the passed points, keeps the failed ones with their names, messages and everything written to stderr. */
function showFailures(lines) {
  const shown = lines.filter(line => !/^ *(ok \d|\d+\.\.\d+|TAP version)/.test(line) && line.trim() !== '')
  for (const line of shown.slice(-SHOWN_LINES)) console.log(`     ${line}`)
}

function killGroup(pid) {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // Nobody of the group is left: the usual case.
  }
}

/** Ends processes that a test started in other process groups. They are found by their environment, on Linux only. */
function killMarked(mark) {
  let names = []
  try {
    names = readdirSync('/proc').filter(name => /^\d+$/.test(name))
  } catch {
    // No Linux.
  }
  for (const name of names) {
    try {
      const variables = readFileSync(`/proc/${name}/environ`, 'latin1').split('\0')
      if (variables.some(variable => variable.startsWith(mark))) process.kill(Number(name), 'SIGKILL')
    } catch {
      // Gone meanwhile, or of another user.
    }
  }
}
