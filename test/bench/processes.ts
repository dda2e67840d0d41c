/**
 * Starts the processes of a run and makes sure that they end: with `stop`, with the bench's own exit and, where
 * setpriv(1) is installed, even with its death by SIGKILL. Knows no contender.
 */
import { spawn, spawnSync, type ChildProcess, type StdioOptions } from 'node:child_process'
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Listening } from './protocol.js'

/** After SIGTERM a process has this long. Writing a CPU profile takes Node a second or two. */
const STOP_TIMEOUT_MS = 10_000
const LISTEN_TIMEOUT_MS = 10_000
const POLL_MS = 10
const LOG_TAIL_LINES = 12

export type Child = { name: string; pid: number; process: ChildProcess; log?: string }

const running = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

const setpriv = existsSync('/usr/bin/setpriv') ? ['/usr/bin/setpriv', '--pdeathsig', 'KILL', '--'] : []

export class Processes {
  readonly #workDir: string
  readonly #children: Child[] = []

  /** @param workDir an existing directory that takes one log file per program. */
  constructor(workDir: string) {
    this.#workDir = workDir
  }

  /** A program under measurement; its output goes to a file, which costs less than a pipe to us. */
  program(name: string, command: readonly string[], env: NodeJS.ProcessEnv = {}): Child {
    const log = join(this.#workDir, `${name}.log`)
    const file = openSync(log, 'w')
    const child = this.#spawn(name, command, ['ignore', file, file], env)
    closeSync(file)
    return { ...child, log }
  }

  /** One of the bench's own processes (load, target, delay), with an IPC channel. */
  helper(name: string, args: readonly string[], prefix: readonly string[] = []): Child {
    const script = join(import.meta.dirname, `${name}.js`)
    return this.#spawn(
      name,
      [...prefix, process.execPath, script, ...args],
      ['ignore', 'inherit', 'inherit', 'ipc']
    )
  }

  /** Waits for the first message of a helper that listens. */
  async listening(child: Child): Promise<Listening['listening']> {
    const signal = AbortSignal.timeout(LISTEN_TIMEOUT_MS)
    const [message] = (await once(child.process, 'message', { signal })) as [Listening]
    return message.listening
  }

  /** Asks `ready` again and again. Fails when the time is over or the program has ended, with the tail of its log. */
  async until(child: Child, ready: () => Promise<boolean>, timeoutMs = LISTEN_TIMEOUT_MS): Promise<void> {
    const endMs = performance.now() + timeoutMs
    for (;;) {
      if (child.process.exitCode !== null || child.process.signalCode !== null) {
        throw new Error(
          `${child.name} ended (${child.process.exitCode ?? String(child.process.signalCode)}): ${tail(child)}`
        )
      }
      if (await ready()) return
      if (performance.now() > endMs)
        throw new Error(`${child.name} not ready after ${timeoutMs} ms: ${tail(child)}`)
      await sleep(POLL_MS)
    }
  }

  /** Waits until one of our programs announces this listener in its log. @returns its address. */
  async address(child: Child, listener: string, timeoutMs?: number): Promise<string> {
    let found: string | undefined
    await this.until(child, async () => (found = addressIn(child, listener)) !== undefined, timeoutMs)
    return found!
  }

  /** What ended before it was told to, with the tail of its log. */
  dead(): string {
    const ended = this.#children.filter(
      ({ process: { exitCode, signalCode } }) => exitCode !== null || signalCode !== null
    )
    return ended.map(child => `${child.name} ended: ${tail(child)}`).join('\n')
  }

  async stop(): Promise<void> {
    await Promise.all(
      this.#children
        .splice(0)
        .reverse()
        .map(child => stopChild(child.process))
    )
  }

  #spawn(name: string, command: readonly string[], stdio: StdioOptions, env: NodeJS.ProcessEnv = {}): Child {
    const [file = '', ...args] = [...setpriv, ...command]
    const child = spawn(file, args, { stdio, env: { ...process.env, ...env }, cwd: this.#workDir })
    running.add(child)
    child.once('exit', () => running.delete(child))
    child.once('error', () => running.delete(child))
    const started = { name, pid: child.pid ?? 0, process: child }
    this.#children.push(started)
    return started
  }
}

async function stopChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return
  const exit = once(child, 'exit')
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS)
  await exit
  clearTimeout(timer)
}

/** Of the `event: listening` line with this name. */
function addressIn(child: Child, listener: string): string | undefined {
  const text = child.log ? readFileSync(child.log, 'utf8') : ''
  // What follows the last line end is half a line.
  const lines = text.split('\n').slice(0, -1)
  const announced = lines
    .filter(line => line.includes('"event":"listening"'))
    .map(line => JSON.parse(line) as { name: string; address: string })
  return announced.find(({ name }) => name === listener)?.address
}

function tail(child: Child): string {
  if (!child.log) return ''
  return readFileSync(child.log, 'utf8').trim().split('\n').slice(-LOG_TAIL_LINES).join('\n')
}

/** Whether somebody accepts connections there. */
export function listens(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1')
    const answer = (yes: boolean): void => {
      socket.destroy()
      resolve(yes)
    }
    socket.once('connect', () => answer(true))
    socket.once('error', () => answer(false))
  })
}

/** Runs a command to its end. @returns its output; throws with it when the command fails. */
export function runToEnd(command: readonly string[], timeoutMs = 60_000): string {
  const [file = '', ...args] = command
  const { status, stdout, stderr, error } = spawnSync(file, args, { encoding: 'utf8', timeout: timeoutMs })
  if (error) throw error
  if (status !== 0) throw new Error(`${command.join(' ')} failed: ${stderr || stdout}`)
  return stdout
}

/** True when the command can be run; installs the Debian package for it where we are root and have apt-get. */
export function ensureInstalled(command: string, debianPackage: string): true | string {
  const found = (): boolean =>
    ['/usr/sbin', '/usr/bin', '/sbin', '/bin', '/usr/local/sbin', '/usr/local/bin'].some(dir =>
      existsSync(join(dir, command))
    )
  if (found()) return true
  if (process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get')) return `${command} is not installed`
  try {
    runToEnd(['apt-get', 'install', '-y', '-q', '--no-install-recommends', debianPackage], 180_000)
  } catch {
    return `${command} is not installed and apt-get could not install ${debianPackage}`
  }
  return found() || `${debianPackage} brought no ${command}`
}
