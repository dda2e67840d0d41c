/**
 * Bytes that several parties share although none of them can be made to give any back: what is kept for a replay has to
 * be kept until it is acknowledged, what was promised to a sender stays promised. So nobody may take everything. The
 * rule is that of buffers in switches (A. K. Choudhury, E. L. Hahne: Dynamic Queue Length Thresholds for Shared-Memory
 * Packet Switches, 1998): a party may hold at most a multiple of what is free. Pure arithmetic.
 */

/**
 * One party alone holds 4/5, each of two 4/9, each of n 4/(4n + 1). Beside a party that gives nothing back the next one
 * still gets 4/25: of the default of `link.replayBudget` that is 41 MiB, more than one link may keep
 * (`link.replayLimit`).
 */
const FREE_MULTIPLE = 4

/** What one party holds of a budget. */
export interface BudgetShare {
  readonly usedBytes: number
  /** What it may take now. Not positive: nothing. */
  readonly freeBytes: number
  /**
   * Takes bytes, even beyond `freeBytes`: minima, and the message that was begun, are not refused. What is taken while
   * nothing is free is the party's own and makes nothing less for others: a thousand minima would leave them none.
   */
  take(bytes: number): void
  release(bytes: number): void
}

export class FairBudget<Party = string> {
  readonly totalBytes: number
  readonly #shares = new Map<Party | undefined, BudgetShare>()
  #usedBytes = 0
  /** Of these, what was taken while nothing was free. */
  #beyondBytes = 0

  constructor(totalBytes: number) {
    this.totalBytes = totalBytes
  }

  /** Bytes held by all parties together. */
  get usedBytes(): number {
    return this.#usedBytes
  }

  /**
   * The share of a party, the same object whenever it is asked for. A party counts from then on, whether or not it uses
   * anything: name only those of the configuration. A budget with a single party is all its own.
   */
  share(party?: Party): BudgetShare {
    const known = this.#shares.get(party)
    if (known) return known
    const share = this.#newShare()
    this.#shares.set(party, share)
    return share
  }

  #newShare(): BudgetShare {
    let usedBytes = 0
    let beyondBytes = 0
    const count = (bytes: number, beyond: number): void => {
      usedBytes += bytes
      this.#usedBytes += bytes
      beyondBytes += beyond
      this.#beyondBytes += beyond
    }
    const freeBytes = (): number => {
      const free = this.totalBytes - (this.#usedBytes - this.#beyondBytes)
      if (this.#shares.size <= 1) return free
      // The most that leaves: used + taken <= multiple x (free - taken).
      return Math.floor((FREE_MULTIPLE * free - (usedBytes - beyondBytes)) / (FREE_MULTIPLE + 1))
    }
    return {
      get usedBytes() {
        return usedBytes
      },
      get freeBytes() {
        return freeBytes()
      },
      take: bytes => count(bytes, freeBytes() > 0 ? 0 : bytes),
      release: bytes => count(-bytes, -Math.min(bytes, beyondBytes))
    }
  }
}
