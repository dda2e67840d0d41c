/**
 * Whether the other side of a link acknowledges what it is sent. A peer that reads and never acknowledges would make
 * this side keep its messages for ever. A slow peer is not ended, because it acknowledges something from time to time.
 * Knows only times.
 */
import type { Clock, Timer } from '../clock.js'
import { LATE_MS } from './heartbeat.js'

export type StallLimits = {
  /**
   * How long messages may be under way without one of them being acknowledged while the link is up, in milliseconds, in
   * sum over its connections; then the link ends. Default 30 000.
   *
   * A new connection alone does not start the time again: a peer that never acknowledges could come back every 29 s and
   * have its messages kept for ever. A link that moves is not ended, however often it breaks, since a resume says what
   * has arrived. But a message that a break cuts is sent again from its beginning, so the largest, 128 KiB, has to
   * arrive in this time and within one connection: over 4.3 KiB/s that do not break, over 6.4 KiB/s that break every 20
   * s. Over 4 KiB/s that break every 20 s each connection carries 80 KiB of it and none ever more: that link is ended
   * after 30 s, and a longer time would not help. With bulk both ways the acknowledgement waits behind what the peer
   * has sent before, at first 256 KiB: over less than 13 KiB/s set a longer time.
   */
  ackTimeoutMs: number
}

export const stallDefaults: StallLimits = { ackTimeoutMs: 30_000 }

export class StallWatch {
  readonly #clock: Clock
  readonly #timeoutMs: number
  readonly #onStalled: () => void
  /**
   * The last acknowledgement, or the first message that waits for one; undefined while none does, or the link is down.
   */
  #sinceMs: number | undefined
  /** Time waited over earlier connections: a new connection is no acknowledgement. */
  #waitedMs = 0
  #timer: Timer | undefined
  /** When the timer should fire. */
  #dueAtMs = 0

  constructor(clock: Clock, timeoutMs: number, onStalled: () => void) {
    this.#clock = clock
    this.#timeoutMs = timeoutMs
    this.#onStalled = onStalled
  }

  /** Something was sent that waits to be acknowledged. */
  waiting(): void {
    if (this.#sinceMs !== undefined) return
    this.#sinceMs = this.#clock.now() - this.#waitedMs
    // The timer stays through acknowledgements: there is one for each message of an interactive stream.
    if (!this.#timer) this.#lookAfter(this.#timeoutMs - this.#waitedMs)
  }

  /** Something was acknowledged; `waiting` says whether more is under way. */
  moved({ waiting }: { waiting: boolean }): void {
    this.#waitedMs = 0
    this.#sinceMs = waiting ? this.#clock.now() : undefined
  }

  /** The link is down: time stands still until something is under way again. Safe to call twice. */
  pause(): void {
    this.#timer?.cancel()
    this.#timer = undefined
    if (this.#sinceMs !== undefined) this.#waitedMs = this.#clock.now() - this.#sinceMs
    this.#sinceMs = undefined
  }

  #lookAfter(ms: number): void {
    this.#dueAtMs = this.#clock.now() + ms
    this.#timer = this.#clock.after(ms, this.#look)
  }

  readonly #look = (): void => {
    this.#timer = undefined
    if (this.#sinceMs === undefined) return
    const nowMs = this.#clock.now()
    // It was this process that stood still: what was acknowledged meanwhile waits in the kernel, or is said at the
    // resume.
    if (nowMs - this.#dueAtMs > LATE_MS) this.moved({ waiting: true })
    const leftMs = this.#sinceMs + this.#timeoutMs - nowMs
    if (leftMs <= 0) return this.#onStalled()
    this.#lookAfter(leftMs)
  }
}
