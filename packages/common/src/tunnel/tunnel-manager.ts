/**
 * Keeps a tunnel to every server, whatever happens. An *endpoint* is an entry of the configuration: a name behind which one
 * server stands, or a balancer with many. Each endpoint is knocked at, one attempt at a time, while something is missing
 * that may be behind it: a first tunnel, a tunnel that is down, a server that others announced. It never gives up: in a
 * pod giving up is a crash loop, and what is wrong today may be mended tomorrow without us being restarted.
 *
 *     missing? ──no──► asleep until something changes
 *        │yes
 *        ▼
 *     connect ──► which server is it? ──► tunnels of its that are down: the one that waited longest goes on
 *        │ failed        │               ──► a tunnel that is old: goes on, before its connection is cut
 *        │               │               ──► a server without a tunnel: a new tunnel
 *        ▼               └──────────────────► one that we hold already: leave, try again soon
 *     wait (full jitter)
 */
import type { Backoff } from '../backoff.js'
import type { Carrier } from '../carrier.js'
import type { Clock } from '../clock.js'
import { TunnelError } from '../errors.js'
import type { Tunnel } from './tunnel.js'

/**
 * A connection that was made through an endpoint, the id of the server it led to, if it loggedReason, and how long it may live, in
 * milliseconds. Default: without end.
 */
export type EstablishedConnection = { carrier: Carrier; server: string | undefined; leftMs?: number }

export type Endpoint = {
  /** For logs and probes. */
  name: string
  /** One server stands behind it, no balancer. When another answers there, the one before it is gone. Default false. */
  single?: boolean
  /** One attempt. Rejects when it fails or `signal` aborts, and then leaves nothing open. */
  connect: (signal: AbortSignal) => Promise<EstablishedConnection>
}

/** What the manager says, pino-compatible. */
export interface TunnelManagerLog {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
  debug(fields: object, message: string): void
}

export type TunnelManagerOptions = {
  /** Those there are from the beginning; see `open` for others. */
  endpoints: readonly Endpoint[]
  /** Parallel tunnels to each server. */
  connections: number
  newTunnel: (server: string, connectionIndex: number, onChange: (tunnel: Tunnel) => void) => Tunnel
  newBackoff: () => Backoff
  clock: Clock
  log: TunnelManagerLog
  random?: () => number
  /** An attempt failed or a tunnel ended: for counting. */
  onEnd?: (error: TunnelError) => void
}

/** Behind a balancer the same servers answer again and again: while one is missing they are asked this often without backing off. */
const PATIENT_DUPLICATES = 40
/** Longest wait between two such attempts, in milliseconds. */
const DUPLICATE_DELAY_MS = 30
/** And longest wait once patience is over. */
const DUPLICATE_DELAY_MAX_MS = 5_000
/** A server that nobody announces is taken for gone when others answered this often where it was. */
const GONE_AFTER = 8
/** A pause ends at most so long after a new server was announced, in milliseconds: by chance, for many hear of it at once. */
const NEWCOMER_DELAY_MAX_MS = 1_000
/** While tunnels are down each of them can be tried this often, whatever happened, before its streams are given up. */
const TRIES_PER_WINDOW = 4
/** However many they are and however short the window: no bound on a pause is shorter, in milliseconds. */
const PAUSE_BOUND_MIN_MS = 500

type EndpointState = {
  endpoint: Endpoint
  /** Not to be used any more, but for tunnels that began there. */
  released: boolean
  backoff: Backoff
  /** Servers it led to. */
  reached: Set<string>
  duplicates: number
  lastError: TunnelError | undefined
  /** The last cause that only a change elsewhere can mend, so that each is an error in the log once. */
  loggedReason: string | undefined
  /** A tunnel through this endpoint was lost after living this long; the next attempt has not been made yet. */
  lostAfterMs: number | undefined
  /** What ended a tunnel to this address, if retrying cannot help: the protocol versions of the two sides differ. */
  endedBy: TunnelError | undefined
  /** When a loss last made the endpoint wait. */
  chargedAtMs: number
  /** Ends a sleep: something changed. */
  notify: (() => void) | undefined
  /** Ends a pause between attempts: something changed that may help, or all is over. */
  endPause: (() => void) | undefined
  /** What the attempt under way was made with has changed. */
  retryRequested: boolean
}

export class TunnelManager {
  readonly #options: TunnelManagerOptions
  readonly #endpoints = new Set<EndpointState>()
  readonly #tunnels = new Set<Tunnel>()
  /** Lines that are down, and how often others answered where their servers were. */
  readonly #others = new Map<Tunnel, number>()
  readonly #stop = new AbortController()
  /** By server: what it said last. */
  readonly #announcements = new Map<string, readonly string[]>()
  #members: readonly string[] | undefined
  #draining = false
  /** Resolves when all is over after `stop`. */
  readonly stopped: Promise<void>
  #over!: () => void

  constructor(options: TunnelManagerOptions) {
    this.#options = options
    this.stopped = new Promise(resolve => (this.#over = resolve))
    for (const endpoint of options.endpoints) this.open(endpoint)
  }

  /**
   * One more endpoint.
   * @returns the release: nothing new is looked for there; tunnels that began there get their connections back until
   * they end. Calling it twice is fine.
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

  /** Lines that are not over. */
  get tunnels(): readonly Tunnel[] {
    return [...this.#tunnels]
  }

  /** For probes: each endpoint, whether a tunnel through it is up, and if not, why. */
  get endpoints(): { name: string; up: boolean; lastError: TunnelError | undefined }[] {
    return [...this.#endpoints].map(({ endpoint, reached, lastError }) => ({
      name: endpoint.name,
      up: this.tunnels.some(tunnel => tunnel.up && reached.has(tunnel.server)),
      lastError
    }))
  }

  /**
   * The server `from` announced all servers it knows of: each gets a tunnel. One that has just started knows of itself
   * only, so what all those say counts to whom a tunnel is up; while there is none, the last word stands.
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
      // The pause after earlier failures says nothing about a server that is new.
      if (newcomers) this.#shorten(state, NEWCOMER_DELAY_MAX_MS)
    }
  }

  /** A pause between attempts, if there is one, ends after at most `maxMs`. */
  #shorten(state: EndpointState, maxMs: number): void {
    const { clock, random = Math.random } = this.#options
    const { endPause } = state
    if (!endPause) return
    clock.after(random() * maxMs, () => {
      if (state.endPause === endPause) endPause()
    })
  }

  /**
   * Something changed that may help (a certificate, a signal of the operator): waits end now, and an attempt that is
   * under way and fails is followed by another at once. Does nothing to a tunnel that is up.
   */
  retryNow(): void {
    for (const state of this.#endpoints) {
      state.retryRequested = true
      state.endPause?.()
    }
  }

  /**
   * What connections are made with has changed (a certificate): each is replaced while it works, at a random moment within
   * `withinMs`; an attempt that is under way and fails is followed by another at once.
   */
  renew(withinMs: number): void {
    this.retryNow()
    for (const tunnel of this.tunnels) tunnel.replace(withinMs)
  }

  /** No new tunnels; those there are get their connections back until they end. */
  drain(): void {
    this.#draining = true
  }

  /** Ends for good; tunnels are closed with `reason`. */
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

  /** Whether something is missing that may be found behind this endpoint. */
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

  /** Servers that were announced or found, and have fewer tunnels than connections. */
  #uncovered(): string[] {
    const found = this.tunnels.filter(({ server }) => this.#exists(server)).map(({ server }) => server)
    return [...new Set([...(this.#members ?? []), ...found])].filter(server => {
      const tunnels = this.#tunnelsTo(server)
      return tunnels.length < this.#options.connections && !tunnels.some(({ leaving }) => leaving)
    })
  }

  /** A server that the others no longer announce is not looked for. */
  #exists(server: string): boolean {
    const others = this.tunnels.some(tunnel => tunnel.up && tunnel.server !== server)
    return !others || this.#members === undefined || this.#members.includes(server)
  }

  #tunnelsTo(server: string): Tunnel[] {
    return this.tunnels.filter(tunnel => tunnel.server === server)
  }

  /** Finds the use of a connection. Returns how long to wait before the next, in milliseconds. */
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
   * Another server is at home now where these were. Of one that is not announced, and whose endpoint leads elsewhere, the
   * process is gone, and nobody answers for its tunnels any more: they end now, not when their window is over.
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
      // The server was restarted, or we were away too long: its end of the streams is gone.
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

  /** A tunnel that was connected through this address has lost its connection. */
  #lost(state: EndpointState, tunnel: Tunnel): void {
    const cameUpMs = this.#options.clock.now() - tunnel.livedMs
    // One cut ends many connections but counts as one failure: that of the first of those that were up at the same time.
    if (cameUpMs > state.chargedAtMs) state.lostAfterMs ??= tunnel.livedMs
    if (tunnel.endedBy && !recoversByItself(tunnel.endedBy)) {
      state.lostAfterMs ??= tunnel.livedMs
      state.endedBy = tunnel.endedBy
    }
    // A pause that began while no tunnel was down may be far too long.
    if (tunnel.over) return
    if (state.backoff.isProven(tunnel.livedMs)) state.endPause?.()
    else this.#shorten(state, this.#longestPauseMs(state))
  }

  /** Longest pause between attempts: each tunnel that is down must be tried a few times in its resume window. */
  #longestPauseMs({ reached }: EndpointState): number {
    const down = this.tunnels.filter(tunnel => !tunnel.up && reached.has(tunnel.server))
    if (down.length === 0) return Infinity
    const windowMs = Math.min(...down.map(tunnel => tunnel.resumeWindowMs))
    return Math.max(PAUSE_BOUND_MIN_MS, windowMs / (TRIES_PER_WINDOW * down.length))
  }

  /** At once after a tunnel that had proved itself; a tunnel that comes and goes is given time. */
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
    // Only who looks for somebody in particular is in a hurry. Who looks for anybody else than a server that drains
    // waits for one to come up: knocking faster would only cost the draining one its last breath.
    const someone = this.#uncovered().length > 0 || this.tunnels.some(tunnel => tunnel.wantsCarrier)
    const beyond = Math.max(0, ++state.duplicates - (someone ? PATIENT_DUPLICATES : 1))
    const delayMs = 1 + random() * Math.min(DUPLICATE_DELAY_MAX_MS, DUPLICATE_DELAY_MS * 2 ** beyond)
    return this.#boundedDelay(state, delayMs)
  }

  /** Counts and tells a failure. Returns how long to wait. */
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

  /** `delayMs`, or less when a tunnel that is down must be tried sooner. */
  #boundedDelay(state: EndpointState, delayMs: number): number {
    const { random = Math.random } = this.#options
    const longestMs = this.#longestPauseMs(state)
    // Random, because the tunnels of many clients may have been lost together.
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
      // Keeps the process alive: between two attempts there may be nothing else that does.
      const timer = this.#options.clock.after(delayMs, done, { ref: true })
      state.endPause = done
    })
  }
}

/** Released, and no tunnel began there. */
function isForgotten({ released, reached }: EndpointState): boolean {
  return released && reached.size === 0
}

/** Trying again may help with nobody changing anything. `CLOSED` is a server that went away politely. */
function recoversByItself({ code, retryable }: TunnelError): boolean {
  return retryable || code === 'CLOSED'
}
