/**
 * Keeps a line to every server, whatever happens. A *door* is an entry of the configuration: a name behind which one
 * server stands, or a balancer with many. Each door is knocked at, one attempt at a time, while something is missing
 * that may be behind it: a first line, a line that is down, a server that others announced. It never gives up: in a
 * pod giving up is a crash loop, and what is wrong today may be mended tomorrow without us being restarted.
 *
 *     missing? ──no──► asleep until something changes
 *        │yes
 *        ▼
 *     connect ──► which server is it? ──► lines of its that are down: the one that waited longest goes on
 *        │ failed        │               ──► a line that is old: goes on, before its connection is cut
 *        │               │               ──► a server without a line: a new line
 *        ▼               └──────────────────► one that we hold already: leave, try again soon
 *     wait (full jitter)
 */
import type { Backoff } from '../backoff.js'
import type { Carrier } from '../carrier.js'
import type { Clock } from '../clock.js'
import { TunnelError } from '../errors.js'
import type { Line } from './tunnel.js'

/**
 * A connection that was made through a door, the id of the server it led to, if it told, and how long it may live, in
 * milliseconds. Default: without end.
 */
export type Arrival = { carrier: Carrier; server: string | undefined; leftMs?: number }

export type Door = {
  /** For logs and probes. */
  name: string
  /** One server stands behind it, no balancer. When another answers there, the one before it is gone. Default false. */
  single?: boolean
  /** One attempt. Rejects when it fails or `signal` aborts, and then leaves nothing open. */
  connect: (signal: AbortSignal) => Promise<Arrival>
}

/** What the keeper says, pino-compatible. */
export interface KeeperLog {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
  debug(fields: object, message: string): void
}

export type KeeperOptions = {
  /** Those there are from the beginning; see `open` for others. */
  doors: readonly Door[]
  /** Parallel lines to each server. */
  slots: number
  newLine: (server: string, slot: number, onChange: (line: Line) => void) => Line
  newBackoff: () => Backoff
  clock: Clock
  log: KeeperLog
  random?: () => number
  /** An attempt failed or a line ended: for counting. */
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
/** While lines are down each of them can be tried this often, whatever happened, before its streams are given up. */
const TRIES_PER_WINDOW = 4
/** However many they are and however short the window: no bound on a pause is shorter, in milliseconds. */
const PAUSE_BOUND_MIN_MS = 500

type DoorState = {
  door: Door
  /** Not to be used any more, but for lines that began there. */
  released: boolean
  backoff: Backoff
  /** Servers it led to. */
  led: Set<string>
  duplicates: number
  lastError: TunnelError | undefined
  /** The last cause that only a change elsewhere can mend, so that each is an error in the log once. */
  told: string | undefined
  /** A line through this door was lost after living this long; the next attempt has not been made yet. */
  lostAfterMs: number | undefined
  /** What ended a line to this address, if retrying cannot help: the protocol versions of the two sides differ. */
  endedBy: TunnelError | undefined
  /** When a loss last made the door wait. */
  chargedAtMs: number
  /** Ends a sleep: something changed. */
  wake: (() => void) | undefined
  /** Ends a pause between attempts: something changed that may help, or all is over. */
  skip: (() => void) | undefined
  /** What the attempt under way was made with has changed. */
  nudged: boolean
}

export class Keeper {
  readonly #options: KeeperOptions
  readonly #doors = new Set<DoorState>()
  readonly #lines = new Set<Line>()
  /** Lines that are down, and how often others answered where their servers were. */
  readonly #others = new Map<Line, number>()
  readonly #stop = new AbortController()
  /** By server: what it said last. */
  readonly #announcements = new Map<string, readonly string[]>()
  #members: readonly string[] | undefined
  #draining = false
  /** Resolves when all is over after `stop`. */
  readonly stopped: Promise<void>
  #over!: () => void

  constructor(options: KeeperOptions) {
    this.#options = options
    this.stopped = new Promise(resolve => (this.#over = resolve))
    for (const door of options.doors) this.open(door)
  }

  /**
   * One more door.
   * @returns the release: nothing new is looked for there; lines that began there get their connections back until
   * they end. Calling it twice is fine.
   */
  open(door: Door): () => void {
    const state: DoorState = {
      door,
      released: false,
      backoff: this.#options.newBackoff(),
      led: new Set(),
      duplicates: 0,
      lastError: undefined,
      told: undefined,
      lostAfterMs: undefined,
      endedBy: undefined,
      chargedAtMs: -Infinity,
      wake: undefined,
      skip: undefined,
      nudged: false
    }
    this.#doors.add(state)
    void this.#tend(state).then(() => {
      this.#doors.delete(state)
      this.#overWhenStopped()
    })
    return () => {
      state.released = true
      state.wake?.()
      state.skip?.()
    }
  }

  /** Lines that are not over. */
  get lines(): readonly Line[] {
    return [...this.#lines]
  }

  /** For probes: each door, whether a line through it is up, and if not, why. */
  get doors(): { name: string; up: boolean; lastError: TunnelError | undefined }[] {
    return [...this.#doors].map(({ door, led, lastError }) => ({
      name: door.name,
      up: this.lines.some(line => line.up && led.has(line.server)),
      lastError
    }))
  }

  /**
   * The server `from` announced all servers it knows of: each gets a line. One that has just started knows of itself
   * only, so what all those say counts to whom a line is up; while there is none, the last word stands.
   */
  announced(members: readonly string[], from = ''): void {
    this.#announcements.set(from, members)
    this.#readAnnouncements()
  }

  #readAnnouncements(): void {
    const heard = [...this.#announcements].filter(
      ([from]) => from === '' || this.#linesTo(from).some(({ up }) => up)
    )
    if (heard.length === 0) return
    const members = [...new Set(heard.flatMap(([, members]) => members))].sort()
    if (this.#members?.join() === members.join()) return
    this.#options.log.info({ members: members.length }, 'servers announced')
    const newcomers = members.some(member => this.#members?.includes(member) === false)
    this.#members = members
    for (const state of this.#doors) {
      state.duplicates = 0
      state.wake?.()
      // The pause after earlier failures says nothing about a server that is new.
      if (newcomers) this.#shorten(state, NEWCOMER_DELAY_MAX_MS)
    }
  }

  /** A pause between attempts, if there is one, ends after at most `maxMs`. */
  #shorten(state: DoorState, maxMs: number): void {
    const { clock, random = Math.random } = this.#options
    const { skip } = state
    if (!skip) return
    clock.after(random() * maxMs, () => {
      if (state.skip === skip) skip()
    })
  }

  /**
   * Something changed that may help (a certificate, a signal of the operator): waits end now, and an attempt that is
   * under way and fails is followed by another at once. Does nothing to a line that is up.
   */
  nudge(): void {
    for (const state of this.#doors) {
      state.nudged = true
      state.skip?.()
    }
  }

  /**
   * What connections are made with has changed (a certificate): each is replaced while it works, at a random moment within
   * `withinMs`; an attempt that is under way and fails is followed by another at once.
   */
  renew(withinMs: number): void {
    this.nudge()
    for (const line of this.lines) line.replace(withinMs)
  }

  /** No new lines; those there are get their connections back until they end. */
  drain(): void {
    this.#draining = true
  }

  /** Ends for good; lines are closed with `reason`. */
  stop(reason: TunnelError): void {
    this.#stop.abort()
    for (const line of this.lines) line.close(reason)
    for (const { wake, skip } of this.#doors) {
      wake?.()
      skip?.()
    }
    this.#overWhenStopped()
  }

  #overWhenStopped(): void {
    if (this.#stop.signal.aborted && this.#doors.size === 0) this.#over()
  }

  // Doors.

  async #tend(state: DoorState): Promise<void> {
    const { signal } = this.#stop
    while (!signal.aborted && !isForgotten(state)) {
      if (!this.#missing(state)) {
        await new Promise<void>(resolve => (state.wake = resolve))
        continue
      }
      try {
        if (state.lostAfterMs !== undefined) await this.#pause(state, this.#delayAfterLoss(state))
        if (signal.aborted) break
        state.nudged = false
        const arrival = await state.door.connect(signal)
        await this.#pause(state, await this.#place(state, arrival))
      } catch (error) {
        if (!signal.aborted && !isForgotten(state))
          await this.#pause(state, this.#failed(state, TunnelError.from(error)))
      }
    }
  }

  /** Whether something is missing that may be found behind this door. */
  #missing({ led, released }: DoorState): boolean {
    const lines = this.lines
    const nothingNew = this.#draining || released
    const usable = lines.some(line => line.up && !line.leaving && led.has(line.server))
    if (!usable && !nothingNew) return true
    const wanted = lines.filter(({ wantsCarrier }) => wantsCarrier).map(({ server }) => server)
    if (!nothingNew) wanted.push(...this.#uncovered())
    const ledTo = (server: string): boolean => [...this.#doors].some(other => other.led.has(server))
    return wanted.some(server => led.has(server) || (!released && !ledTo(server)))
  }

  /** Servers that were announced or found, and have fewer lines than slots. */
  #uncovered(): string[] {
    const found = this.lines.filter(({ server }) => this.#exists(server)).map(({ server }) => server)
    return [...new Set([...(this.#members ?? []), ...found])].filter(server => {
      const lines = this.#linesTo(server)
      return lines.length < this.#options.slots && !lines.some(({ leaving }) => leaving)
    })
  }

  /** A server that the others no longer announce is not looked for. */
  #exists(server: string): boolean {
    const others = this.lines.some(line => line.up && line.server !== server)
    return !others || this.#members === undefined || this.#members.includes(server)
  }

  #linesTo(server: string): Line[] {
    return this.lines.filter(line => line.server === server)
  }

  /** Finds the use of a connection. Returns how long to wait before the next, in milliseconds. */
  async #place(state: DoorState, arrival: Arrival): Promise<number> {
    const { carrier, server = state.door.name } = arrival
    if (this.#stop.signal.aborted) {
      carrier.close('CLOSED')
      return 0
    }
    const lines = this.#linesTo(server)
    const [needy] = lines.filter(line => line.wantsCarrier).sort((one, other) => one.compareNeed(other))
    const free = [...Array(this.#options.slots).keys()].find(slot => !lines.some(line => line.slot === slot))
    if (!state.released) state.led.add(server)
    this.#forgetOthers(state, server)
    if (!needy && (free === undefined || this.#draining || state.released)) {
      carrier.close('CLOSED', 'this client is connected already')
      return this.#duplicateDelay(state)
    }
    try {
      await this.#connect(needy ?? this.#add(server, free ?? 0), arrival)
    } catch (error) {
      carrier.close('CLOSED')
      throw error
    }
    state.duplicates = 0
    state.lastError = undefined
    return 0
  }

  /**
   * Another server is at home now where these were. Of one that is not announced, and whose door leads elsewhere, the
   * process is gone, and nobody answers for its lines any more: they end now, not when their window is over.
   */
  #forgetOthers({ door, led }: DoorState, server: string): void {
    for (const line of this.lines) {
      if (line.server === server || line.up || !led.has(line.server)) continue
      const times = (this.#others.get(line) ?? 0) + 1
      this.#others.set(line, times)
      const awaited = this.#members?.includes(line.server) || times < GONE_AFTER
      if (door.single || !awaited)
        line.close(new TunnelError('SUPERSEDED', 'another server answers in its place'))
    }
  }

  async #connect(line: Line, arrival: Arrival): Promise<void> {
    try {
      await line.attach(arrival.carrier, arrival)
    } catch (error) {
      const refusal = TunnelError.from(error)
      if (refusal.code !== 'RESUME_REFUSED' || line.link.id === undefined) {
        if (line.link.id === undefined) line.close(refusal)
        throw error
      }
      // The server was restarted, or we were away too long: its end of the streams is gone.
      this.#options.log.warn(
        { server: line.server, reason: refusal.message },
        'link lost for good, beginning anew'
      )
      line.close(refusal)
      if (this.#draining || this.#stop.signal.aborted) throw error
      await this.#connect(this.#add(line.server, line.slot), arrival)
    }
  }

  #add(server: string, slot: number): Line {
    const line = this.#options.newLine(server, slot, changed => this.#lineOnChange(changed))
    this.#lines.add(line)
    return line
  }

  #lineOnChange(line: Line): void {
    if (line.over) this.#lines.delete(line)
    if (line.over || line.up) this.#others.delete(line)
    const gone = this.#linesTo(line.server).length === 0
    if (gone) this.#announcements.delete(line.server)
    this.#readAnnouncements()
    for (const state of this.#doors) {
      if (!line.up && state.led.has(line.server)) this.#lost(state, line)
      if (gone) state.led.delete(line.server)
      state.wake?.()
    }
  }

  /** A line that was connected through this address has lost its connection. */
  #lost(state: DoorState, line: Line): void {
    const cameUpMs = this.#options.clock.now() - line.livedMs
    // One cut ends many connections but counts as one failure: that of the first of those that were up at the same time.
    if (cameUpMs > state.chargedAtMs) state.lostAfterMs ??= line.livedMs
    if (line.endedBy && !mendsItself(line.endedBy)) {
      state.lostAfterMs ??= line.livedMs
      state.endedBy = line.endedBy
    }
    // A pause that began while no line was down may be far too long.
    if (line.over) return
    if (state.backoff.isProven(line.livedMs)) state.skip?.()
    else this.#shorten(state, this.#longestPauseMs(state))
  }

  /** Longest pause between attempts: each line that is down must be tried a few times in its resume window. */
  #longestPauseMs({ led }: DoorState): number {
    const down = this.lines.filter(line => !line.up && led.has(line.server))
    if (down.length === 0) return Infinity
    const windowMs = Math.min(...down.map(line => line.resumeWindowMs))
    return Math.max(PAUSE_BOUND_MIN_MS, windowMs / (TRIES_PER_WINDOW * down.length))
  }

  /** At once after a line that had proved itself; a line that comes and goes is given time. */
  #delayAfterLoss(state: DoorState): number {
    const livedMs = state.lostAfterMs ?? 0
    const { endedBy } = state
    state.lostAfterMs = undefined
    state.endedBy = undefined
    state.chargedAtMs = this.#options.clock.now()
    if (endedBy) return this.#failed(state, endedBy)
    state.told = undefined
    return this.#boundedDelay(state, state.backoff.delayAfter(livedMs))
  }

  #duplicateDelay(state: DoorState): number {
    const { random = Math.random } = this.#options
    // Only who looks for somebody in particular is in a hurry. Who looks for anybody else than a server that drains
    // waits for one to come up: knocking faster would only cost the draining one its last breath.
    const someone = this.#uncovered().length > 0 || this.lines.some(line => line.wantsCarrier)
    const beyond = Math.max(0, ++state.duplicates - (someone ? PATIENT_DUPLICATES : 1))
    const delayMs = 1 + random() * Math.min(DUPLICATE_DELAY_MAX_MS, DUPLICATE_DELAY_MS * 2 ** beyond)
    return this.#boundedDelay(state, delayMs)
  }

  /** Counts and tells a failure. Returns how long to wait. */
  #failed(state: DoorState, error: TunnelError): number {
    const { log, onEnd } = this.#options
    state.lastError = error
    onEnd?.(error)
    const mends = mendsItself(error)
    const backoffMs = mends ? state.backoff.delayAfter(0) : state.backoff.slowDelay()
    const delayMs = state.nudged ? 0 : this.#boundedDelay(state, backoffMs)
    const fields = {
      server: state.door.name,
      attempt: state.backoff.failures,
      delayMs,
      code: error.code,
      reason: error.message
    }
    if (mends) {
      state.told = undefined
      log.info(fields, 'no link yet, dialling again')
    } else if (state.told === error.message) {
      log.debug(fields, 'still no link')
    } else {
      state.told = error.message
      log.error(fields, 'no link, and trying again will not help until something is changed')
    }
    return delayMs
  }

  /** `delayMs`, or less when a line that is down must be tried sooner. */
  #boundedDelay(state: DoorState, delayMs: number): number {
    const { random = Math.random } = this.#options
    const longestMs = this.#longestPauseMs(state)
    // Random, because the lines of many clients may have been lost together.
    return delayMs > longestMs ? Math.floor(random() * longestMs) : delayMs
  }

  #pause(state: DoorState, delayMs: number): Promise<void> {
    if (this.#stop.signal.aborted || delayMs === 0) return Promise.resolve()
    return new Promise(resolve => {
      const done = (): void => {
        timer.cancel()
        state.skip = undefined
        resolve()
      }
      // Keeps the process alive: between two attempts there may be nothing else that does.
      const timer = this.#options.clock.after(delayMs, done, { ref: true })
      state.skip = done
    })
  }
}

/** Released, and no line began there. */
function isForgotten({ released, led }: DoorState): boolean {
  return released && led.size === 0
}

/** Trying again may help with nobody changing anything. `CLOSED` is a server that went away politely. */
function mendsItself({ code, retryable }: TunnelError): boolean {
  return retryable || code === 'CLOSED'
}
