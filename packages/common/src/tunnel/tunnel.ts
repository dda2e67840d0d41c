/**
 * A tunnel: one link to one server, with the session on it. It outlives its connections and knows whether it needs
 * another one. The tunnel manager opens connections.
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
  /** Age at which a connection is replaced at the latest, in milliseconds. 0: never. */
  maxAgeMs: number
  random: () => number
  /** Called when the manager may have to act: the tunnel is up, down, old, draining or closed. */
  onChange: (tunnel: Tunnel) => void
}

/**
 * Least lifetime that is assumed for a connection, in milliseconds, so that connections are not replaced in a tight
 * loop.
 */
const LEFT_LEAST_MS = 1_000
/** The longest timer of Node. A connection that may live longer is replaced after this time, too. */
const TIMER_MOST_MS = 2 ** 31 - 1

export class Tunnel {
  readonly server: string
  readonly connectionIndex: number
  readonly link: Link
  readonly session: Session
  readonly #options: TunnelOptions
  /** The server drains: it accepts no new streams here. */
  leaving = false
  /** The error that ended the tunnel. */
  endedBy: TunnelError | undefined
  /** The carrier whose handshake is under way: one at a time (docs/protocol.md §6). */
  #handshakeCarrier: Carrier | undefined
  /** The connection is old and has to be replaced while it works. */
  #stale = false
  /** Since when there is no connection, or an old one. */
  #waitingSinceMs: number
  #resumeWindowMs: number
  #ageTimer: Timer | undefined
  /** When `#ageTimer` fires. */
  #oldAtMs = Infinity
  /** Set when `replace` is called during a handshake: the connection of that handshake has to be replaced, too. */
  #replaceWithinMs: number | undefined
  /** How long the newest connection may live, in milliseconds. */
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

  /** How long the last connection lived, in milliseconds. */
  get livedMs(): number {
    return this.#livedMs
  }

  /** Whether the tunnel needs a connection: it has none, or an old one. */
  get wantsCarrier(): boolean {
    return !this.over && !this.#handshakeCarrier && (!this.up || this.#stale)
  }

  /** How long both sides keep the streams without a connection, in milliseconds. */
  get resumeWindowMs(): number {
    return this.#resumeWindowMs
  }

  /**
   * Compares two tunnels that need a connection: below 0 when this one gets it first. A tunnel that is down comes
   * before one with an old connection, and then the one that has waited longest, so that each gets a connection in
   * turn.
   */
  compareNeed(other: Tunnel): number {
    return Number(this.up) - Number(other.up) || this.#waitingSinceMs - other.#waitingSinceMs
  }

  /**
   * Starts or resumes the link over `carrier`. Rejects as `shakeHands` does. `leftMs`: how long the connection may
   * live; it is replaced before.
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
   * Replaces the connection while it works, because the certificate has changed: at a random moment within `withinMs`,
   * because many tunnels do so for the same reason. A tunnel that is down gets a new connection anyway.
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
    // Between 80 and 90 % of the lifetime: early enough for several attempts, and not all tunnels at once.
    if (endMs < Infinity) this.#replaceAfter(endMs * (0.8 + 0.1 * random()))
    if (this.#replaceWithinMs !== undefined) this.#replaceAfter(this.#replaceWithinMs * random())
    this.#replaceWithinMs = undefined
    this.#changed()
  }

  /** Marks the connection as old after `wishedMs`, or earlier if that is planned already. */
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
