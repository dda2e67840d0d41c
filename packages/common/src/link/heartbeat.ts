/**
 * Whether the other end of a carrier is still there. Any byte received is a sign of life; when none came for a
 * while a ping asks for one, and when none came for longer the carrier is given up. It measures the round trip
 * along the way.
 */
import type { Clock, Timer } from '../clock.js'

export type HeartbeatLimits = {
  /** Silence after which a ping is sent, in milliseconds. Default 5000. Also what keeps a NAT's memory fresh. */
  pingIntervalMs: number
  /** Silence after which the carrier counts as lost, in milliseconds. Default 10 000. */
  deadAfterMs: number
}

export const heartbeatDefaults: HeartbeatLimits = { pingIntervalMs: 5_000, deadAfterMs: 10_000 }

type Heart = {
  bytesReceived: () => number
  ping: (id: number) => void
  dead: (silentMs: number) => void
}

export class Heartbeat {
  readonly #clock: Clock
  readonly #limits: HeartbeatLimits
  readonly #heart: Heart
  #timer: Timer | undefined
  #bytes: number
  #heardAtMs: number
  #pingId = 0
  #pingedAtMs = 0
  #asked = false
  #roundTripMs = 0

  constructor(clock: Clock, limits: HeartbeatLimits, heart: Heart) {
    this.#clock = clock
    this.#limits = limits
    this.#heart = heart
    this.#bytes = heart.bytesReceived()
    this.#heardAtMs = clock.now()
    this.#wait()
  }

  /** Last measured round trip in milliseconds; 0 before the first. */
  get roundTripMs(): number {
    return this.#roundTripMs
  }

  /** Milliseconds since the last sign of life, as far as it was looked for. */
  get silentMs(): number {
    this.listen()
    return this.#clock.now() - this.#heardAtMs
  }

  /** Looks whether something came. Also to be called when a message arrives: silence begins at the last one. */
  listen(): void {
    const bytes = this.#heart.bytesReceived()
    if (bytes === this.#bytes) return
    this.#bytes = bytes
    this.#heardAtMs = this.#clock.now()
    this.#asked = false
  }

  /** Asks for a sign of life now. */
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

  /** One timer at a time: the next moment at which silence would mean something. */
  #wait(): void {
    const { pingIntervalMs, deadAfterMs } = this.#limits
    const silentMs = this.silentMs
    const nextMs = (this.#asked ? deadAfterMs : Math.min(pingIntervalMs, deadAfterMs)) - silentMs
    this.#timer = this.#clock.after(Math.max(1, nextMs), () => this.#look())
  }

  #look(): void {
    const silentMs = this.silentMs
    if (silentMs >= this.#limits.deadAfterMs) return this.#heart.dead(silentMs)
    if (silentMs >= this.#limits.pingIntervalMs && !this.#asked) this.ping()
    this.#wait()
  }
}
