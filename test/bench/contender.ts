/**
 * What the bench asks of a contender: a small adapter that starts real programs and says how a caller reaches the
 * target through them. Adapters from outside are modules whose default export is a Contender (`--contender`).
 */
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Child, Processes } from './processes.js'
import type { Address, Endpoint, TlsFiles } from './protocol.js'

/** `near` is the caller's end of the tunnel, `far` the target's: their memory is told apart. */
export type Program = { name: string; pid: number; side: 'near' | 'far' }

/** Certificates as `seed-server pki` makes them; every contender uses the same. */
export type Pki = { server: TlsFiles; client: TlsFiles; caller: TlsFiles }

export type Context = {
  /** Empty directory of this start, removed afterwards. */
  workDir: string
  pki: Pki
  /** Starts what is stopped after `stop`, in reverse order. */
  processes: Processes
  /** Flags for Node programs under measurement, e.g. for profiles. */
  nodeFlags: readonly string[]
  /** Starts the target; `prefix` runs it elsewhere, e.g. `['ip', 'netns', 'exec', name]`. */
  target(options?: { host?: string; prefix?: readonly string[] }): Promise<Address>
  /** The line between the two ends: what the far end dials instead of `to`. The same address when there is no delay. */
  line(to: Address, options?: { host?: string; prefix?: readonly string[] }): Promise<Address>
}

export type IdleClients = { programs: Program[]; stop(): Promise<void> }

export type Running = {
  endpoint: Endpoint
  /** Runs the load workers elsewhere. */
  loadPrefix?: readonly string[]
  programs: Program[]
  /** From the start of each program until it served, in milliseconds. */
  readyMs?: { near: number; far: number }
  /** Lets the programs give back what they no longer need, before memory is read. */
  settle?(): Promise<void>
  /** Connects this many more clients that carry nothing, from processes that are not `programs`. */
  idleClients?(count: number): Promise<IdleClients>
  /** What `processes` does not stop: interfaces, namespaces. */
  stop?(): Promise<void>
}

export type Contender = {
  /** Short, for `--only` and the columns. */
  name: string
  /** One line for the document: what runs and how it is configured. */
  title: string
  /** True, or why it cannot run here. May install Debian packages. */
  available(): Promise<true | string>
  start(context: Context): Promise<Running>
}

export const program = (child: Child, side: Program['side']): Program => ({
  name: child.name,
  pid: child.pid,
  side
})

export async function loadContender(path: string): Promise<Contender> {
  const module = (await import(pathToFileURL(resolve(path)).href)) as { default?: Partial<Contender> }
  const { name, title, available, start } = module.default ?? {}
  if (!name || !available || !start)
    throw new Error(`${path}: the default export is no contender (name, available, start)`)
  return { name, title: title ?? name, available, start }
}
