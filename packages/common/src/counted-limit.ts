/** Limits on how many of something exist at once. Each acquire gives its release, which may be called twice. */
import { TunnelError } from './errors.js'

export type Release = () => void

/** Names of the configuration key and of what is counted, for the sentence of a refusal. */
export type LimitName = { key: string; counted: string }

export class CountedLimit {
  readonly limit: number
  readonly #name: LimitName
  readonly #onRefused: (() => void) | undefined
  #count = 0

  constructor(limit: number, name: LimitName, onRefused?: () => void) {
    this.limit = limit
    this.#name = name
    this.#onRefused = onRefused
  }

  get count(): number {
    return this.#count
  }

  /** @throws TunnelError OVERLOADED when as many as the limit exist, with the key and its value. */
  acquire(): Release {
    if (this.#count >= this.limit) {
      this.#onRefused?.()
      throw new TunnelError('OVERLOADED', `${this.#name.key}: ${this.limit} ${this.#name.counted}`)
    }
    this.#count++
    return once(() => this.#count--)
  }
}

/** The same limit for each of many keys. Remembers only keys that have something. */
export class CountedLimitPerKey {
  readonly #newLimit: () => CountedLimit
  readonly #limits = new Map<string, CountedLimit>()

  constructor(...limit: ConstructorParameters<typeof CountedLimit>) {
    this.#newLimit = () => new CountedLimit(...limit)
  }

  /** Keys that have something. */
  get size(): number {
    return this.#limits.size
  }

  acquire(key: string): Release {
    const limit = this.#limits.get(key) ?? this.#newLimit()
    const release = limit.acquire()
    this.#limits.set(key, limit)
    return () => {
      release()
      if (limit.count === 0 && this.#limits.get(key) === limit) this.#limits.delete(key)
    }
  }
}

/**
 * One limit that several parties share although none of them can be made to give anything back. Half of it is divided
 * equally between them and kept for each, whether or not it uses it; the other half is for whoever comes first. So one
 * party alone may have more than half, and whatever all others have, each still gets what is kept for it.
 */
export class SharedLimit<Party = string> {
  readonly limit: number
  /** What each party can have in any case: at least one if the limit is that large. */
  readonly keptForEach: number
  readonly #name: LimitName
  readonly #onRefused: ((party: Party) => void) | undefined
  readonly #counts: Map<Party, number>
  #count = 0
  /** Of these, what parties have beyond what is kept for them. */
  #beyond = 0

  /** `parties`: all there can be; others are refused. */
  constructor(limit: number, parties: readonly Party[], name: LimitName, onRefused?: (party: Party) => void) {
    this.limit = limit
    this.keptForEach = Math.floor(limit / parties.length / (limit < 2 * parties.length ? 1 : 2))
    this.#name = name
    this.#onRefused = onRefused
    this.#counts = new Map(parties.map(party => [party, 0]))
  }

  /** What all parties have. */
  get count(): number {
    return this.#count
  }

  /** @throws TunnelError OVERLOADED when nothing is left that this party may have, with the key and its value. */
  acquire(party: Party): Release {
    if (!this.#mayHaveOneMore(party)) {
      this.#onRefused?.(party)
      throw new TunnelError('OVERLOADED', this.#refusal())
    }
    this.#add(party, 1)
    return once(() => this.#add(party, -1))
  }

  #mayHaveOneMore(party: Party): boolean {
    const count = this.#counts.get(party)
    if (count === undefined) return false
    return count < this.keptForEach || this.#beyond < this.limit - this.keptForEach * this.#counts.size
  }

  #add(party: Party, change: 1 | -1): void {
    const before = this.#counts.get(party) ?? 0
    const beyond = (count: number): number => Math.max(0, count - this.keptForEach)
    this.#counts.set(party, before + change)
    this.#count += change
    this.#beyond += beyond(before + change) - beyond(before)
  }

  #refusal(): string {
    const { key, counted } = this.#name
    if (this.#count >= this.limit) return `${key}: ${this.limit} ${counted}`
    return `${key}: ${this.#count} of ${this.limit} ${counted}, what is left is kept for other clusters`
  }
}

/** Acquires from the first to the last, or, when one refuses, nothing. */
export function acquireAll(acquires: readonly (() => Release)[]): Release {
  const releases: Release[] = []
  const releaseAll = (): void => {
    for (const release of releases) release()
  }
  try {
    for (const acquire of acquires) releases.push(acquire())
  } catch (error) {
    releaseAll()
    throw error
  }
  return releaseAll
}

function once(act: () => void): Release {
  let over = false
  return () => {
    if (over) return
    over = true
    act()
  }
}
