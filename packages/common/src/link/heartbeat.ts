/**
 * Detects that the other end of a carrier is gone. Any byte received shows that it is alive. After some silence it
 * sends a ping, and after more silence it ends the carrier. It also measures the round trip.
 */
import type { Clock, Timer } from '../clock.js'

export type HeartbeatLimits = {
  /**
   * Silence after which a ping is sent, in milliseconds, or up to a fifth of it earlier. Default 5000. Pings also keep
   * the connection in the tables of NATs.
   */
  pingIntervalMs: number
  /** Silence after which the carrier counts as lost, in milliseconds. Default 10 000. */
  deadAfterMs: number
}

export const heartbeatDefaults: HeartbeatLimits = { pingIntervalMs: 5_000, deadAfterMs: 10_000 }

/**
 * The part of the interval by which a ping may be early, at random. The side that sends first saves the other its ping,
 * since that side has received something. Without it both sides would go on to send at the same moment.
 */
const EARLY_PART = 0.2

/** Pings fall on ticks, this many to an interval: of a thousand idle links dozens then share one wake-up. */
const TICKS = 50

/**
 * A timer that fires later than this, in milliseconds, shows that this process was stopped or busy, not that the peer
 * is silent.
 */
export const LATE_MS = 500

type Heart = {
  bytesReceived: () => number
  ping: (id: number) => void
  dead: (silentMs: number) => void
}

export class Heartbeat {
  readonly #clock: Clock
  readonly #limits: HeartbeatLimits
  readonly #heart: Heart
  readonly #random: () => number
  #timer: Timer | undefined
  #bytes: number
  #receivedAtMs: number
  #pingId = 0
  #pingedAtMs = 0
  #askAfterMs = 0
  #asked = false
  /** When the timer should fire. */
  #dueAtMs = 0
  #roundTripMs = 0

  /** `random`: a number in [0, 1). */
  constructor(clock: Clock, limits: HeartbeatLimits, heart: Heart, random: () => number = Math.random) {
    this.#clock = clock
    this.#limits = limits
    this.#heart = heart
    this.#random = random
    this.#bytes = heart.bytesReceived()
    this.#receivedAtMs = clock.now()
    this.#wait()
  }

  /** Last measured round trip in milliseconds; 0 before the first. */
  get roundTripMs(): number {
    return this.#roundTripMs
  }

  /** Milliseconds since the last byte that was noticed. */
  get silentMs(): number {
    this.listen()
    return this.#clock.now() - this.#receivedAtMs
  }

  /** Notices received bytes. Also to be called for each message, so that silence begins with the last one. */
  listen(): void {
    const bytes = this.#heart.bytesReceived()
    if (bytes === this.#bytes) return
    this.#bytes = bytes
    this.#receivedAtMs = this.#clock.now()
    if (!this.#asked) return
    this.#asked = false
    if (!this.#timer) return
    this.stop()
    this.#wait()
  }

  /** Sends a ping now. */
  ping(): void {
    this.#asked = true
    this.#pingedAtMs = this.#clock.now()
    this.#heart.ping(++this.#pingId)
  }

  pong(id: number): void {
    if (id === this.#pingId) this.#roundTripMs = this.#clock.now() - this.#pingedAtMs
  }

  stop(): void {
    this.#timer?.cancel()
    this.#timer = undefined
  }

  /** Sets the timer for the next moment at which silence has a consequence. */
  #wait(): void {
    const { pingIntervalMs, deadAfterMs } = this.#limits
    const silentMs = this.#clock.now() - this.#receivedAtMs
    if (!this.#asked) {
      const tickMs = pingIntervalMs / TICKS
      const askAtMs = this.#receivedAtMs + pingIntervalMs * (1 - (EARLY_PART - 1 / TICKS) * this.#random())
      this.#askAfterMs = Math.floor(askAtMs / tickMs) * tickMs - this.#receivedAtMs
    }
    const nextMs = (this.#asked ? deadAfterMs : Math.min(this.#askAfterMs, deadAfterMs)) - silentMs
    this.#lookAfter(Math.max(1, nextMs))
  }

  #lookAfter(ms: number): void {
    this.#dueAtMs = this.#clock.now() + ms
    this.#timer = this.#clock.after(ms, () => this.#look())
  }

  #look(): void {
    this.#timer = undefined
    const silentMs = this.silentMs
    if (silentMs >= this.#limits.deadAfterMs) {
      // This process itself was stopped or busy: bytes received meanwhile wait in the kernel and are read before the
      // next timer.
      if (this.#clock.now() - this.#dueAtMs > LATE_MS) return this.#lookAfter(1)
      return this.#heart.dead(silentMs)
    }
    if (silentMs >= this.#askAfterMs && !this.#asked) this.ping()
    this.#wait()
  }
}
