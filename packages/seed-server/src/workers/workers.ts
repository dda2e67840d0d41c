/**
 * The primary of several workers: forks them, keeps their number, passes on when to stop, and answers the admin
 * listener for all of them. It carries no byte of any stream; new connections it hands out in turn (node:cluster), so
 * that a client that dials again meets each worker soon. A worker is a whole server with an id of its own: to clients,
 * peers and siblings a replica like any other.
 *
 *     primary ── listeners, in turn ──► worker ◄── Unix sockets ──► worker
 *        └─ admin: /livez /readyz /metrics, asked of each
 */
import cluster, { type Worker } from 'node:cluster'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Timer, TunnelError, systemClock } from '@tendril/common'
import { type Admin, type Readiness, createAdmin } from '@tendril/common/admin/admin-listener'
import { type Backoff, createBackoff } from '@tendril/common/backoff'
import type { Service } from '@tendril/common/command'
import type { Log } from '@tendril/common/log'
import type { Metrics } from '@tendril/common/metrics'
import type { SeedConfig } from '../config.js'
import { removeStaleSocket } from '../front/unix.js'
import { createWorkersMetrics } from '../server-metrics.js'
import { type MetricValues, Totals } from './totals.js'
import type { Answers, FromWorker, Question, ToWorker } from './worker-messages.js'

/** A worker that does not answer for so long hangs, in milliseconds; a kubelet waits for 5 s. */
const ANSWER_TIMEOUT_MS = 4_000
/** A worker is asked for a sign of life this often within `link.deadAfter`. */
const LOOKS = 5
/** Longest wait before another worker is started in the place of one that died, in milliseconds. */
const RESPAWN_CAP_MS = 10_000
/** Sockets are made for this user only; the fronts' own mode follows when they listen. */
const UMASK = 0o177

/** Where one worker after the other is at work. */
type Place = {
  number: number
  socket: string
  backoff: Backoff
  worker: Worker | undefined
  /** Until another is started here. */
  respawn: Timer | undefined
  /** Undefined: not started. */
  id: string | undefined
  startedAtMs: number
  /** Why it could not start, as it said. */
  failure: TunnelError | undefined
  /** Checks in a row at which the answer to the previous check was still missing. */
  unanswered: number
  /** What it had counted when it was last asked. */
  counted: MetricValues[]
}

export type WorkersOptions = { count: number; version: string; log: Log; metrics: Metrics }

export class Workers implements Service {
  readonly closed: Promise<void>
  readonly #config: SeedConfig
  readonly #options: WorkersOptions
  readonly #log: Log
  readonly #totals = new Totals()
  readonly #counts: ReturnType<typeof createWorkersMetrics>
  readonly #questions = new Map<number, (answer: Answers[Question]) => void>()
  #asked = 0
  #places: Place[] = []
  #directory: string | undefined
  #admin: Admin | undefined
  /** Until the workers are looked at again. */
  #look: Timer | undefined
  /** All have started once: from here on those that die are replaced. */
  #started = false
  #stopping: Promise<void> | undefined
  #over!: () => void
  #fail!: (error: TunnelError) => void

  constructor(config: SeedConfig, options: WorkersOptions) {
    const { metrics, log } = options
    this.#config = config
    this.#options = options
    this.#log = log
    this.closed = new Promise((resolve, reject) => {
      this.#over = resolve
      this.#fail = reject
    })
    this.#counts = createWorkersMetrics(metrics, {
      serving: () => this.#places.filter(({ id }) => id !== undefined).length
    })
  }

  /** Rejects as a server's start does, with what the first worker that could not start said. */
  async start(): Promise<void> {
    const { admin, fronts } = this.#config
    if (admin) {
      this.#admin = await createAdmin({
        program: 'seed-server',
        ...admin,
        live: () => this.#live(),
        ready: () => this.#ready(),
        metrics: {
          contentType: this.#options.metrics.registry.contentType,
          metrics: () => this.#metrics()
        },
        log: this.#log
      })
    }
    // Here and not in the workers: to them a socket that is in use is their siblings'.
    for (const { listen } of fronts) if ('path' in listen) await removeStaleSocket(listen.path)
    const directory = (this.#directory = await makeDirectory())
    process.umask(UMASK)
    cluster.schedulingPolicy = cluster.SCHED_RR
    cluster.setupPrimary({
      exec: fileURLToPath(new URL('./worker.js', import.meta.url)),
      args: [],
      // JSON has no NaN, and no undefined.
      serialization: 'advanced'
    })
    this.#places = Array.from({ length: this.#options.count }, (_, index) => ({
      number: index + 1,
      socket: join(directory, `${index + 1}.sock`),
      backoff: createBackoff({ capMs: RESPAWN_CAP_MS }),
      worker: undefined,
      respawn: undefined,
      id: undefined,
      startedAtMs: 0,
      failure: undefined,
      unanswered: 0,
      counted: []
    }))
    try {
      await Promise.all(this.#places.map(place => this.#fork(place)))
      this.#started = true
      this.#watch()
    } catch (error) {
      // Nobody is served yet. One mistake is said once, by whoever made it first.
      this.#stopping = this.#end('SIGKILL')
      await this.#stopping
      throw error
    }
  }

  /** All drain at the same time, each as a server does. Safe to call twice. */
  stop(): Promise<void> {
    this.#stopping ??= this.#end()
    return this.#stopping
  }

  async #end(signal?: NodeJS.Signals): Promise<void> {
    await Promise.all(
      this.#places.map(async ({ worker, respawn }) => {
        respawn?.cancel()
        if (!worker || worker.isDead()) return
        const gone = new Promise(resolve => worker.once('exit', resolve))
        if (signal) worker.process.kill(signal)
        else send(worker, { stop: true })
        await gone
      })
    )
    this.#look?.cancel()
    await this.#admin?.close()
    if (this.#directory !== undefined) await rm(this.#directory, { recursive: true, force: true })
    this.#over()
  }

  /** Resolves when it serves; rejects when it ends before. */
  #fork(place: Place): Promise<void> {
    place.failure = undefined
    let worker: Worker
    try {
      worker = place.worker = cluster.fork()
    } catch (error) {
      return this.#notForked(place, error as Error)
    }
    const { process: child } = worker
    const { pid } = child
    // child_process: where there is no process there is no 'exit', either.
    if (pid === undefined)
      return once(worker, 'error').then(([error]) => this.#notForked(place, error as Error))
    const siblings = this.#places.filter(other => other !== place).map(({ socket }) => socket)
    const begin = { config: this.#config, version: this.#options.version, own: place.socket, siblings }
    const cutConnections = connectionsUnderWay(worker)
    // Its channel broke: its end follows.
    worker.on('error', error => this.#log.debug({ err: error, pid }, 'worker not reached'))
    return new Promise((resolve, reject) => {
      worker.on('message', (message: FromWorker) => {
        // Nobody would tell it to stop any more.
        if ('here' in message) return this.#stopping ? void child.kill('SIGKILL') : send(worker, { begin })
        if ('answer' in message) return this.#questions.get(message.number)?.(message.answer)
        if ('failed' in message)
          return void (place.failure = new TunnelError(message.failed.code, message.failed.detail))
        place.id = message.started.id
        place.startedAtMs = systemClock.now()
        this.#log.info({ worker: place.id.slice(0, 8), number: place.number, pid }, 'worker serves')
        resolve()
      })
      worker.once('exit', (code: number | null, signal: NodeJS.Signals | null) => {
        cutConnections()
        const how = signal ?? `exit code ${code ?? 'unknown'}`
        reject(place.failure ?? new TunnelError('INTERNAL', `worker ${place.number} ended (${how})`))
        void this.#ended(place, how)
      })
    })
  }

  /** The system has no process left, or no memory for one. */
  async #notForked(place: Place, error: Error): Promise<never> {
    void this.#ended(place, error.message)
    throw new TunnelError('INTERNAL', `worker ${place.number} not started (${error.message})`, {
      cause: error
    })
  }

  async #ended(place: Place, how: string): Promise<void> {
    const { number, id, failure, startedAtMs, counted } = place
    const livedMs = id === undefined ? 0 : systemClock.now() - startedAtMs
    Object.assign(place, {
      worker: undefined,
      id: undefined,
      unanswered: 0,
      counted: []
    } satisfies Partial<Place>)
    await this.#totals.keep(counted)
    if (!this.#started) return
    if (this.#stopping) {
      if (how !== 'exit code 0')
        this.#log.warn({ worker: id?.slice(0, 8), number, how }, 'worker died, stopping')
      return
    }
    const alone = this.#places.every(({ worker }) => worker === undefined)
    if (failure && alone) return this.#fail(failure)
    const delayMs = place.backoff.delayAfter(livedMs)
    this.#log.error(
      { worker: id?.slice(0, 8), number, how, delayMs, reason: failure?.message },
      'worker died, starting another'
    )
    place.respawn = systemClock.after(
      delayMs,
      () => {
        this.#counts.restarted()
        // What becomes of it is seen at its end.
        this.#fork(place).catch(() => {})
      },
      { ref: true }
    )
  }

  /**
   * Ends workers that serve and hang: whoever answers nothing for `link.deadAfter` is killed, and replaced as one that
   * died. Counted in looks, not in time: while the primary or the whole machine stands still nobody is looked at. One
   * that has not started yet is not checked. Goes on while all drain: a worker that hangs would never end.
   */
  #watch(): void {
    for (const place of this.#places) {
      const { worker, id, number } = place
      if (!worker || id === undefined) continue
      if (place.unanswered >= LOOKS) {
        this.#log.error({ worker: id.slice(0, 8), number }, 'worker does not answer, it is killed')
        worker.process.kill('SIGKILL')
      } else if (place.unanswered++ === 0) {
        void this.#ask(place, 'alive', Infinity).then(() => {
          if (place.worker === worker) place.unanswered = 0
        })
      }
    }
    const { deadAfter } = this.#config.link
    this.#look = systemClock.after(deadAfter / LOOKS, () => this.#watch(), { ref: true })
  }

  /** What a worker answers; undefined when none serves there, or it does not answer in time. */
  async #ask<Q extends Question>(
    { worker, id }: Place,
    question: Q,
    timeoutMs = ANSWER_TIMEOUT_MS
  ): Promise<Answers[Q] | undefined> {
    if (!worker?.isConnected() || id === undefined) return undefined
    const number = ++this.#asked
    const answer = await new Promise<Answers[Question] | undefined>(resolve => {
      const settle = (answer?: Answers[Question]): void => {
        timer?.cancel()
        worker.off('exit', none)
        this.#questions.delete(number)
        resolve(answer)
      }
      const none = (): void => settle()
      const timer = timeoutMs < Infinity ? systemClock.after(timeoutMs, none) : undefined
      worker.once('exit', none)
      this.#questions.set(number, settle)
      send(worker, { ask: question, number })
    })
    return answer as Answers[Q] | undefined
  }

  /** Whether each answers. One that hangs is killed and replaced after `link.deadAfter`. */
  async #live(): Promise<Readiness> {
    const serving = this.#places.filter(({ id }) => id !== undefined)
    const answers = await Promise.all(
      serving.map(async place => (await this.#ask(place, 'ready')) ?? place.id === undefined)
    )
    return {
      ok: answers.every(answer => answer),
      reasons: serving.map(
        ({ number }, at) => `worker ${number}: ${answers[at] ? 'answers' : 'does not answer'}`
      )
    }
  }

  /** When all workers are. */
  async #ready(): Promise<Readiness> {
    const answers = await Promise.all(
      this.#places.map(async place => {
        const answer = await this.#ask(place, 'ready')
        const { ok, reasons } = answer ?? { ok: false, reasons: ['does not serve'] }
        return { ok, reasons: reasons.map(reason => `worker ${place.number}: ${reason}`) }
      })
    )
    return {
      ok: answers.length > 0 && answers.every(({ ok }) => ok),
      reasons: answers.flatMap(({ reasons }) => reasons)
    }
  }

  async #metrics(): Promise<string> {
    await Promise.all(
      this.#places.map(async place => {
        const answer = await this.#ask(place, 'metrics')
        if (answer && place.worker) place.counted = answer
      })
    )
    const own = (await this.#options.metrics.registry.getMetricsAsJSON()) as MetricValues[]
    return this.#totals.of([own, ...this.#places.map(({ counted }) => counted)])
  }
}

function send(worker: Worker, message: ToWorker): void {
  // One that has gone does not hear; its end is heard of.
  if (worker.isConnected()) worker.send(message, () => {})
}

/** Only this user may enter it (mkdtemp: mode 0700). */
async function makeDirectory(): Promise<string> {
  try {
    return await mkdtemp(join(tmpdir(), 'tendril-'))
  } catch (error) {
    throw new TunnelError(
      'LISTEN_FAILED',
      `workers need a directory for their sockets: ${(error as Error).message} (TMPDIR names another)`,
      { cause: error }
    )
  }
}

/**
 * A connection that was handed to a worker which dies before it took it is forgotten by Node, still open: whoever made
 * it would wait for ever. Node hands over one for each listener, and the next when that was taken.
 * @returns closes those that the worker may not have taken; those it took are closed here already.
 */
function connectionsUnderWay({ process: child }: Worker): () => void {
  const handles = new Map<unknown, { close(): void }>()
  const send = child.send.bind(child) as (...given: unknown[]) => boolean
  child.send = (...given: unknown[]): boolean => {
    const [message, handle] = given as [{ key?: unknown }, { close(): void } | undefined]
    if (typeof handle?.close === 'function') handles.set(message.key, handle)
    return send(...given)
  }
  return () => {
    for (const handle of handles.values()) handle.close()
  }
}
