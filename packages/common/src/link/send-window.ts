/**
 * How many bytes of a link may be on their way over one carrier: twice what the path delivers while a message goes out
 * and its acknowledgement comes back. With less the path would be idle at times; more would only wait in front of the
 * path, and be sent again after a loss, before everything that was written later. Pure arithmetic: the caller brings
 * the time.
 *
 * After BBR (RFC draft-ietf-ccwg-bbr): delivery rate x shortest delay, both measured once per round trip on one
 * message.
 *
 *     mark ──────── a round ──────── its acknowledgement
 *      │ bytes delivered meanwhile ÷ time = rate   │ time = delay, queues of our own included
 */

/** Never less, so that acknowledgements come by bytes rather than by time. */
export const SEND_WINDOW_MIN_BYTES = 256 << 10
/**
 * Before anything is measured. It doubles each round trip at least while that helps: 32 MiB after seven of them. With
 * more the first round over a slow path would measure how long these bytes take, and call it the delay of the path.
 */
export const SEND_WINDOW_INITIAL_BYTES = SEND_WINDOW_MIN_BYTES
/** Added to the shortest delay, in milliseconds: for so long a busy event loop may hold an acknowledgement. */
const DELAY_SLACK_MS = 50
/** A shortest delay older than this is measured again; under load the queues of our own are emptied for it. */
const DELAY_VALID_MS = 10_000
/** Fewer bytes are acknowledged late, so that the time says nothing. */
const ROUND_MIN_BYTES = 32 << 10
/** The fastest of this many rounds counts, … */
const RATES = 3
/** … but a round under load that took this long, in milliseconds, replaces the rounds before it. */
const ROUND_LONG_MS = 1_000

type Mark = { message: number; atMs: number; deliveredBytes: number; ahead: number }

export class SendWindow {
  readonly #limitBytes: number
  #bytes: number
  /** Of the last rounds, in bytes per millisecond. */
  readonly #rates: number[] = []
  #delayMs = Infinity
  #delayAtMs = -Infinity
  /** Little is sent until the delay is measured again. */
  #emptying = false
  #deliveredBytes = 0
  #mark: Mark | undefined

  /** `limitBytes`: the window is never larger, whatever the path can carry. */
  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes
    this.#bytes = Math.min(SEND_WINDOW_INITIAL_BYTES, limitBytes)
  }

  /** While fewer bytes than this are unacknowledged, the next message may be sent. */
  get bytes(): number {
    return this.#emptying ? this.#bytes / 4 : this.#bytes
  }

  /** To be called when message number `message` is sent while `ahead` bytes before it are unacknowledged. */
  sent(message: number, ahead: number, nowMs: number): void {
    if (this.#mark || (this.#emptying && ahead >= this.bytes)) return
    this.#mark = { message, atMs: nowMs, deliveredBytes: this.#deliveredBytes, ahead }
  }

  /** The peer has all messages up to number `message`, `bytes` more than before. */
  acknowledged(message: number, bytes: number, nowMs: number): void {
    this.#deliveredBytes += bytes
    const mark = this.#mark
    if (!mark || message < mark.message) return
    this.#mark = undefined
    const tookMs = Math.max(1, nowMs - mark.atMs)
    const roundBytes = this.#deliveredBytes - mark.deliveredBytes
    const bytesPerMs = roundBytes / tookMs
    // A low rate counts only when enough bytes were sent to use the path fully.
    const loaded = !this.#emptying && mark.ahead * 2 >= this.#bytes

    const old = nowMs - this.#delayAtMs > DELAY_VALID_MS
    const queuedNothing = this.#emptying || (!loaded && roundBytes >= ROUND_MIN_BYTES)
    if (tookMs <= this.#delayMs || (old && queuedNothing)) {
      this.#delayMs = tookMs
      this.#delayAtMs = nowMs
    }
    this.#emptying = loaded && old && this.#delayAtMs < nowMs
    if (loaded && tookMs >= ROUND_LONG_MS) this.#rates.length = 0
    if (loaded || bytesPerMs > Math.max(...this.#rates)) this.#rates.push(bytesPerMs)
    if (this.#rates.length > RATES) this.#rates.shift()
    const wanted = 2 * Math.max(...this.#rates) * (this.#delayMs + DELAY_SLACK_MS)
    const least = loaded ? SEND_WINDOW_MIN_BYTES : this.#bytes
    this.#bytes = Math.min(this.#limitBytes, Math.max(least, wanted))
  }
}
