/**
 * A child process of a test: started, watched until it really serves, its log kept for the case of failure, ended
 * with the test. Not a supervisor: a child that dies is an error of the test.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { connect } from 'node:net'
import { delimiter, join } from 'node:path'
import { accessSync, constants } from 'node:fs'
import type { Test } from 'tap'

/** Most characters of log kept per child; older ones are dropped. */
const LOG_LIMIT = 64 * 1024
/**
 * After so long what is waited for counts as never happening. It keeps a test from hanging and measures nothing: a machine
 * that has other work takes many times what an idle one does.
 */
export const PATIENCE_MS = 60_000
/** Whoever is left at the end of a test is killed after so long. */
export const TEARDOWN_MS = 5_000
/** Between two looks at a fact that nobody announces. */
const POLL_MS = 10

/** Debian keeps servers in sbin, which is not on everyone's PATH. */
export const searchPath = [process.env['PATH'], '/usr/local/sbin', '/usr/sbin', '/sbin'].join(delimiter)

export type Child = {
  readonly name: string
  readonly pid: number
  /** What it wrote so far, both outputs, at most the last 64 Ki characters. */
  log(): string
  /** Resolves when it has ended, however. */
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
  kill(signal: NodeJS.Signals): void
  /** Nobody reads what it writes until the returned function is called. It does not count as ended meanwhile. */
  stopReading(): () => void
  /** SIGTERM, after `graceMs` SIGKILL. Resolves when it is gone; may be called twice. */
  stop(graceMs?: number): Promise<void>
  /** Resolves when the log matches; rejects when the child ends before. */
  logs(pattern: RegExp): Promise<RegExpMatchArray>
  /** Our programs only: the address in their first `event: listening` line of this name. Rejects when they end before. */
  listening(name: string): Promise<string>
}

/** Starts a program. Ending it is the caller's duty: see `startForTest`. */
export function start(name: string, command: string, args: string[], env: NodeJS.ProcessEnv = {}): Child {
  const child: ChildProcess = spawn(command, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...withoutOurs(process.env), PATH: searchPath, ...env }
  })
  let log = ''
  let watchers: (() => void)[] = []
  const keep = (chunk: Buffer) => {
    log = (log + chunk.toString()).slice(-LOG_LIMIT)
    for (const watcher of watchers) watcher()
  }
  const addresses = new Map<string, string>()
  const readAddresses = addressReader(addresses)
  child.stdout!.on('data', readAddresses)
  child.stdout!.on('data', keep)
  child.stderr!.on('data', keep)
  let ended = false
  const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>(resolve => {
    const end = (code: number | null, signal: NodeJS.Signals | null) => {
      ended = true
      resolve({ code, signal })
      for (const watcher of watchers) watcher()
    }
    child.once('error', error => {
      keep(Buffer.from(`${error.message}\n`))
      end(null, null)
    })
    child.once('close', end)
  })

  /** Resolves with the first result of `look`, which is asked again whenever the child wrote something. */
  const watch = <T>(what: string, look: () => T | undefined): Promise<T> =>
    new Promise((resolve, reject) => {
      const fail = (why: string) => {
        finish()
        reject(new Error(`${name} ${why}:\n${log}`))
      }
      const timer = setTimeout(() => fail(`did not log ${what} in ${PATIENCE_MS} ms`), PATIENCE_MS)
      const finish = () => {
        clearTimeout(timer)
        watchers = watchers.filter(one => one !== watcher)
      }
      const watcher = () => {
        const found = look()
        if (found !== undefined) {
          finish()
          resolve(found)
        } else if (ended) {
          fail('ended early')
        }
      }
      watchers.push(watcher)
      watcher()
    })

  return {
    name,
    pid: child.pid ?? -1,
    log: () => log,
    exited,
    kill: signal => void child.kill(signal),
    stopReading() {
      child.stdout!.pause()
      child.stderr!.pause()
      return () => {
        child.stdout!.resume()
        child.stderr!.resume()
      }
    },
    async stop(graceMs = PATIENCE_MS) {
      if (ended) return
      child.kill('SIGTERM')
      const timer = setTimeout(() => child.kill('SIGKILL'), graceMs)
      await exited
      clearTimeout(timer)
    },
    logs: pattern => watch(String(pattern), () => pattern.exec(log) ?? undefined),
    listening: listener => watch(`that "${listener}" listens`, () => addresses.get(listener))
  }
}

/** Fills `addresses` from what a program writes, in chunks of any size: the first one of each name stays. */
function addressReader(addresses: Map<string, string>): (chunk: Buffer) => void {
  let rest = ''
  return chunk => {
    const lines = (rest + chunk.toString()).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      if (!line.includes('"event":"listening"')) continue
      const { name, address } = JSON.parse(line) as { name: string; address: string }
      if (!addresses.has(name)) addresses.set(name, address)
    }
  }
}

/** Variables that configure Tendril are for the Tendril of whoever set them, not for one made here. */
function withoutOurs(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith('TENDRIL_')))
}

/** A child that ends with the test; its log is shown when the test failed. */
export function startForTest(
  t: Test,
  name: string,
  command: string,
  args: string[],
  env?: NodeJS.ProcessEnv
): Child {
  const child = start(name, command, args, env)
  t.teardown(async () => {
    await child.stop(TEARDOWN_MS)
    if (!t.passing()) t.comment(`log of ${name}:\n${child.log()}`)
  })
  return child
}

/** Resolves when something accepts connections there; rejects when the child that should has ended, or after PATIENCE_MS. */
export async function accepting(
  where: { host: string; port: number } | { path: string },
  child: Child
): Promise<void> {
  const state: { over: string | undefined } = { over: undefined }
  void child.exited.then(
    ({ code, signal }) => (state.over = `${child.name} ended early (${signal ?? code ?? 'not started'})`)
  )
  const giveUpAt = performance.now() + PATIENCE_MS
  while (!(await accepts(where))) {
    if (performance.now() > giveUpAt) state.over = `${child.name} does not serve after ${PATIENCE_MS} ms`
    if (state.over) throw new Error(`${state.over}:\n${child.log()}`)
    await new Promise(resolve => setTimeout(resolve, POLL_MS))
  }
}

function accepts(where: { host: string; port: number } | { path: string }): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(where)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => {
      resolve(false)
    })
  })
}

/** Polls for a fact that nobody announces; rejects after `timeoutMs` with what was waited for. */
export async function until(
  what: string,
  fact: () => boolean | Promise<boolean>,
  timeoutMs = PATIENCE_MS
): Promise<void> {
  const giveUpAt = performance.now() + timeoutMs
  while (!(await fact())) {
    if (performance.now() > giveUpAt) throw new Error(`waited ${timeoutMs} ms in vain until ${what}`)
    await new Promise(resolve => setTimeout(resolve, POLL_MS))
  }
}

/** Is the program installed? */
export function installed(command: string): boolean {
  return searchPath.split(delimiter).some(directory => {
    try {
      accessSync(join(directory, command), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

/**
 * `if (!requireTool(t, 'haproxy')) return` at the start of a test: skips it with a loud line when the program is
 * missing, and fails it under CI=true.
 */
export function requireTool(t: Test, ...commands: string[]): boolean {
  const missing = commands.filter(command => !installed(command))
  if (missing.length === 0) return true
  const text = `${missing.join(', ')} not installed`
  if (process.env['CI'] === 'true') t.fail(text)
  else {
    console.error(`!!! SKIPPED ${t.fullname}: ${text}`)
    t.pass('needs a program that is missing', { skip: text })
  }
  return false
}
