/**
 * How much a peer may send. A receive window belongs to one stream and grows with bandwidth x round trip; the
 * budget belongs to the session and bounds the sum of all windows, as far as its part of what the process may promise
 * allows. Pure arithmetic: the caller brings the time.
 */
import { TunnelError } from '../errors.js'
import type { BudgetShare } from '../fair-budget.js'

export type CreditLimits = {
  /** Window of a new stream while the budget is mostly free. Default 1 MiB. */
  windowInitialBytes: number
  /** Window that every stream gets, however little of the budget is left. Default 32 KiB. */
  windowMinBytes: number
  /** Largest window of one stream. Default 32 MiB: 640 MiB/s at 50 ms of round trip. */
  windowMaxBytes: number
  /** Most bytes of window of all streams together beyond `windowMinBytes` each. Default 64 MiB. */
  budgetBytes: number
}

export const creditDefaults: CreditLimits = {
  windowInitialBytes: 1 << 20,
  windowMinBytes: 32 << 10,
  windowMaxBytes: 32 << 20,
  budgetBytes: 64 << 20
}

/**
 * Round trips below this count as this: with less, a fast path would return credit in tiny steps. At 600 MiB/s
 * one window is then about 2 MiB and credit frames stay below 1000 per second.
 */
const ROUND_TRIP_FLOOR_MS = 2

/** The memory that the windows of one session may promise. Worst case: `budgetBytes + streams x windowMinBytes`. */
export class CreditBudget {
  readonly limits: CreditLimits
  /** The credit budget of this session's party. */
  readonly #share: BudgetShare | undefined
  #used = 0

  constructor(limits: CreditLimits, share?: BudgetShare) {
    this.limits = limits
    this.#share = share
  }

  get usedBytes(): number {
    return this.#used
  }

  get freeBytes(): number {
    return Math.min(this.limits.budgetBytes - this.#used, this.#share?.freeBytes ?? Infinity)
  }

  /** A first window: a sixteenth of what is free, so that many streams share and none is refused. */
  open(): ReceiveWindow {
    const { windowInitialBytes, windowMinBytes } = this.limits
    const bytes = Math.max(windowMinBytes, Math.min(windowInitialBytes, Math.floor(this.freeBytes / 16)))
    this.take(bytes - windowMinBytes)
    return new ReceiveWindow(this, bytes)
  }

  take(bytes: number): void {
    this.#used += bytes
    this.#share?.take(bytes)
  }

  release(bytes: number): void {
    this.#used -= bytes
    this.#share?.release(bytes)
  }
}

/** What the peer may still send on one stream, and when more credit is sent. */
export class ReceiveWindow {
  readonly #budget: CreditBudget
  #windowBytes: number
  /** Promised and not yet received. */
  #promisedBytes: number
  /** Read by our side and not yet promised again. */
  #readBytes = 0
  #returnedAtMs = -Infinity
  #closed = false

  constructor(budget: CreditBudget, windowBytes: number) {
    this.#budget = budget
    this.#windowBytes = windowBytes
    this.#promisedBytes = windowBytes
  }

  get windowBytes(): number {
    return this.#windowBytes
  }

  /** @throws TunnelError FLOW_CONTROL_ERROR when the peer sends more than it was promised. */
  received(bytes: number): void {
    if (bytes > this.#promisedBytes) {
      throw new TunnelError('FLOW_CONTROL_ERROR', `${bytes} bytes sent with ${this.#promisedBytes} of credit`)
    }
    this.#promisedBytes -= bytes
  }

  /**
   * Our side has read `bytes`. Returns the credit to send now, or 0: half a window is worth a frame.
   * The window doubles when half of it was read within two round trips, for then the peer was waiting for us.
   */
  read(bytes: number, nowMs: number, roundTripMs: number): number {
    this.#readBytes += bytes
    if (this.#closed || this.#readBytes * 2 < this.#windowBytes) return 0
    const fast = nowMs - this.#returnedAtMs < 2 * Math.max(roundTripMs, ROUND_TRIP_FLOOR_MS)
    const credit = this.#readBytes + (fast ? this.#grow() : 0)
    this.#returnedAtMs = nowMs
    this.#readBytes = 0
    this.#promisedBytes += credit
    return credit
  }

  /** Gives the budget back; no credit is returned from here on. Safe to call twice. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#budget.release(this.#windowBytes - this.#budget.limits.windowMinBytes)
  }

  /** Doubles, as far as the limit and half of what is left of the budget allow: one stream never takes it all. */
  #grow(): number {
    const room = Math.min(this.#windowBytes, this.#budget.limits.windowMaxBytes - this.#windowBytes)
    const growth = Math.max(0, Math.min(room, Math.floor(this.#budget.freeBytes / 2)))
    this.#windowBytes += growth
    this.#budget.take(growth)
    return growth
  }
}
