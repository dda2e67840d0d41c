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
