/**
 * The clients of one cluster, arranged so that a dial finds the best of them without looking at all: by route (the
 * longest prefix or suffix first), and within a route by health. It changes when a client comes, goes, or announces
 * other routes, at the cost of that client's own routes. Knows no sockets and no dials under way.
 *
 * An entry is one link. The links of one client together have at most so many different routes: what one announces
 * beyond that is ignored, until another one gives some back.
 *
 * The health and the number of streams of a client are read when it is compared, and its place is corrected then.
 * Groups of at most WHOLE_SIZE are compared whole. Of larger ones SAMPLE_SIZE are drawn at random, and the best is
 * taken: the load spreads almost as evenly as if all had been compared, at a cost that does not grow with their number
 * (M. Mitzenmacher: The Power of Two Choices in Randomized Load Balancing, 2001).
 */
import { RouteIndex } from '@tendril/common/policy/route-index'
import type { Route } from '@tendril/common/policy/routes'
import type { Client, ClientState } from './registered-client.js'

/** Most clients that are compared for one choice. */
export const WHOLE_SIZE = 16

/**
 * How many of a larger group are compared. Each look costs one to two µs, and a fourth choice gains little over the
 * third.
 */
export const SAMPLE_SIZE = 4

/** In the order in which clients are asked. Those that are down are not. */
export const health = { WELL: 0, SILENT: 1, DRAINING: 2, DOWN: 3 } as const
export type Health = (typeof health)[keyof typeof health]

/** A client with its places in the index. */
export type IndexedClient = {
  readonly client: Client
  /** Larger: it was added later. */
  readonly number: number
  /** What it was like when last looked at. */
  health: Health
  state: Readonly<ClientState>
  /** Counts up in the index whenever a client comes, or comes back; this is its last such number. */
  cameAt: number
  /** It answered a dial with DRAINING: it drains, until it comes back. */
  saidDraining: boolean
  routes: readonly Route[]
  /** How many of them are not used, because the client has as many as it may. */
  ignored: number
  /** In `all`, and in one group for each route that is used. */
  places: Place[]
}

/** The links of one client, and how many of them are in each group of a route. */
type Owner = { readonly entries: Set<IndexedClient>; readonly groups: Map<Group, number> }

type Place = { readonly entry: IndexedClient; readonly group: Group; at: number }

export class ClientIndex {
  readonly #random: () => number
  readonly #all = new Group()
  /** Clients that announced nothing: they fit every host, but no closer than a route for all. */
  readonly #routeless = new Group()
  readonly #byRoute = new RouteIndex<Group>()
  readonly #owners = new Map<string, Owner>()
  readonly #routesPerClient: number
  #added = 0
  #came = 0

  /** `random`: a number in [0, 1). `routesPerClient`: different routes that all links of a client have together. */
  constructor({
    random = Math.random,
    routesPerClient = Infinity
  }: { random?: (() => number) | undefined; routesPerClient?: number | undefined } = {}) {
    this.#random = random
    this.#routesPerClient = routesPerClient
  }

  /** How often a client has come or come back. */
  get came(): number {
    return this.#came
  }

  get size(): number {
    return this.#all.size
  }

  /** How many there are of each health, as last looked at. */
  get counts(): { well: number; silent: number; draining: number; down: number } {
    const [well, silent, draining, down] = [health.WELL, health.SILENT, health.DRAINING, health.DOWN].map(
      which => this.#all.count(which)
    ) as [number, number, number, number]
    return { well, silent, draining, down }
  }

  /** Whether there is a client that is connected, responds and does not drain. */
  get hasWell(): boolean {
    this.#refreshOthers()
    return this.#all.count(health.WELL) > 0
  }

  /** All clients, in no order. */
  get clients(): Client[] {
    return this.#all.places.map(({ entry }) => entry.client)
  }

  add(client: Client): IndexedClient {
    const entry: IndexedClient = {
      client,
      number: ++this.#added,
      health: health.DOWN,
      state: client.state,
      cameAt: ++this.#came,
      saidDraining: false,
      routes: client.routes,
      ignored: 0,
      places: []
    }
    entry.health = healthOf(entry)
    this.#ownerOf(entry).entries.add(entry)
    this.#place(entry)
    return entry
  }

  remove(entry: IndexedClient): void {
    this.#displace(entry)
    const { entries } = this.#ownerOf(entry)
    entries.delete(entry)
    if (entries.size === 0) this.#owners.delete(entry.client.owner)
    else this.#useIgnored(entry)
  }

  /** Reads anew what a client is like, and puts it where that belongs. */
  refresh(entry: IndexedClient): void {
    const { client } = entry
    if (client.routes !== entry.routes) {
      this.#displace(entry)
      entry.routes = client.routes
      this.#place(entry)
      this.#useIgnored(entry)
    }
    const before = entry.health
    entry.state = client.state
    // A client that is connected again accepts streams, until it sends GOAWAY.
    if (before === health.DOWN && !entry.state.down) entry.saidDraining = false
    const now = healthOf(entry)
    if (now === before) return
    entry.health = now
    for (const place of entry.places) place.group.move(place, before, now)
    const wasAway = before === health.DOWN || before === health.SILENT
    if (wasAway && now === health.WELL) entry.cameAt = ++this.#came
  }

  refreshAll(): void {
    for (const { entry } of [...this.#all.places]) this.refresh(entry)
  }

  /**
   * The client to ask for a dial to `host` among those of the given healths, the first of which counts most; then by
   * how closely routes fit, fewest streams, shortest round trip, newest. Undefined when there is none that `may` be
   * asked.
   */
  best(
    host: string,
    among: readonly Health[],
    may: (entry: IndexedClient) => boolean = () => true
  ): IndexedClient | undefined {
    this.#refreshOthers()
    const levels = this.#levels(host)
    for (const which of among) {
      for (const groups of levels) {
        const found = groups.flatMap(group => this.#bestOf(group, which, may) ?? [])
        if (found.length > 0) return found.reduce((a, b) => (isBetter(b, a) ? b : a))
      }
    }
    return undefined
  }

  /** The health of some that are not well may have improved without a report. */
  #refreshOthers(): void {
    for (const { entry } of this.#draw(this.#all, health.SILENT, health.DOWN)) this.refresh(entry)
  }

  /** Groups of clients, those whose routes fit `host` more closely first; the last holds everybody. */
  #levels(host: string): Group[][] {
    const fits = this.#byRoute.find(host)
    const close = fits.filter(({ closeness }) => closeness > 0).map(({ value }) => [value])
    const loose = fits.filter(({ closeness }) => closeness === 0).map(({ value }) => value)
    return [...close, [...loose, this.#routeless], [this.#all]]
  }

  #bestOf(group: Group, which: Health, may: (entry: IndexedClient) => boolean): IndexedClient | undefined {
    for (;;) {
      const sample = this.#draw(group, which, which)
      for (const { entry } of sample) this.refresh(entry)
      const left = sample.map(({ entry }) => entry).filter(entry => entry.health === which)
      const fitting = left.filter(may)
      if (fitting.length > 0) return fitting.reduce((a, b) => (isBetter(b, a) ? b : a))
      // Clients whose health changed have moved to another group: what is left is smaller.
      if (left.length < sample.length) continue
      if (group.count(which) <= WHOLE_SIZE) return undefined
      // Almost all clients were asked already, so a random draw rarely finds another one.
      return group.slice(which, which).find(({ entry }) => may(entry))?.entry
    }
  }

  /** All places of the healths from `first` to `last`, or SAMPLE_SIZE of them at random. */
  #draw(group: Group, first: Health, last: Health): Place[] {
    const count = group.countBetween(first, last)
    if (count <= WHOLE_SIZE) return group.slice(first, last)
    const start = group.startOf(first)
    return Array.from(
      { length: SAMPLE_SIZE },
      () => group.places[start + Math.floor(this.#random() * count)] as Place
    )
  }

  #place(entry: IndexedClient): void {
    const { groups: known } = this.#ownerOf(entry)
    const groups = new Set<Group>()
    entry.ignored = 0
    for (const route of entry.routes) {
      const found = this.#byRoute.get(route)
      if (!(found && known.has(found)) && known.size >= this.#routesPerClient) {
        entry.ignored++
        continue
      }
      const group = found ?? this.#groupOf(route)
      if (groups.has(group)) continue
      groups.add(group)
      known.set(group, (known.get(group) ?? 0) + 1)
    }
    if (groups.size === 0) groups.add(this.#routeless)
    for (const group of [this.#all, ...groups]) entry.places.push(group.add(entry))
  }

  #displace(entry: IndexedClient): void {
    const { groups: known } = this.#ownerOf(entry)
    for (const place of entry.places.splice(0)) {
      const { group } = place
      group.remove(place)
      const links = known.get(group)
      if (links === 1) known.delete(group)
      else if (links !== undefined) known.set(group, links - 1)
    }
    for (const route of entry.routes) if (this.#byRoute.get(route)?.size === 0) this.#byRoute.delete(route)
  }

  /** A link has gone or announces other routes: others of the same client may have room for what was ignored. */
  #useIgnored(changed: IndexedClient): void {
    const { entries, groups } = this.#ownerOf(changed)
    for (const entry of entries) {
      if (groups.size >= this.#routesPerClient) return
      if (entry === changed || entry.ignored === 0) continue
      this.#displace(entry)
      this.#place(entry)
    }
  }

  #ownerOf({ client }: IndexedClient): Owner {
    const found = this.#owners.get(client.owner)
    if (found) return found
    const owner: Owner = { entries: new Set(), groups: new Map() }
    this.#owners.set(client.owner, owner)
    return owner
  }

  #groupOf(route: Route): Group {
    const found = this.#byRoute.get(route)
    if (found) return found
    const group = new Group()
    this.#byRoute.set(route, group)
    return group
  }
}

/** Clients in one list, sorted by health; to move one costs as many swaps as there are healths between. */
class Group {
  readonly places: Place[] = []
  /** Where the clients of each health end, and those of the next begin. DOWN ends with the list. */
  readonly #ends: [number, number, number] = [0, 0, 0]

  get size(): number {
    return this.places.length
  }

  startOf(which: Health): number {
    return which === health.WELL ? 0 : this.#endOf((which - 1) as Health)
  }

  #endOf(which: Health): number {
    return which === health.DOWN ? this.places.length : this.#ends[which]
  }

  count(which: Health): number {
    return this.countBetween(which, which)
  }

  countBetween(first: Health, last: Health): number {
    return this.#endOf(last) - this.startOf(first)
  }

  slice(first: Health, last: Health): Place[] {
    return this.places.slice(this.startOf(first), this.#endOf(last))
  }

  add(entry: IndexedClient): Place {
    const place: Place = { entry, group: this, at: this.places.length }
    this.places.push(place)
    this.move(place, health.DOWN, entry.health)
    return place
  }

  remove(place: Place): void {
    this.move(place, place.entry.health, health.DOWN)
    this.#swap(place, this.places.length - 1)
    this.places.pop()
  }

  move(place: Place, from: Health, to: Health): void {
    for (let which = from; which < to; which++) {
      const end = --this.#ends[which as 0 | 1 | 2]
      this.#swap(place, end)
    }
    for (let which = from; which > to; which--) {
      const start = this.#ends[(which - 1) as 0 | 1 | 2]++
      this.#swap(place, start)
    }
  }

  #swap(place: Place, at: number): void {
    const other = this.places[at] as Place
    this.places[place.at] = other
    other.at = place.at
    this.places[at] = place
    place.at = at
  }
}

function healthOf({ state, saidDraining }: IndexedClient): Health {
  if (state.down) return health.DOWN
  if (state.draining || saidDraining) return health.DRAINING
  return state.silent ? health.SILENT : health.WELL
}

/** Of two of the same health and fit. */
function isBetter(a: IndexedClient, b: IndexedClient): boolean {
  if (a.state.silent !== b.state.silent) return b.state.silent
  if (a.state.streams !== b.state.streams) return a.state.streams < b.state.streams
  if (a.state.rttMs !== b.state.rttMs) return a.state.rttMs < b.state.rttMs
  return a.number > b.number
}
