/**
 * A map from routes to values that answers which of its routes fit a host, closest first: the longest prefix of an
 * address, the full name or the longest suffix of a name. A look-up costs one probe of a hash table for each length
 * that any route has, however many routes there are. Pure.
 *
 * Each route is one string: its kind, then the bits of its prefix, the name, or the suffix. The strings that may fit a
 * host are then prefixes (or suffixes) of one string. Strings, because their hashes are seeded: who announces routes
 * cannot choose ones that collide.
 */
import { type Address, addressFormsOf, readAddress } from './networks.js'
import { type Route, plainName } from './routes.js'

/** A full name is closer than any suffix: longer than any there is. */
export const EXACT_NAME = 256

type Kind = '4' | '6' | 'name' | 'suffix'

/** `closeness`: bits of the prefix, characters of the suffix, EXACT_NAME; 0 for routes that fit all hosts of a kind. */
export type Fit<V> = { value: V; closeness: number }

export class RouteIndex<V> {
  readonly #values = new Map<string, V>()
  readonly #lengths = { '4': new Lengths(), '6': new Lengths(), suffix: new Lengths() }

  get size(): number {
    return this.#values.size
  }

  get(route: Route): V | undefined {
    return this.#values.get(keyOf(partsOf(route)))
  }

  set(route: Route, value: V): void {
    const parts = partsOf(route)
    const key = keyOf(parts)
    if (!this.#values.has(key) && parts.kind !== 'name') this.#lengths[parts.kind].add(parts.text.length)
    this.#values.set(key, value)
  }

  delete(route: Route): void {
    const parts = partsOf(route)
    if (this.#values.delete(keyOf(parts)) && parts.kind !== 'name')
      this.#lengths[parts.kind].delete(parts.text.length)
  }

  /** Values of the routes that fit a host (an address without brackets, or a name), closest first. */
  find(host: string): Fit<V>[] {
    const fits: Fit<V>[] = []
    if (this.#values.size === 0) return fits
    const look = (kind: Kind, text: string, closeness: number): void => {
      const value = this.#values.get(keyOf({ kind, text }))
      if (value !== undefined) fits.push({ value, closeness })
    }
    const address = readAddress(host)
    if (address) {
      const [{ family, value }] = addressFormsOf(address)
      const kind = `${family}` as const
      if (this.#lengths[kind].all.length === 0) return fits
      const bits = bitsOf({ family, value })
      for (const length of this.#lengths[kind].all) look(kind, bits.slice(0, length), length)
      return fits
    }
    const name = plainName(host)
    look('name', name, EXACT_NAME)
    for (const length of this.#lengths.suffix.all) {
      if (length > name.length) continue
      const at = name.length - length
      if (length === 0 || name[at] === '.') look('suffix', name.slice(at), length)
    }
    return fits
  }
}

/** Which lengths there are, longest first, and how many routes have each. */
class Lengths {
  readonly #counts = new Map<number, number>()
  all: readonly number[] = []

  add(length: number): void {
    const count = this.#counts.get(length) ?? 0
    this.#counts.set(length, count + 1)
    if (count === 0) this.#sort()
  }

  delete(length: number): void {
    const count = (this.#counts.get(length) ?? 0) - 1
    if (count > 0) return void this.#counts.set(length, count)
    this.#counts.delete(length)
    this.#sort()
  }

  /** At most 129 of a family, 254 of suffixes. */
  #sort(): void {
    this.all = [...this.#counts.keys()].sort((a, b) => b - a)
  }
}

function partsOf(route: Route): { kind: Kind; text: string } {
  if ('name' in route) return { kind: 'name', text: route.name }
  if ('suffix' in route) return { kind: 'suffix', text: route.suffix }
  const { family, bits } = route.network
  return { kind: `${family}`, text: bitsOf(route.network).slice(0, bits) }
}

function keyOf({ kind, text }: { kind: Kind; text: string }): string {
  return `${kind}:${text}`
}

const widthOf = { 4: 32, 6: 128 } as const

function bitsOf({ family, value }: Address): string {
  return value.toString(2).padStart(widthOf[family], '0')
}
