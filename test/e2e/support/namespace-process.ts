/**
 * Starts and runs other programs for the end-to-end test: in a network namespace, with a log file, with a bound.
 * Everything started here has a `stop`; what `run` runs ends by itself or at its bound.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'

const RUN_TIMEOUT_MS = 60_000
/** How long a program gets to end by itself after SIGTERM. */
const STOP_GRACE_MS = 10_000
const LAST_WORDS_LINES = 10
const OUTPUT_LIMIT_BYTES = 256 * 2 ** 20

/** A network namespace made by network.ts, by its name under /run/netns. */
export type Namespace = { name: string }

/** argv that runs a program inside a namespace; nsenter becomes the program, so its id is the program's. */
export function inside(namespace: Namespace | undefined, argv: string[]): string[] {
  return namespace ? ['nsenter', `--net=/run/netns/${namespace.name}`, ...argv] : argv
}

export type RunOptions = {
  namespace?: Namespace
  env?: Record<string, string>
  cwd?: string
  /** Written to standard input, which is then closed. Default: nothing. */
  input?: string | Buffer
  /** Default 60 s; then SIGKILL, and the result says so. */
  timeoutMs?: number
  signal?: AbortSignal
  /** Called with each line of standard error as it is written. */
  onErrorLine?: (line: string) => void
}

export type RunResult = { code: number; stdout: Buffer; stderr: string }

/** Runs a program to its end. Never rejects for an exit code; 124 stands for a bound that was reached. */
export async function run(argv: string[], options: RunOptions = {}): Promise<RunResult> {
  const [file, ...args] = inside(options.namespace, argv)
  const child = spawn(file!, args, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: ['pipe', 'pipe', 'pipe']
  })
  const stdout: Buffer[] = []
  const stderr: Buffer[] = []
  let bytes = 0
  child.stdout.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes > OUTPUT_LIMIT_BYTES) child.kill('SIGKILL')
    else stdout.push(chunk)
  })
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk))
  if (options.onErrorLine) createInterface(child.stderr).on('line', options.onErrorLine)
  child.stdin.on('error', () => {}) // the program may end before it has read everything
  child.stdin.end(options.input)
  let timedOut = false
  const bound = setTimeout(() => {
    timedOut = true
    child.kill('SIGKILL')
  }, options.timeoutMs ?? RUN_TIMEOUT_MS)
  const abort = (): void => void child.kill('SIGTERM')
  options.signal?.addEventListener('abort', abort)
  try {
    const [code] = (await once(child, 'close')) as [number | null]
    const text = Buffer.concat(stderr).toString()
    return {
      code: timedOut ? 124 : (code ?? 137),
      stdout: Buffer.concat(stdout),
      stderr: timedOut ? `${text}timed out` : text
    }
  } finally {
    clearTimeout(bound)
    options.signal?.removeEventListener('abort', abort)
  }
}

/** Runs a program that must succeed, and returns what it printed. */
export async function must(argv: string[], options: RunOptions = {}): Promise<string> {
  const { code, stdout, stderr } = await run(argv, options)
  if (code !== 0)
    throw new Error(`${argv.join(' ')} ended with ${code}: ${stderr.trim() || stdout.toString().trim()}`)
  return stdout.toString()
}

/** A program in the background, its output in a file. */
export type Service = {
  name: string
  pid: number
  logFile: string
  /** When the program has ended, whoever ended it: an error with its last words. */
  end(): Promise<Error | undefined>
  /**
   * Ends it (default SIGTERM). May be called twice.
   * @throws Error when it had to be killed after `graceMs` (default 10 s)
   */
  stop(signal?: NodeJS.Signals, graceMs?: number): Promise<void>
}

export type ServiceOptions = {
  namespace?: Namespace
  env?: Record<string, string>
  cwd?: string
  logFile: string
}

export async function start(name: string, argv: string[], options: ServiceOptions): Promise<Service> {
  const [file, ...args] = inside(options.namespace, argv)
  const output = openSync(options.logFile, 'a')
  const child = spawn(file!, args, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: ['ignore', output, output]
  })
  closeSync(output)
  await once(child, 'spawn')
  let over = false
  const ended = once(child, 'exit').then(() => {
    over = true
  })
  return {
    name,
    pid: child.pid!,
    logFile: options.logFile,
    async end() {
      if (!over) return undefined
      const words = (await readFile(options.logFile, 'utf8')).trimEnd().split('\n').slice(-LAST_WORDS_LINES)
      return new Error(`${name} ended: ${words.join('\n')}`)
    },
    async stop(signal = 'SIGTERM', graceMs = STOP_GRACE_MS) {
      if (over) return
      child.kill(signal)
      let killed = false
      const kill = setTimeout(() => {
        killed = child.kill('SIGKILL')
      }, graceMs)
      await ended
      clearTimeout(kill)
      if (killed) throw new Error(`${name} did not end within ${graceMs} ms of ${signal}`)
    }
  }
}

/** Resident memory of a process in bytes. */
export async function memoryBytes(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024
}

/**
 * Asks again every 50 ms until the answer is true. An error that is thrown counts as not yet, one that is returned
 * as never.
 * @throws Error naming `what` and the last error, after `timeoutMs`
 */
export async function until(
  what: string,
  question: () => Promise<boolean | Error>,
  timeoutMs = 30_000
): Promise<void> {
  const end = performance.now() + timeoutMs
  let answer: boolean | Error = false
  let last: unknown
  while (performance.now() < end) {
    try {
      answer = await question()
      last = undefined
    } catch (error) {
      last = error
    }
    if (answer instanceof Error) throw answer
    if (answer) return
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  throw new Error(`waited ${timeoutMs} ms for ${what}${last instanceof Error ? `: ${last.message}` : ''}`)
}
