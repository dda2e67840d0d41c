/**
 * A Dial over one link, for dials that can be made over another link instead. It waits neither for a link that is down
 * nor, when there is another link, for a process that hangs: a dial without an answer has sent no byte of the caller,
 * so it can safely be made again. Open streams do wait for the link; they are not handled here.
 *
 *     OPEN ──no answer for waitMs──► probe ──no byte for waitMs──► unresponsive: every dial under way is taken back
 *                 ▲                     │ a byte came                       │ a byte came      if another link can be asked
 *                 └─────────────────────┘ (only the target is slow)         └──► responsive again
 */
import type { Clock, Timer } from '../clock.js'
import type { Dial } from '../dial.js'
import { TunnelError } from '../errors.js'
import type { Link } from './link.js'

/** Least time an answer may take before the link is probed, and again the answer to the probe, in milliseconds. */
export const ANSWER_WAIT_MS = 400
/** The same in round trips of the link: the longer of the two counts. */
export const ANSWER_ROUND_TRIPS = 3
/** Neither wait takes more than this part of a dial's time limit, so that at least half is left to ask other links. */
const WAIT_PART = 0.25
/** How often a link with dials under way is looked at, in milliseconds. One timer for all of them. */
const LOOK_MS = 25

/** A ping and its answer fit into half an interval on any path. */
const SILENT_INTERVALS = 1.5

type DialledLink = Pick<
  Link,
  'state' | 'on' | 'probe' | 'bytesReceived' | 'roundTripMs' | 'silentMs' | 'limits'
>

export type LinkDialerOptions = {
  clock: Clock
  /**
   * Whether dials could go over another link now. If not, those under way stay, and this is asked again at each probe
   * without an answer: over a path that queues for longer than the waits the answer still comes. Default: they could.
   */
  hasOtherLink?: () => boolean
  /** The other side stopped answering probes (false), or was heard again after that (true). */
  onResponsive?: (responsive: boolean) => void
}

/** A dial that has no answer yet. */
type PendingDial = { probeAtMs: number; waitMs: number; fail: (reason: TunnelError) => void }

export class LinkDialer {
  readonly #link: DialledLink
  readonly #clock: Clock
  readonly #dial: Dial
  readonly #hasOtherLink: () => boolean
  readonly #onResponsive: ((responsive: boolean) => void) | undefined
  /** In the order in which the link is probed for them. */
  readonly #pending = new Set<PendingDial>()
  #timer: Timer | undefined
  #nextLookMs = 0
  /** Sent and not answered: no byte has come since. */
  #probe: { bytesReceived: number; sentAtMs: number; waitMs: number } | undefined
  /** Bytes received when a probe was given up; undefined while the other side is responsive. */
  #unresponsiveAtBytes: number | undefined
  /** How long the last probe that was given up had waited. */
  #silenceMs = 0

  /** `dial` goes over `link`. */
  constructor(link: DialledLink, dial: Dial, options: LinkDialerOptions) {
    const { clock, hasOtherLink = () => true, onResponsive } = options
    this.#link = link
    this.#clock = clock
    this.#dial = dial
    this.#hasOtherLink = hasOtherLink
    this.#onResponsive = onResponsive
    // One listener for all dials: thousands may be under way.
    link.on('down', reason => {
      this.#forget()
      this.#failAll(new TunnelError('LINK_LOST', reason.message, { cause: reason }))
    })
    // Perhaps from up to closed. The session ends its dials itself; nobody is to be looked for any more.
    link.on('close', () => this.#forget())
  }

  /** Connected, but a ping or a probe should have been answered by now: a process that hangs, or a black hole. */
  get silent(): boolean {
    const { silentMs, limits } = this.#link
    return this.#unresponsive || silentMs > limits.pingIntervalMs * SILENT_INTERVALS
  }

  /** A probe was given up, and no byte has come since. */
  get #unresponsive(): boolean {
    return this.#unresponsiveAtBytes === this.#link.bytesReceived
  }

  /**
   * Rejects with LINK_LOST when the link is down, goes down, or its other side stops responding before the dial is
   * answered; when no other link can be asked instead, only at the end of the dial's time. The dial is then taken back:
   * should its OPEN still arrive, so will its RESET.
   */
  readonly dial: Dial = async (target, context) => {
    const { signal, timeoutMs } = context
    if (this.#link.state !== 'up') throw new TunnelError('LINK_LOST', 'the link is down')
    const attempt = new AbortController()
    let failure: TunnelError | undefined
    const waitMs = Math.min(
      Math.max(ANSWER_WAIT_MS, ANSWER_ROUND_TRIPS * this.#link.roundTripMs),
      WAIT_PART * timeoutMs
    )
    const known = this.#unresponsiveAtBytes !== undefined
    const pending: PendingDial = {
      // A link that was unresponsive is probed at once.
      probeAtMs: this.#clock.now() + (known ? 0 : waitMs),
      waitMs,
      fail: reason => {
        failure = reason
        attempt.abort(reason)
      }
    }
    const onAbort = (): void => attempt.abort(signal.reason)
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
    this.#pending.add(pending)
    this.#schedule()
    try {
      return await this.#dial(target, { ...context, signal: attempt.signal })
    } catch (error) {
      throw failure ?? (this.#unresponsive && isOverdue(error, signal) ? this.#silence() : error)
    } finally {
      this.#pending.delete(pending)
      signal.removeEventListener('abort', onAbort)
    }
  }

  /** Sets the timer again while dials are under way. */
  #schedule(): void {
    if (this.#timer || (this.#pending.size === 0 && this.#unresponsiveAtBytes === undefined)) return
    this.#nextLookMs = this.#clock.now() + LOOK_MS
    this.#timer = this.#clock.after(LOOK_MS, () => this.#look())
  }

  #look(): void {
    this.#timer = undefined
    const nowMs = this.#clock.now()
    const { bytesReceived } = this.#link
    if (this.#unresponsiveAtBytes !== undefined && this.#unresponsiveAtBytes !== bytesReceived) {
      this.#unresponsiveAtBytes = undefined
      this.#onResponsive?.(true)
    }
    if (this.#probe) {
      // While this process itself was stopped it could receive no answer.
      this.#probe.sentAtMs += nowMs - this.#nextLookMs
      if (this.#probe.bytesReceived !== bytesReceived) this.#probe = undefined
      else if (nowMs - this.#probe.sentAtMs >= this.#probe.waitMs) this.#giveUp(bytesReceived)
    }
    if (!this.#probe) this.#probeIfDue(nowMs)
    this.#schedule()
  }

  #probeIfDue(nowMs: number): void {
    for (const pending of this.#pending) {
      if (pending.probeAtMs > nowMs) break
      if (!this.#probe) {
        this.#link.probe()
        this.#probe = { bytesReceived: this.#link.bytesReceived, sentAtMs: nowMs, waitMs: pending.waitMs }
      }
      // Moves to the end of the order, for the next probe.
      pending.probeAtMs = nowMs + pending.waitMs
      this.#pending.delete(pending)
      this.#pending.add(pending)
    }
  }

  #giveUp(bytesReceived: number): void {
    this.#silenceMs = (this.#probe as { waitMs: number }).waitMs
    const first = this.#unresponsiveAtBytes === undefined
    this.#probe = undefined
    this.#unresponsiveAtBytes = bytesReceived
    if (first) this.#onResponsive?.(false)
    if (this.#hasOtherLink()) this.#failAll(this.#silence())
  }

  #silence(): TunnelError {
    return new TunnelError(
      'LINK_LOST',
      `it does not respond, no sign of life for ${Math.round(this.#silenceMs)} ms`
    )
  }

  #forget(): void {
    this.#probe = undefined
    this.#unresponsiveAtBytes = undefined
  }

  #failAll(reason: TunnelError): void {
    for (const { fail } of [...this.#pending]) fail(reason)
  }
}

/** A dial has ended because its time was over, its own or that of whoever asked for it. */
function isOverdue(error: unknown, signal: AbortSignal): boolean {
  const reason: unknown = signal.aborted ? signal.reason : error
  return reason instanceof TunnelError && reason.code === 'DIAL_TIMEOUT'
}
