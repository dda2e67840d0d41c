/**
 * A machine of its own as far as commands of a guide can tell: an /etc and a /var/lib to write to, names to look up, a
 * home, and if wanted a network with nothing but loopback. Made of Linux namespaces, so it needs root. Not a container: programs
 * and everything else are this machine's.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { appendFile, chmod, chown, cp, mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { searchPath } from './child-process.js'

/** Where the commands of the guides expect to be: the checkout, or what looks like it. */
const CHECKOUT = fileURLToPath(new URL('../../../', import.meta.url))
const RUN_TIMEOUT_MS = 60_000

export type SandboxOptions = {
  /** An empty directory: the working directory is made in it, and what the sandbox itself needs. */
  dir: string
  /** Names and their addresses, for /etc/hosts. */
  hosts?: Record<string, string>
  /** Programs by name, before all others. */
  programs?: Record<string, string>
  env?: Record<string, string>
  /** `own` has loopback only. Default: the network of whoever asks. */
  network?: 'own' | 'here'
}

export type RunPlace = {
  /** A network namespace under /run/netns to run in, instead of the sandbox's. */
  namespace?: string
}

/** Why no sandbox can be made on this machine; undefined if one can. */
export function whyNoSandbox(): string | undefined {
  if (process.getuid?.() !== 0) return 'a sandbox needs root'
  return spawnSync('unshare', ['--mount', '--net', 'true']).status === 0
    ? undefined
    : 'namespaces cannot be made here'
}

export class Sandbox {
  /** Where commands run. */
  readonly cwd: string
  readonly #dir: string
  readonly #env: Record<string, string>
  readonly #holder: ChildProcess
  readonly #groups: number[] = []
  #count = 0

  private constructor(dir: string, env: Record<string, string>, holder: ChildProcess) {
    this.#dir = dir
    this.cwd = join(dir, 'checkout')
    this.#env = env
    this.#holder = holder
  }

  static async create(options: SandboxOptions): Promise<Sandbox> {
    const { dir, hosts = {}, programs = {}, env = {}, network = 'here' } = options
    const below = (name: string): string => join(dir, name)
    const [etc, lib, cwd, bin, home] = [
      below('etc'),
      below('lib'),
      below('checkout'),
      below('bin'),
      below('home')
    ]
    await cp('/etc', etc, { recursive: true, verbatimSymlinks: true })
    for (const made of [lib, cwd, bin, home]) await mkdir(made)
    for (const name of ['node_modules', 'deploy']) await symlink(join(CHECKOUT, name), join(cwd, name))
    for (const [name, path] of Object.entries(programs)) await symlink(path, join(bin, name))
    const lines = Object.entries(hosts).map(([name, address]) => `${address} ${name}\n`)
    await appendFile(join(etc, 'hosts'), `\n${lines.join('')}`)

    const binds = [`mount --bind ${etc} /etc`, `mount --bind ${lib} /var/lib`]
    const steps = [...binds, ...(network === 'own' ? ['ip link set lo up'] : [])]
    const holder = spawn(
      'unshare',
      [
        ...['--mount', ...(network === 'own' ? ['--net'] : [])],
        ...['sh', '-ec', `${steps.join('; ')}; echo ready; exec sleep infinity`]
      ],
      { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, PATH: searchPath } }
    )
    const said = await Promise.race([once(holder.stdout, 'data'), once(holder, 'exit')])
    if (String(said[0]) !== 'ready\n') throw new Error('the sandbox could not be made')
    const path = `${bin}:${searchPath}`
    return new Sandbox(dir, { ...env, PATH: path, HOME: home, npm_config_update_notifier: 'false' }, holder)
  }

  /** A file of the sandbox: below its /etc, or relative to `cwd`. */
  path(file: string): string {
    return file.startsWith('/etc/') ? join(this.#dir, file) : resolve(this.cwd, file)
  }

  async write(file: string, content: string | Buffer, { mode = 0o644, gid = 0 } = {}): Promise<void> {
    const path = this.path(file)
    await mkdir(dirname(path), { recursive: true })
    await writeFile(path, content)
    await chmod(path, mode)
    await chown(path, 0, gid)
  }

  /** Runs shell commands and returns what they print. What they put into the background stays until `close`. */
  async run(commands: string, { namespace }: RunPlace = {}): Promise<string> {
    const log = join(this.#dir, `${(this.#count += 1)}.log`)
    const net = namespace === undefined ? ['--net'] : [`--net=/run/netns/${namespace}`]
    const argv = ['--target', String(this.#holder.pid), '--mount', ...net]
    const output = openSync(log, 'a')
    const child = spawn(
      'nsenter',
      [...argv, 'bash', '-euo', 'pipefail', '-c', `cd ${this.cwd}\n${commands}`],
      {
        stdio: ['ignore', output, output],
        env: { ...process.env, ...this.#env },
        detached: true
      }
    )
    closeSync(output)
    if (child.pid) this.#groups.push(child.pid)
    const timer = setTimeout(() => this.#kill(child.pid, 'SIGKILL'), RUN_TIMEOUT_MS)
    // `exit`, not `close`: a program in the background keeps its output open.
    const [code] = (await once(child, 'exit')) as [number | null]
    clearTimeout(timer)
    const text = await readFile(log, 'utf8')
    if (code !== 0) throw new Error(`ended with ${code ?? 'a signal'}: ${commands.trim()}\n${text}`)
    return text
  }

  /** What all commands so far have written, the background's included. */
  async logs(): Promise<string> {
    const files = Array.from({ length: this.#count }, (_, at) => join(this.#dir, `${at + 1}.log`))
    return (await Promise.all(files.map(file => readFile(file, 'utf8')))).join('')
  }

  /** Ends what runs in the background, gracefully within `graceMs`. */
  async stopAll(graceMs = 5_000): Promise<void> {
    const groups = this.#groups.splice(0)
    for (const group of groups) this.#kill(group, 'SIGTERM')
    const endMs = performance.now() + graceMs
    while (groups.some(alive) && performance.now() < endMs) await new Promise(done => setTimeout(done, 20))
    for (const group of groups) this.#kill(group, 'SIGKILL')
  }

  /** May be called twice. */
  async close(): Promise<void> {
    await this.stopAll()
    if (this.#holder.exitCode !== null || this.#holder.signalCode !== null) return
    this.#holder.kill('SIGKILL')
    await once(this.#holder, 'exit')
  }

  #kill(group: number | undefined, signal: NodeJS.Signals): void {
    try {
      if (group !== undefined) process.kill(-group, signal)
    } catch {
      // Nobody of the group is left: the usual case.
    }
  }
}

function alive(group: number): boolean {
  try {
    return process.kill(-group, 0)
  } catch {
    return false
  }
}
