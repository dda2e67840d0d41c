/**
 * Fair turns at the event loop for what peers make this process do. Node reads a socket until it is empty, and one read
 * brings thousands of tiny messages: a peer that sends nothing else would hold up all others for milliseconds each
 * time. So every receiver has a share: what it may do in one turn of the event loop. What is left waits, and shares
 * that wait are served one after the other, a share each, together for one allowance per turn (deficit round robin, RFC
 * 8290 §4). It knows nothing of sockets, messages or peers.
 *
 * ```
 * peer ─► receiver ── share not spent ──► does it now, and charges the share
 *             └────── spent ──► wait() ─► the scheduler calls `work` in a later turn
 * ```
 */
import { type Clock, systemClock } from './clock.js'
import { Queue } from './queue.js'

/** What one receiver may do in one turn: this many messages or frames, or 32 KiB pieces of them. */
export const SHARE_UNITS = 32

/** What all receivers that wait may do together in one turn, beside those that need not wait. */
export const TURN_UNITS = 256

/**
 * How long they may take for it, in milliseconds: some units cost a write to a socket each. At least one share is
 * served.
 */
export const TURN_MS = 0.2

export class FairScheduler {
  readonly #waiting = new Queue<Share>()
  readonly #clock: Pick<Clock, 'now'>
  #turn = 0
  #armed = false

  constructor(clock: Pick<Clock, 'now'> = systemClock) {
    this.#clock = clock
  }

  /** Counts turns of the event loop in which something was charged. */
  get turn(): number {
    return this.#turn
  }

  /**
   * The number of this turn, for what is done once in each. The next one has another number, even if nothing is
   * charged.
   */
  enter(): number {
    this.arm()
    return this.#turn
  }

  /** `work` is called when the share may go on; it charges what it does, and calls `wait` when something is left. */
  share(work: () => void): Share {
    return new Share(this, work)
  }

  enqueue(share: Share): void {
    this.#waiting.push(share)
    this.arm()
  }

  /** The turn ends once the event loop has read what its sockets have. */
  arm(): void {
    if (this.#armed) return
    this.#armed = true
    setImmediate(this.#run)
  }

  readonly #run = (): void => {
    this.#armed = false
    this.#turn++
    if (this.#waiting.length === 0) return
    const endMs = this.#clock.now() + TURN_MS
    let units = TURN_UNITS
    try {
      do {
        const share = this.#waiting.shift()
        if (!share) break
        units -= Math.max(1, share.run())
      } while (units > 0 && this.#clock.now() < endMs)
    } finally {
      if (this.#waiting.length > 0) this.arm()
    }
  }
}

export class Share {
  readonly #scheduler: FairScheduler
  readonly #work: () => void
  #turn = -1
  #units = 0
  #isWaiting = false

  constructor(scheduler: FairScheduler, work: () => void) {
    this.#scheduler = scheduler
    this.#work = work
  }

  /** True when the rest has to wait for a later turn. */
  get isExhausted(): boolean {
    return this.#units >= SHARE_UNITS && this.#turn === this.#scheduler.turn
  }

  charge(units: number): void {
    const { turn } = this.#scheduler
    if (this.#turn !== turn) {
      this.#turn = turn
      this.#units = 0
      this.#scheduler.arm()
    }
    this.#units += units
  }

  /** Asks for `work` to be called. Safe to call twice. */
  wait(): void {
    if (this.#isWaiting) return
    this.#isWaiting = true
    this.#scheduler.enqueue(this)
  }

  /** Called by the scheduler: a whole share, whatever was spent before. Returns what was done with it. */
  run(): number {
    this.#isWaiting = false
    this.#turn = this.#scheduler.turn
    this.#units = 0
    this.#work()
    return this.#units
  }
}

/** The turns of this process: what peers send is received in them. */
export const receiveScheduler = new FairScheduler()
