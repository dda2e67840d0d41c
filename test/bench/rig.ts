/**
 * One started contender with its load workers, target and line: opens groups of streams over the workers and
 * measures windows of time. What a window means is the workloads' business.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Contender, IdleClients, Pki, Program, Running } from './contender.js'
import { Histogram } from './histogram.js'
import { Processes, type Child } from './processes.js'
import { cpuSeconds, machineBusySeconds, peakKib, pssKib, resetPeak } from './procfs.js'
import type {
  Address,
  GroupMark,
  GroupOpened,
  GroupSpec,
  LoadReply,
  LoadRequest,
  TargetReply,
  TargetRequest
} from './protocol.js'

/** An answer of a helper that takes longer means that the machine or the contender hangs. */
const REPLY_TIMEOUT_MS = 15_000
/** 5000 full handshakes on two slow cores. */
const OPEN_TIMEOUT_MS = 180_000
const KIB = 1024
const MIB = 1024 * KIB

export type Opened = { opened: number; failed: number; tookMs: number; latencies: Histogram; error?: string }

export type Group = { number: number; opened: Opened; stop(): Promise<void> }

/** What happened in one window. Rates are sums over the workers, each by its own clock. */
export type Window = {
  seconds: number
  /** Received by downloads, and by the target of uploads. */
  downBytesPerSecond: number
  upBytesPerSecond: number
  groups: Map<number, { operationsPerSecond: number; failures: number; latencies: Histogram; error?: string }>
  /** CPU seconds by process name; the load workers together are `load`. */
  cpuSeconds: Record<string, number>
  /** Highest resident set of each program, MiB. */
  peakMib: Record<string, number>
  /** CPU seconds of everything on this machine that is not part of the bench: above a few per cent, mistrust the rest. */
  foreignCpuSeconds: number
}

export type RigOptions = {
  pki: Pki
  workers: number
  rttMs: number
  nodeFlags: readonly string[]
  workRoot: string
}

export class Rig {
  readonly contender: Contender
  readonly running: Running
  readonly #processes: Processes
  readonly #workDir: string
  readonly #workers: Child[]
  readonly #target: Child
  readonly #line: Child | undefined
  readonly #pending = new Map<number, (reply: LoadReply & TargetReply) => void>()
  #ids = 0
  #groups = 0

  private constructor(
    contender: Contender,
    running: Running,
    processes: Processes,
    helpers: { workDir: string; workers: Child[]; target: Child; line: Child | undefined }
  ) {
    this.contender = contender
    this.running = running
    this.#processes = processes
    this.#workDir = helpers.workDir
    this.#workers = helpers.workers
    this.#target = helpers.target
    this.#line = helpers.line
    for (const child of [...this.#workers, this.#target]) {
      child.process.on('message', (reply: LoadReply & TargetReply) => {
        this.#pending.get(reply.id)?.(reply)
        this.#pending.delete(reply.id)
      })
    }
  }

  static async start(contender: Contender, options: RigOptions): Promise<Rig> {
    const workDir = mkdtempSync(join(options.workRoot, `${contender.name}-`))
    const processes = new Processes(workDir)
    let target: Child | undefined
    let line: Child | undefined
    let running: Running | undefined
    try {
      running = await contender.start({
        workDir,
        pki: options.pki,
        processes,
        nodeFlags: options.nodeFlags,
        async target({ host = '127.0.0.1', prefix = [] } = {}) {
          target = processes.helper('target', [host], prefix)
          return await processes.listening(target)
        },
        async line(to: Address, { host = '127.0.0.1', prefix = [] } = {}) {
          if (options.rttMs === 0) return to
          line = processes.helper('latency-relay', [host, to.host, `${to.port}`, `${options.rttMs}`], prefix)
          return await processes.listening(line)
        }
      })
      if (!target) throw new Error(`${contender.name} started no target`)
      const prefix = running.loadPrefix ?? []
      const workers = Array.from({ length: options.workers }, () =>
        processes.helper('load-worker', [], prefix)
      )
      return new Rig(contender, running, processes, { workDir, workers, target, line })
    } catch (error) {
      await processes.stop()
      await running?.stop?.()
      rmSync(workDir, { recursive: true, force: true })
      throw error
    }
  }

  async stop(): Promise<void> {
    await this.#processes.stop()
    await this.running.stop?.()
    rmSync(this.#workDir, { recursive: true, force: true })
  }

  /**
   * Opens a group, its streams spread over the workers. Rejects when not one of them could be opened.
   * @param on `first` or `others` keeps two groups out of each other's process, where there are several workers.
   */
  async open(spec: GroupSpec, on: 'all' | 'first' | 'others' = 'all'): Promise<Group> {
    const number = ++this.#groups
    const several = this.#workers.length > 1
    const workers = this.#workers.filter(
      (_, index) => on === 'all' || !several || (on === 'first') === (index === 0)
    )
    const parts = workers.map((worker, index) => {
      const streams = share(spec.streams, workers.length, index)
      return { worker, spec: { ...spec, streams } }
    })
    const used = parts.filter(part => part.spec.streams > 0)
    const replies = await Promise.all(
      used.map(({ worker, spec: its }) =>
        this.#ask(
          worker,
          { do: 'start', group: number, endpoint: this.running.endpoint, spec: its },
          OPEN_TIMEOUT_MS
        )
      )
    )
    const stop = async (): Promise<void> => {
      await Promise.all(used.map(({ worker }) => this.#ask(worker, { do: 'stop', group: number })))
    }
    const opened = addOpened(replies.flatMap(reply => reply.opened ?? []))
    if (opened.opened === 0) {
      await stop()
      throw new Error(`no stream could be opened: ${opened.error ?? 'unknown reason'}`)
    }
    return { number, opened, stop }
  }

  /** Measures for `ms` what the open groups do. */
  async window(ms: number): Promise<Window> {
    const { programs } = this.running
    for (const { pid } of programs) resetPeak(pid)
    const before = await this.#mark()
    await sleep(ms)
    const after = await this.#mark()

    const result: Window = {
      seconds: (after.target.atMs - before.target.atMs) / 1000,
      downBytesPerSecond: 0,
      upBytesPerSecond: perSecond(after.target.upBytes - before.target.upBytes, before.target, after.target),
      groups: new Map(),
      cpuSeconds: {},
      foreignCpuSeconds: 0,
      peakMib: Object.fromEntries(programs.map(({ name, pid }) => [name, peakKib(pid) / KIB]))
    }
    for (const [name, seconds] of after.cpu) {
      result.cpuSeconds[name] = (result.cpuSeconds[name] ?? 0) + seconds - (before.cpu.get(name) ?? 0)
    }
    const own = Object.values(result.cpuSeconds).reduce((total, seconds) => total + seconds, 0)
    result.foreignCpuSeconds = Math.max(0, after.busySeconds - before.busySeconds - own)
    after.workers.forEach((worker, index) => {
      for (const [number, mark] of Object.entries(worker.groups ?? {})) {
        const sum = result.groups.get(Number(number)) ?? {
          operationsPerSecond: 0,
          failures: 0,
          latencies: new Histogram()
        }
        const start = before.workers[index] ?? worker
        result.downBytesPerSecond += perSecond(mark.bytes, start, worker)
        addMark(sum, mark, perSecond(mark.operations, start, worker))
        result.groups.set(Number(number), sum)
      }
    })
    return result
  }

  /** Proportional set size of each side's programs in KiB, after they gave back what they do not need. */
  async memoryKib(): Promise<{ near: number; far: number }> {
    await this.running.settle?.()
    const of = (side: Program['side']): number =>
      this.running.programs
        .filter(one => one.side === side)
        .reduce((total, { pid }) => total + pssKib(pid), 0)
    return { near: of('near'), far: of('far') }
  }

  /** Programs that have ended on their own, with the last they said; empty when all live. */
  dead(): string {
    return this.#processes.dead()
  }

  cpuSeconds(): number {
    return this.running.programs.reduce((total, { pid }) => total + cpuSeconds(pid), 0)
  }

  idleClients(count: number): Promise<IdleClients> | undefined {
    return this.running.idleClients?.(count)
  }

  async #mark(): Promise<{
    workers: LoadReply[]
    target: TargetReply
    cpu: Map<string, number>
    busySeconds: number
  }> {
    const [target, ...workers] = await Promise.all([
      this.#ask(this.#target, { do: 'mark' }),
      ...this.#workers.map(worker => this.#ask(worker, { do: 'mark' }))
    ])
    const cpu = new Map<string, number>()
    const processes = [
      ...this.running.programs,
      ...this.#workers,
      this.#target,
      ...(this.#line ? [this.#line] : [])
    ]
    for (const { name, pid } of processes) cpu.set(name, (cpu.get(name) ?? 0) + cpuSeconds(pid))
    return { workers, target, cpu, busySeconds: machineBusySeconds() }
  }

  async #ask(
    child: Child,
    request: WithoutId<LoadRequest> | WithoutId<TargetRequest>,
    timeoutMs = REPLY_TIMEOUT_MS
  ): Promise<LoadReply & TargetReply> {
    const id = ++this.#ids
    const over = new AbortController()
    const reply = new Promise<LoadReply & TargetReply>(resolve => this.#pending.set(id, resolve))
    const silent = once(child.process, 'exit', { signal: over.signal }).then(() => `${child.name} ended`)
    const late = sleep(timeoutMs, `${child.name} did not answer ${request.do} within ${timeoutMs} ms`, {
      signal: over.signal
    })
    child.process.send({ ...request, id })
    try {
      const first = await Promise.race([reply, silent, late])
      if (typeof first === 'string') throw new Error(first)
      return first
    } finally {
      this.#pending.delete(id)
      over.abort()
      await Promise.allSettled([silent, late])
    }
  }
}

type WithoutId<T> = T extends unknown ? Omit<T, 'id'> : never

/** The share of worker `index` when `total` is dealt out evenly. */
function share(total: number, workers: number, index: number): number {
  return Math.floor(total / workers) + (index < total % workers ? 1 : 0)
}

function perSecond(count: number, before: { atMs: number }, after: { atMs: number }): number {
  return after.atMs > before.atMs ? (count * 1000) / (after.atMs - before.atMs) : 0
}

function addOpened(parts: readonly GroupOpened[]): Opened {
  const sum: Opened = { opened: 0, failed: 0, tookMs: 0, latencies: new Histogram() }
  for (const part of parts) {
    sum.opened += part.opened
    sum.failed += part.failed
    sum.tookMs = Math.max(sum.tookMs, part.tookMs)
    sum.latencies.add(part.latencies)
    if (part.error !== undefined) sum.error ??= part.error
  }
  return sum
}

function addMark(
  sum: { operationsPerSecond: number; failures: number; latencies: Histogram; error?: string },
  mark: GroupMark,
  operationsPerSecond: number
): void {
  sum.operationsPerSecond += operationsPerSecond
  sum.failures += mark.failures
  sum.latencies.add(mark.latencies)
  if (mark.error !== undefined) sum.error ??= mark.error
}

export const mib = (bytes: number): number => bytes / MIB
