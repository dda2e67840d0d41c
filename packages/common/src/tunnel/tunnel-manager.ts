/**
 * Keeps a tunnel to every server. An *endpoint* is an address of the configuration: one server answers there, or a load
 * balancer selects one of many. Each endpoint has a loop that connects, one attempt at a time, while a connection is
 * needed that this endpoint may give: a first tunnel, a tunnel that is down, a server that others announced. The loop
 * never ends by itself: a process that gave up would be restarted again and again, and a cause may disappear later.
 *
 *     connection needed? ──no──► wait until something changes
 *        │yes
 *        ▼
 *     connect ──► which server is it? ──► it has tunnels that are down: the one that waited longest gets the connection
 *        │ failed        │               ──► it has a tunnel with an old connection: replace that connection
 *        │               │               ──► it has no tunnel: create one
 *        ▼               └──────────────────► it has all its tunnels: close, and try again soon
 *     wait (full jitter)
 */
import type { Backoff } from '../backoff.js'
import type { Carrier } from '../carrier.js'
import type { Clock } from '../clock.js'
import { TunnelError } from '../errors.js'
import type { Tunnel } from './tunnel.js'

/**
 * A connection that was opened through an endpoint: its carrier, the id of the server if the server sent it, and how
 * long it may live, in milliseconds. Default: without a limit.
 */
export type EstablishedConnection = { carrier: Carrier; server: string | undefined; leftMs?: number }

export type Endpoint = {
  /** For logs and probes. */
  name: string
  /**
   * One server answers there, no load balancer. When another server answers, the previous one no longer exists. Default
   * false.
   */
  single?: boolean
  /** One attempt. Rejects when it fails or `signal` aborts, and then leaves nothing open. */
  connect: (signal: AbortSignal) => Promise<EstablishedConnection>
}

/** The log of the manager, pino-compatible. */
export interface TunnelManagerLog {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
  debug(fields: object, message: string): void
}

export type TunnelManagerOptions = {
  /** The first endpoints; `open` adds others. */
  endpoints: readonly Endpoint[]
  /** Number of tunnels to each server. */
  connections: number
  newTunnel: (server: string, connectionIndex: number, onChange: (tunnel: Tunnel) => void) => Tunnel
  newBackoff: () => Backoff
  clock: Clock
  log: TunnelManagerLog
  random?: () => number
  /** Called when an attempt failed or a tunnel ended, for metrics. */
  onEnd?: (error: TunnelError) => void
}

/**
 * A load balancer often selects a server that has its tunnels already. While another server is needed, so many attempts
 * follow without backoff.
 */
const PATIENT_DUPLICATES = 40
/** Longest wait between two such attempts, in milliseconds. */
const DUPLICATE_DELAY_MS = 30
/** Longest wait after those attempts, in milliseconds. */
const DUPLICATE_DELAY_MAX_MS = 5_000
/**
 * A server that no other server announces counts as gone after other servers have answered at its endpoint this often.
 */
const GONE_AFTER = 8
/**
 * After a new server is announced a pause ends within this time, in milliseconds; the moment is random, because many
 * clients receive the announcement at once.
 */
const NEWCOMER_DELAY_MAX_MS = 1_000
/** Attempts that each tunnel that is down gets in its resume window, whatever the backoff is. */
const TRIES_PER_WINDOW = 4
/** The least value of that limit on a pause, in milliseconds. */
const PAUSE_BOUND_MIN_MS = 500

type EndpointState = {
  endpoint: Endpoint
  /** No longer used, except for tunnels that began there. */
  released: boolean
  backoff: Backoff
  /** Ids of the servers that answered there. */
  reached: Set<string>
  duplicates: number
  lastError: TunnelError | undefined
  /** The last cause that needs a change to recover from, so that the log has it as an error only once. */
  loggedReason: string | undefined
  /** How long the connection lived that was lost, in milliseconds, until the next attempt. */
  lostAfterMs: number | undefined
  /**
   * The error that ended a tunnel through this endpoint if another attempt cannot help, such as different protocol
   * versions.
   */
  endedBy: TunnelError | undefined
  /** When a loss was last counted for the backoff. */
  chargedAtMs: number
  /** Ends the wait for a change. */
  notify: (() => void) | undefined
  /** Ends a pause between attempts: something changed that may help, or the manager stops. */
  endPause: (() => void) | undefined
  /** Something changed during the attempt: if it fails, the next one follows at once. */
  retryRequested: boolean
}

export class TunnelManager {
  readonly #options: TunnelManagerOptions
  readonly #endpoints = new Set<EndpointState>()
  readonly #tunnels = new Set<Tunnel>()
  /** Tunnels that are down, with the number of times that another server answered at their endpoint. */
  readonly #others = new Map<Tunnel, number>()
  readonly #stop = new AbortController()
  /** By server id: its last announcement. */
  readonly #announcements = new Map<string, readonly string[]>()
  #members: readonly string[] | undefined
  #draining = false
  /** Resolves after `stop`, when all loops have ended. */
  readonly stopped: Promise<void>
  #over!: () => void

  constructor(options: TunnelManagerOptions) {
    this.#options = options
    this.stopped = new Promise(resolve => (this.#over = resolve))
    for (const endpoint of options.endpoints) this.open(endpoint)
  }

  /**
   * Adds an endpoint.
   * @returns the release: no new tunnels are made there, and tunnels that began there still get connections until they
   * end. May be called twice.
   */
  open(endpoint: Endpoint): () => void {
    const state: EndpointState = {
      endpoint,
      released: false,
      backoff: this.#options.newBackoff(),
      reached: new Set(),
      duplicates: 0,
      lastError: undefined,
      loggedReason: undefined,
      lostAfterMs: undefined,
      endedBy: undefined,
      chargedAtMs: -Infinity,
      notify: undefined,
      endPause: undefined,
      retryRequested: false
    }
    this.#endpoints.add(state)
    void this.#run(state).then(() => {
      this.#endpoints.delete(state)
      this.#overWhenStopped()
    })
    return () => {
      state.released = true
      state.notify?.()
      state.endPause?.()
    }
  }

  /** Tunnels that have not ended. */
  get tunnels(): readonly Tunnel[] {
    return [...this.#tunnels]
  }

  /** For readiness: each endpoint, whether a tunnel through it is up, and the last error. */
  get endpoints(): { name: string; up: boolean; lastError: TunnelError | undefined }[] {
    return [...this.#endpoints].map(({ endpoint, reached, lastError }) => ({
      name: endpoint.name,
      up: this.tunnels.some(tunnel => tunnel.up && reached.has(tunnel.server)),
      lastError
    }))
  }

  /**
   * The server `from` announced all servers that it knows: each gets a tunnel. A server that has just started knows
   * only itself, so the announcements of all servers with a tunnel that is up are merged. Without such a server the
   * last result stays.
   */
  announced(members: readonly string[], from = ''): void {
    this.#announcements.set(from, members)
    this.#mergeAnnouncements()
  }

  #mergeAnnouncements(): void {
    const current = [...this.#announcements].filter(
      ([from]) => from === '' || this.#tunnelsTo(from).some(({ up }) => up)
    )
    if (current.length === 0) return
    const members = [...new Set(current.flatMap(([, members]) => members))].sort()
    if (this.#members?.join() === members.join()) return
    this.#options.log.info({ members: members.length }, 'servers announced')
    const newcomers = members.some(member => this.#members?.includes(member) === false)
    this.#members = members
    for (const state of this.#endpoints) {
      state.duplicates = 0
      state.notify?.()
      // Earlier failures say nothing about a new server, so their pause is shortened.
      if (newcomers) this.#shorten(state, NEWCOMER_DELAY_MAX_MS)
    }
  }

  /** Ends a pause between attempts, if there is one, within `maxMs`. */
  #shorten(state: EndpointState, maxMs: number): void {
    const { clock, random = Math.random } = this.#options
    const { endPause } = state
    if (!endPause) return
    clock.after(random() * maxMs, () => {
      if (state.endPause === endPause) endPause()
    })
  }

  /**
   * Ends all pauses now, because something changed that may help, such as a certificate. An attempt that is under way
   * and fails is followed by another at once. Tunnels that are up are not touched.
   */
  retryNow(): void {
    for (const state of this.#endpoints) {
      state.retryRequested = true
      state.endPause?.()
    }
  }

  /**
   * Replaces every connection, because the certificate has changed: each while it works, at a random moment within
   * `withinMs`. An attempt that is under way and fails is followed by another at once.
   */
  renew(withinMs: number): void {
    this.retryNow()
    for (const tunnel of this.tunnels) tunnel.replace(withinMs)
  }

  /** Makes no new tunnels from now on. Existing tunnels still get connections until they end. */
  drain(): void {
    this.#draining = true
  }

  /** Ends all loops, and closes all tunnels with `reason`. */
  stop(reason: TunnelError): void {
    this.#stop.abort()
    for (const tunnel of this.tunnels) tunnel.close(reason)
    for (const { notify, endPause } of this.#endpoints) {
      notify?.()
      endPause?.()
    }
    this.#overWhenStopped()
  }

  #overWhenStopped(): void {
    if (this.#stop.signal.aborted && this.#endpoints.size === 0) this.#over()
  }

  async #run(state: EndpointState): Promise<void> {
    const { signal } = this.#stop
    while (!signal.aborted && !isForgotten(state)) {
      if (!this.#needsConnection(state)) {
        await new Promise<void>(resolve => (state.notify = resolve))
        continue
      }
      try {
        if (state.lostAfterMs !== undefined) await this.#pause(state, this.#delayAfterLoss(state))
        if (signal.aborted) break
        state.retryRequested = false
        const connection = await state.endpoint.connect(signal)
        await this.#pause(state, await this.#assign(state, connection))
      } catch (error) {
        if (!signal.aborted && !isForgotten(state))
          await this.#pause(state, this.#failed(state, TunnelError.from(error)))
      }
    }
  }

  /** Whether a connection is needed that this endpoint may give. */
  #needsConnection({ reached, released }: EndpointState): boolean {
    const tunnels = this.tunnels
    const nothingNew = this.#draining || released
    const usable = tunnels.some(tunnel => tunnel.up && !tunnel.leaving && reached.has(tunnel.server))
    if (!usable && !nothingNew) return true
    const wanted = tunnels.filter(({ wantsCarrier }) => wantsCarrier).map(({ server }) => server)
    if (!nothingNew) wanted.push(...this.#uncovered())
    const isReached = (server: string): boolean =>
      [...this.#endpoints].some(other => other.reached.has(server))
    return wanted.some(server => reached.has(server) || (!released && !isReached(server)))
  }

  /** Servers that were announced or reached, and have fewer tunnels than `connections`. */
  #uncovered(): string[] {
    const found = this.tunnels.filter(({ server }) => this.#exists(server)).map(({ server }) => server)
    return [...new Set([...(this.#members ?? []), ...found])].filter(server => {
      const tunnels = this.#tunnelsTo(server)
      return tunnels.length < this.#options.connections && !tunnels.some(({ leaving }) => leaving)
    })
  }

  /** False for a server that the other servers no longer announce. */
  #exists(server: string): boolean {
    const others = this.tunnels.some(tunnel => tunnel.up && tunnel.server !== server)
    return !others || this.#members === undefined || this.#members.includes(server)
  }

  #tunnelsTo(server: string): Tunnel[] {
    return this.tunnels.filter(tunnel => tunnel.server === server)
  }

  /**
   * Gives a connection to a tunnel that needs it, or closes it. Returns the wait before the next attempt, in
   * milliseconds.
   */
  async #assign(state: EndpointState, connection: EstablishedConnection): Promise<number> {
    const { carrier, server = state.endpoint.name } = connection
    if (this.#stop.signal.aborted) {
      carrier.close('CLOSED')
      return 0
    }
    const tunnels = this.#tunnelsTo(server)
    const [needy] = tunnels.filter(tunnel => tunnel.wantsCarrier).sort((one, other) => one.compareNeed(other))
    const free = [...Array(this.#options.connections).keys()].find(
      connectionIndex => !tunnels.some(tunnel => tunnel.connectionIndex === connectionIndex)
    )
    if (!state.released) state.reached.add(server)
    this.#forgetOthers(state, server)
    if (!needy && (free === undefined || this.#draining || state.released)) {
      carrier.close('CLOSED', 'this client is connected already')
      return this.#duplicateDelay(state)
    }
    try {
      await this.#connect(needy ?? this.#add(server, free ?? 0), connection)
    } catch (error) {
      carrier.close('CLOSED')
      throw error
    }
    state.duplicates = 0
    state.lastError = undefined
    return 0
  }

  /**
   * Ends tunnels of servers that no longer exist: another server answers at their endpoint, and nobody announces them.
   * No server can resume these tunnels, so they end now and not after their resume window.
   */
  #forgetOthers({ endpoint, reached }: EndpointState, server: string): void {
    for (const tunnel of this.tunnels) {
      if (tunnel.server === server || tunnel.up || !reached.has(tunnel.server)) continue
      const times = (this.#others.get(tunnel) ?? 0) + 1
      this.#others.set(tunnel, times)
      const awaited = this.#members?.includes(tunnel.server) || times < GONE_AFTER
      if (endpoint.single || !awaited)
        tunnel.close(new TunnelError('SUPERSEDED', 'another server answers in its place'))
    }
  }

  async #connect(tunnel: Tunnel, connection: EstablishedConnection): Promise<void> {
    try {
      await tunnel.attach(connection.carrier, connection)
    } catch (error) {
      const refusal = TunnelError.from(error)
      if (refusal.code !== 'RESUME_REFUSED' || tunnel.link.id === undefined) {
        if (tunnel.link.id === undefined) tunnel.close(refusal)
        throw error
      }
      // The server was restarted, or the resume window is over: the server has ended the streams.
      this.#options.log.warn(
        { server: tunnel.server, reason: refusal.message },
        'link lost for good, beginning anew'
      )
      tunnel.close(refusal)
      if (this.#draining || this.#stop.signal.aborted) throw error
      await this.#connect(this.#add(tunnel.server, tunnel.connectionIndex), connection)
    }
  }

  #add(server: string, connectionIndex: number): Tunnel {
    const tunnel = this.#options.newTunnel(server, connectionIndex, changed => this.#tunnelOnChange(changed))
    this.#tunnels.add(tunnel)
    return tunnel
  }

  #tunnelOnChange(tunnel: Tunnel): void {
    if (tunnel.over) this.#tunnels.delete(tunnel)
    if (tunnel.over || tunnel.up) this.#others.delete(tunnel)
    const gone = this.#tunnelsTo(tunnel.server).length === 0
    if (gone) this.#announcements.delete(tunnel.server)
    this.#mergeAnnouncements()
    for (const state of this.#endpoints) {
      if (!tunnel.up && state.reached.has(tunnel.server)) this.#lost(state, tunnel)
      if (gone) state.reached.delete(tunnel.server)
      state.notify?.()
    }
  }

  /** A tunnel that was connected through this endpoint has lost its connection. */
  #lost(state: EndpointState, tunnel: Tunnel): void {
    const cameUpMs = this.#options.clock.now() - tunnel.livedMs
    // One failure of the network ends many connections. It counts once: connections that were up when a loss was last
    // counted are not counted again.
    if (cameUpMs > state.chargedAtMs) state.lostAfterMs ??= tunnel.livedMs
    if (tunnel.endedBy && !recoversByItself(tunnel.endedBy)) {
      state.lostAfterMs ??= tunnel.livedMs
      state.endedBy = tunnel.endedBy
    }
    // A pause that began while no tunnel was down may be too long now.
    if (tunnel.over) return
    if (state.backoff.isProven(tunnel.livedMs)) state.endPause?.()
    else this.#shorten(state, this.#longestPauseMs(state))
  }

  /** Longest pause between attempts: each tunnel that is down needs a few attempts in its resume window. */
  #longestPauseMs({ reached }: EndpointState): number {
    const down = this.tunnels.filter(tunnel => !tunnel.up && reached.has(tunnel.server))
    if (down.length === 0) return Infinity
    const windowMs = Math.min(...down.map(tunnel => tunnel.resumeWindowMs))
    return Math.max(PAUSE_BOUND_MIN_MS, windowMs / (TRIES_PER_WINDOW * down.length))
  }

  /** No wait after a connection that lasted long enough; a backoff after connections that end soon. */
  #delayAfterLoss(state: EndpointState): number {
    const livedMs = state.lostAfterMs ?? 0
    const { endedBy } = state
    state.lostAfterMs = undefined
    state.endedBy = undefined
    state.chargedAtMs = this.#options.clock.now()
    if (endedBy) return this.#failed(state, endedBy)
    state.loggedReason = undefined
    return this.#boundedDelay(state, state.backoff.delayAfter(livedMs))
  }

  #duplicateDelay(state: EndpointState): number {
    const { random = Math.random } = this.#options
    // Many attempts at once only while a certain server is needed. When all that answers is a server that drains, a
    // new server has to start first, and more attempts would only load the one that drains.
    const someone = this.#uncovered().length > 0 || this.tunnels.some(tunnel => tunnel.wantsCarrier)
    const beyond = Math.max(0, ++state.duplicates - (someone ? PATIENT_DUPLICATES : 1))
    const delayMs = 1 + random() * Math.min(DUPLICATE_DELAY_MAX_MS, DUPLICATE_DELAY_MS * 2 ** beyond)
    return this.#boundedDelay(state, delayMs)
  }

  /** Counts and logs a failure. Returns how long to wait, in milliseconds. */
  #failed(state: EndpointState, error: TunnelError): number {
    const { log, onEnd } = this.#options
    state.lastError = error
    onEnd?.(error)
    const recovers = recoversByItself(error)
    const backoffMs = recovers ? state.backoff.delayAfter(0) : state.backoff.slowDelay()
    const delayMs = state.retryRequested ? 0 : this.#boundedDelay(state, backoffMs)
    const fields = {
      server: state.endpoint.name,
      attempt: state.backoff.failures,
      delayMs,
      code: error.code,
      reason: error.message
    }
    if (recovers) {
      state.loggedReason = undefined
      log.info(fields, 'no link yet, dialling again')
    } else if (state.loggedReason === error.message) {
      log.debug(fields, 'still no link')
    } else {
      state.loggedReason = error.message
      log.error(fields, 'no link, and trying again will not help until something is changed')
    }
    return delayMs
  }

  /** `delayMs`, or less when a tunnel that is down needs an attempt sooner. */
  #boundedDelay(state: EndpointState, delayMs: number): number {
    const { random = Math.random } = this.#options
    const longestMs = this.#longestPauseMs(state)
    // Random, because many clients may have lost their tunnels at the same time.
    return delayMs > longestMs ? Math.floor(random() * longestMs) : delayMs
  }

  #pause(state: EndpointState, delayMs: number): Promise<void> {
    if (this.#stop.signal.aborted || delayMs === 0) return Promise.resolve()
    return new Promise(resolve => {
      const done = (): void => {
        timer.cancel()
        state.endPause = undefined
        resolve()
      }
      // Keeps the process alive: between two attempts nothing else may do so.
      const timer = this.#options.clock.after(delayMs, done, { ref: true })
      state.endPause = done
    })
  }
}

/** Whether the endpoint is released and no tunnel uses it. */
function isForgotten({ released, reached }: EndpointState): boolean {
  return released && reached.size === 0
}

/**
 * Whether another attempt may help without any change. `CLOSED`: the server closed the connection in an orderly way.
 */
function recoversByItself({ code, retryable }: TunnelError): boolean {
  return retryable || code === 'CLOSED'
}
