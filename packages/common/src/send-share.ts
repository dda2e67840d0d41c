/**
 * What the sessions of one party, a cluster for example, may send in one turn of the event loop, all together, while
 * other parties send, too: a party with many links has no more of the process than one with a single link. A session
 * sends at once while the share lasts; beyond it, it waits for a later turn, and sessions that wait send one after the
 * other. A party that is alone has no share to keep to. It knows nothing of sessions.
 */
import { FairScheduler } from './fair-scheduler.js'
import { Queue } from './queue.js'

/**
 * A message takes one unit of the share (SHARE_UNITS in fair-scheduler), and one more for each of these bytes: a share
 * is 1 MiB. Beside nine links of another cluster, a cluster with one link had 0.76 times its throughput beside a busy loop;
 * with a share of 256 KiB it had 0.57 times that (test/chaos/shares, medians).
 */
export const SEND_UNIT_BYTES = 32 << 10

/** A party that has sent nothing for more turns than this no longer limits the others. */
export const RECENT_TURNS = 2

/** The parties of one process. */
export class SendShares {
  readonly #scheduler: FairScheduler
  /** The party that sent last, its last turn, and the last turn of any other party. */
  #last: SendShare | undefined
  #lastTurn = -Infinity
  #otherTurn = -Infinity

  constructor(scheduler = new FairScheduler()) {
    this.#scheduler = scheduler
  }

  /** The share of one more party. */
  add(): SendShare {
    return new SendShare(this, this.#scheduler)
  }

  /** Records that the party of `share` sends in this turn. */
  sends(share: SendShare): void {
    if (share !== this.#last) {
      this.#otherTurn = this.#lastTurn
      this.#last = share
    }
    this.#lastTurn = this.#scheduler.turn
  }

  /** No other party has sent lately. */
  isAlone(share: SendShare): boolean {
    const otherTurn = share === this.#last ? this.#otherTurn : this.#lastTurn
    return this.#scheduler.turn - otherTurn > RECENT_TURNS
  }
}

export class SendShare {
  readonly #shares: SendShares
  readonly #share
  readonly #waiting = new Queue<() => void>()

  /** Made by `SendShares.add`. */
  constructor(shares: SendShares, scheduler: FairScheduler) {
    this.#shares = shares
    this.#share = scheduler.share(() => this.#sendWaiting())
  }

  /** True: one more message may be sent now, and is to be charged. */
  get hasRoom(): boolean {
    return !this.#share.isExhausted || this.#shares.isAlone(this)
  }

  charge(bytes: number): void {
    this.#share.charge(1 + Math.floor(bytes / SEND_UNIT_BYTES))
    this.#shares.sends(this)
  }

  /** `send` is called once, in a later turn, when there is room again and those that came before have sent. */
  wait(send: () => void): void {
    this.#waiting.push(send)
    this.#share.wait()
  }

  #sendWaiting(): void {
    let send
    while (this.hasRoom && (send = this.#waiting.shift())) send()
    if (this.#waiting.length > 0) this.#share.wait()
  }
}
