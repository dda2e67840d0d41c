/**
 * A tunnel: one link to one server, with the session on it. It outlives the connections under it and knows whether it
 * needs another one; who brings that is the manager's business.
 */
import type { Carrier } from '../carrier.js'
import type { Clock, Timer } from '../clock.js'
import type { TunnelError } from '../errors.js'
import { type LinkSelf, shakeHands } from '../link/handshake.js'
import type { Link } from '../link/link.js'
import type { Session } from '../mux/session.js'

export type TunnelOptions = {
  /** Id of the server at the other end. */
  server: string
  link: Link
  session: Session
  self: LinkSelf
  clock: Clock
  /** After this long a connection is replaced before somebody cuts it, in milliseconds; 0: never. */
  maxAgeMs: number
  random: () => number
  /** Something happened that may mean work for the manager. */
  onChange: (tunnel: Tunnel) => void
}

/** A connection that may live for less is replaced as if it were this, in milliseconds: not again and again at once. */
const LEFT_LEAST_MS = 1_000
/** What a timer of Node holds: a connection that may live for longer is replaced after this time, too. */
const TIMER_MOST_MS = 2 ** 31 - 1

export class Tunnel {
  readonly server: string
  readonly connectionIndex: number
  readonly link: Link
  readonly session: Session
  readonly #options: TunnelOptions
  /** The server takes no new streams here: it drains. */
  leaving = false
  /** Why it is over. */
  endedBy: TunnelError | undefined
  /** The carrier over which a handshake is under way: one at a time (docs/protocol.md §6). */
  #handshakeCarrier: Carrier | undefined
  /** The connection is old: it is to be replaced while it still works. */
  #stale = false
  /** Since when it has had no connection, or an old one. */
  #waitingSinceMs: number
  #resumeWindowMs: number
  #ageTimer: Timer | undefined
  /** When the timer ends. */
  #oldAtMs = Infinity
  /** `replace` was called during the handshake: its connection, too, was made with what has changed. */
  #replaceWithinMs: number | undefined
  /** How long the connection may live over which a handshake is under way, or was last. */
  #leftMs = Infinity
  #upAtMs = 0
  #livedMs = 0

  constructor(options: TunnelOptions) {
    this.#options = options
    this.server = options.server
    this.connectionIndex = options.self.connectionIndex
    this.link = options.link
    this.session = options.session
    this.#waitingSinceMs = options.clock.now()
    this.#resumeWindowMs = options.link.limits.resumeWindowMs
    this.link.on('up', () => this.#linkOnUp())
    this.link.on('down', () => this.#linkOnEnd())
    this.link.on('close', error => {
      this.endedBy = error
      this.#linkOnEnd()
    })
    this.session.on('goaway', () => {
      this.leaving = true
      this.#changed()
    })
  }

  get up(): boolean {
    return this.link.state === 'up'
  }

  get over(): boolean {
    return this.link.state === 'closed'
  }

  /** How long the last connection lasted, in milliseconds. */
  get livedMs(): number {
    return this.#livedMs
  }

  /** Another connection would be welcome: there is none, or it has grown old. */
  get wantsCarrier(): boolean {
    return !this.over && !this.#handshakeCarrier && (!this.up || this.#stale)
  }

  /** How long both sides keep the streams while there is no connection, in milliseconds. */
  get resumeWindowMs(): number {
    return this.#resumeWindowMs
  }

  /**
   * Of two tunnels that want a connection: below 0 when this one is to have it first. Down before old, and the one that
   * has waited longest before the others: so each gets a connection in turn.
   */
  compareNeed(other: Tunnel): number {
    return Number(this.up) - Number(other.up) || this.#waitingSinceMs - other.#waitingSinceMs
  }

  /**
   * Goes on over `carrier`, or begins. Rejects as `shakeHands` does. `leftMs`: it has to be replaced before it is so old,
   * since it will be dropped then.
   */
  async attach(carrier: Carrier, { leftMs = Infinity }: { leftMs?: number } = {}): Promise<void> {
    const { self, clock } = this.#options
    this.#handshakeCarrier = carrier
    this.#leftMs = leftMs
    try {
      const { resumeWindowMs } = await shakeHands(carrier, this.link, self, { clock })
      this.#resumeWindowMs = Math.min(this.link.limits.resumeWindowMs, resumeWindowMs)
    } finally {
      this.#handshakeCarrier = undefined
      this.#replaceWithinMs = undefined
    }
  }

  /**
   * What its connection was made with has changed: it is replaced by another one, while it works, at a random moment
   * within `withinMs`, because many tunnels are replaced for the same reason. A tunnel that is down gets a new connection anyway.
   */
  replace(withinMs: number): void {
    if (this.#handshakeCarrier) this.#replaceWithinMs = withinMs
    else if (this.up) this.#replaceAfter(withinMs * this.#options.random())
  }

  close(reason: TunnelError): void {
    this.link.close(reason.code, reason.detail)
    this.#handshakeCarrier?.close(reason.code, reason.detail)
  }

  #linkOnUp(): void {
    const { clock, maxAgeMs, random } = this.#options
    this.#upAtMs = clock.now()
    this.#stale = false
    this.#oldAtMs = Infinity
    this.#ageTimer?.cancel()
    this.#ageTimer = undefined
    const endMs = Math.min(maxAgeMs > 0 ? maxAgeMs : Infinity, Math.max(this.#leftMs, LEFT_LEAST_MS))
    // Between 80 and 90 %: early enough to be done in time, and not all tunnels at once.
    if (endMs < Infinity) this.#replaceAfter(endMs * (0.8 + 0.1 * random()))
    if (this.#replaceWithinMs !== undefined) this.#replaceAfter(this.#replaceWithinMs * random())
    this.#replaceWithinMs = undefined
    this.#changed()
  }

  /** After `wishedMs` at the latest. */
  #replaceAfter(wishedMs: number): void {
    const { clock } = this.#options
    const ms = Math.min(wishedMs, TIMER_MOST_MS)
    const atMs = clock.now() + ms
    if (atMs >= this.#oldAtMs) return
    this.#oldAtMs = atMs
    this.#ageTimer?.cancel()
    this.#ageTimer = clock.after(ms, () => {
      this.#stale = true
      this.#waitingSinceMs = clock.now()
      this.#changed()
    })
  }

  #linkOnEnd(): void {
    this.#waitingSinceMs = this.#options.clock.now()
    if (this.#upAtMs > 0) this.#livedMs = this.#waitingSinceMs - this.#upAtMs
    this.#upAtMs = 0
    this.#ageTimer?.cancel()
    this.#changed()
  }

  #changed(): void {
    this.#options.onChange(this)
  }
}
