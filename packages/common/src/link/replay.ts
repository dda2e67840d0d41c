/**
 * The replay buffer of a link: counted messages that the other side has not acknowledged, kept by reference.
 * Knows nothing of sockets or time. Counting follows XEP-0198 §4: an acknowledgement carries a total, not an id.
 */
import { TunnelError } from '../errors.js'
import type { BudgetShare } from '../fair-budget.js'
import { releaseMessage } from '../message-buffer.js'

/** Default for the bytes that all links of one process keep together: 256 MiB. */
export const REPLAY_BUDGET_BYTES = 256 << 20

export type ReplayLimits = {
  /**
   * Most bytes kept for a resume. At the limit `send` answers false until acknowledgements arrive. Default
   * 32 MiB: 400 MiB/s at 50 ms of round trip. Too small costs throughput on long paths, never data.
   */
  replayLimitBytes: number
  /** Bytes a link may keep when the budget is used up. Default 256 KiB. */
  replayMinBytes: number
}

export const replayDefaults: ReplayLimits = { replayLimitBytes: 32 << 20, replayMinBytes: 256 << 10 }

export class ReplayBuffer {
  readonly #limits: ReplayLimits
  readonly #budget: BudgetShare
  #messages: Buffer[] = []
  #head = 0
  #bytes = 0
  #sent = 0
  #acknowledged = 0

  /** `budget`: worst case of all links that share it is its total and `replayMinBytes` for each link. */
  constructor(limits: ReplayLimits, budget: BudgetShare) {
    this.#limits = limits
    this.#budget = budget
  }

  /** Messages sent since the link began. */
  get sent(): number {
    return this.#sent
  }

  /** Messages that the other side has acknowledged. */
  get acknowledged(): number {
    return this.#acknowledged
  }

  get bytes(): number {
    return this.#bytes
  }

  /** Whether more may be kept; while false, the sender waits. One message may go over the limit. */
  get hasRoom(): boolean {
    if (this.#bytes < this.#limits.replayMinBytes) return true
    return this.#bytes < this.#limits.replayLimitBytes && this.#budget.freeBytes > 0
  }

  /** Takes over the caller's hold on the message. */
  push(message: Buffer): void {
    this.#messages.push(message)
    this.#sent++
    this.#bytes += message.length
    this.#budget.take(message.length)
  }

  /**
   * The other side has `count` messages. Returns the bytes let go. @throws TunnelError PROTOCOL_ERROR when it cannot
   * be.
   */
  acknowledge(count: number): number {
    if (count < this.#acknowledged || count > this.#sent) {
      const range = `${this.#acknowledged} to ${this.#sent} fit`
      throw new TunnelError('PROTOCOL_ERROR', `${count} messages acknowledged, ${range}`)
    }
    let freed = 0
    for (; this.#acknowledged < count; this.#acknowledged++) {
      const message = this.#messages[this.#head] as Buffer
      freed += message.length
      releaseMessage(message)
      // Let the bytes go at once, not when the array is next compacted.
      this.#messages[this.#head++] = NOTHING
    }
    this.#bytes -= freed
    this.#budget.release(freed)
    if (this.#head > 1024 && this.#head * 2 > this.#messages.length) {
      this.#messages.splice(0, this.#head)
      this.#head = 0
    }
    return freed
  }

  /** Message number `number`, counted from 1, which is not acknowledged. */
  message(number: number): Buffer {
    return this.#messages[this.#head + number - this.#acknowledged - 1] as Buffer
  }

  /** Releases all messages. */
  clear(): void {
    this.#budget.release(this.#bytes)
    this.#messages = []
    this.#head = 0
    this.#bytes = 0
    this.#acknowledged = this.#sent
  }
}

const NOTHING = Buffer.alloc(0)
