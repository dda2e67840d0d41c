/**
 * Which clients are connected, per cluster, and which of them gets the next dial. Knows no sockets: a client comes
 * in with its Dial and leaves by the release it was given. Other replicas are one Dial more, asked when no client
 * here can be.
 *
 *     clients that are well, best fit first  →  other replicas  →  silent and draining clients  →  wait for a change
 *           ▲                                                                                            │
 *           └────────────────────────────────────────────────────────────────────────────────────────────┘
 */
import { EventEmitter } from 'node:events'
import type { Duplex } from 'node:stream'
import {
  type Clock,
  DIAL_TIMEOUT_MS,
  type Dial,
  type DialOptions,
  type ErrorCode,
  type Target,
  TunnelError,
  systemClock
} from '@tendril/common'
import { fit } from '@tendril/common/policy/routes'
import type { Client } from './client.js'

export type RegistryEvents = { add: [client: Client]; remove: [client: Client] }

/** Who counts. */
export type RegistryObserver = {
  /** A dial was answered. */
  dialed(event: { cluster: string; code: 'OK' | ErrorCode }): void
  /** A client failed for a reason of its own; whoever is next is asked. */
  failedOver(event: { cluster: string; code: ErrorCode }): void
}

export type RegistryOptions = {
  clock?: Clock
  /** The other replicas as a Dial. Rejects with NO_CLIENT when none of them has a client either. */
  elsewhere?: ((cluster: string) => Dial) | undefined
  observer?: RegistryObserver
}

/** How often the other replicas are asked again while a client is expected back, in milliseconds. */
export const ASK_AGAIN_MS = 250

export class Registry extends EventEmitter<RegistryEvents> {
  readonly #clock: Clock
  readonly #elsewhere: ((cluster: string) => Dial) | undefined
  readonly #observer: RegistryObserver | undefined
  /** By cluster, in the order they came; the key is one `add`, so that a release never takes away another. */
  readonly #clients = new Map<string, Map<symbol, Client>>()
  /** By cluster: clients whose line is up and who have yet to say hello. */
  readonly #arriving = new Map<string, number>()
  /** By cluster: dials that wait until something changes. */
  readonly #waiting = new Map<string, Set<() => void>>()

  constructor({ clock = systemClock, elsewhere, observer }: RegistryOptions = {}) {
    super()
    this.#clock = clock
    this.#elsewhere = elsewhere
    this.#observer = observer
  }

  /** @returns the release: the client gets no more dials. Calling it twice is fine. */
  add(client: Client): () => void {
    const key = Symbol(client.id)
    const { cluster } = client
    const these = this.#clients.get(cluster) ?? new Map<symbol, Client>()
    this.#clients.set(cluster, these.set(key, client))
    this.emit('add', client)
    this.changed(cluster)
    return () => {
      if (!these.delete(key)) return
      this.emit('remove', client)
      this.changed(cluster)
    }
  }

  /**
   * A client of the cluster is on its way, perhaps in the place of one that has just gone: dials wait for it.
   * @returns the release: it has come, or will not. Calling it twice is fine.
   */
  expect(cluster: string): () => void {
    const add = (change: 1 | -1): void =>
      void this.#arriving.set(cluster, (this.#arriving.get(cluster) ?? 0) + change)
    add(1)
    let over = false
    return () => {
      if (over) return
      over = true
      add(-1)
      this.changed(cluster)
    }
  }

  /** A client of the cluster is not what it was (its link is up again, it drains): dials that wait look again. */
  changed(cluster: string): void {
    for (const wake of [...(this.#waiting.get(cluster) ?? [])]) wake()
  }

  /**
   * The clients of one cluster, or all, in the order in which they would be asked for a dial to `host`: those that
   * are well first, then by how closely their routes fit, then by fewest streams, shortest round trip, newest.
   */
  clients(cluster?: string, host?: string): Client[] {
    const clusters = cluster === undefined ? [...this.#clients.keys()] : [cluster]
    return clusters
      .flatMap(cluster => [...(this.#clients.get(cluster)?.values() ?? [])])
      .reverse()
      .map(client => ({ client, key: keyOf(client, host) }))
      .sort((a, b) => compare(a.key, b.key))
      .map(({ client }) => client)
  }

  /** How many clients of a cluster take new streams. */
  serving(cluster: string): number {
    return this.clients(cluster).filter(({ state }) => !state.draining && !state.down).length
  }

  /**
   * A Dial into a cluster, whoever serves it at that moment. When a client fails in a way that another may not
   * (`retryable`: its line broke before the answer, it drains, it is full), the next is asked within what is left of
   * the time; no byte of the caller has been sent by then. When all that could serve are down, draining or on their way,
   * the dial waits for the first that comes (back). What a target said is never asked again elsewhere.
   *
   * Rejects with NO_CLIENT when there is none, else with the last client's error.
   */
  dial(cluster: string): Dial {
    return this.#counted(cluster, async (target, options) => {
      const search = this.#search(cluster, target, options)
      for (;;) {
        const stream =
          (await search.clients(isWell)) ?? (await search.elsewhere()) ?? (await search.clients())
        if (stream) return stream
        await search.change()
      }
    })
  }

  /** The same for another replica that asks: out of the clients that are here now, without waiting, and no further. */
  dialHere(cluster: string): Dial {
    return this.#counted(cluster, async (target, options) => {
      const search = this.#search(cluster, target, options)
      const stream = (await search.clients(isWell)) ?? (await search.clients())
      if (stream) return stream
      throw search.failure()
    })
  }

  #counted(cluster: string, dial: Dial): Dial {
    return async (target, options) => {
      try {
        const stream = await dial(target, options)
        this.#observer?.dialed({ cluster, code: 'OK' })
        return stream
      } catch (error) {
        const failure = TunnelError.from(error)
        this.#observer?.dialed({ cluster, code: failure.code })
        throw failure
      }
    }
  }

  /** One dial: whom it has asked, and what they said. */
  #search(cluster: string, target: Target, { signal, timeoutMs = DIAL_TIMEOUT_MS }: DialOptions) {
    const endMs = this.#clock.now() + timeoutMs
    const failed = new Set<Client>()
    let last: TunnelError | undefined
    let lastElsewhere: ErrorCode = 'NO_CLIENT'

    const leftMs = (): number => {
      const left = Math.ceil(endMs - this.#clock.now())
      if (signal.aborted) throw last ?? new TunnelError('DIAL_CANCELLED')
      if (left <= 0) throw last ?? new TunnelError('DIAL_TIMEOUT', `no answer within ${timeoutMs} ms`)
      return left
    }
    /** The stream, or undefined when somebody else may do better. */
    const ask = async (dial: Dial): Promise<Duplex | ErrorCode> => {
      const timeoutMs = leftMs()
      try {
        return await dial(target, { signal, timeoutMs })
      } catch (error) {
        const failure = TunnelError.from(error)
        const { code } = failure
        // That nobody else has a client says less than why ours failed.
        if (code !== 'NO_CLIENT' || !last) last = failure
        if (!failure.retryable) throw failure
        if (code !== 'NO_CLIENT') this.#observer?.failedOver({ cluster, code })
        return code
      }
    }
    const isArriving = (): boolean => (this.#arriving.get(cluster) ?? 0) > 0
    const failure = (): TunnelError => last ?? whyNobody(cluster, this.clients(cluster), isArriving())

    return {
      failure,
      /** Those connected that fit best first, each once, looked for anew after each. */
      clients: async (fits: (client: Client) => boolean = () => true): Promise<Duplex | undefined> => {
        for (;;) {
          const client = this.clients(cluster, target.host).find(
            client => !client.state.down && !failed.has(client) && fits(client)
          )
          if (!client) return undefined
          const answer = await ask(client.dial)
          if (typeof answer !== 'string') return answer
          // One whose link broke may be asked again when it is back.
          if (!client.state.down) failed.add(client)
        }
      },
      elsewhere: async (): Promise<Duplex | undefined> => {
        if (!this.#elsewhere) return undefined
        const answer = await ask(this.#elsewhere(cluster))
        if (typeof answer !== 'string') return answer
        lastElsewhere = answer
        return undefined
      },
      /** Until a client comes or comes back. Rejects when none is expected. */
      change: async (): Promise<void> => {
        const expected = this.clients(cluster).some(({ state }) => state.down || state.draining)
        if (!expected && !isArriving() && !isPassing(lastElsewhere)) throw failure()
        last ??= failure()
        await this.#change(cluster, this.#elsewhere ? Math.min(ASK_AGAIN_MS, leftMs()) : leftMs(), signal)
      }
    }
  }

  /** Resolves at the next change among the clients of a cluster, after `ms`, or when the caller leaves. */
  #change(cluster: string, ms: number, signal: AbortSignal): Promise<void> {
    const waiting = this.#waiting.get(cluster) ?? new Set()
    this.#waiting.set(cluster, waiting)
    return new Promise(resolve => {
      const done = (): void => {
        timer.cancel()
        waiting.delete(done)
        signal.removeEventListener('abort', done)
        resolve()
      }
      const timer = this.#clock.after(ms, done)
      waiting.add(done)
      signal.addEventListener('abort', done, { once: true })
      if (signal.aborted) done()
    })
  }
}

function isWell({ state }: Client): boolean {
  return !state.silent && !state.draining
}

/** A replica has a client, which is only away for now. */
function isPassing(code: ErrorCode): boolean {
  return code === 'LINK_LOST' || code === 'DRAINING'
}

function whyNobody(cluster: string, clients: Client[], arriving: boolean): TunnelError {
  if (clients.length === 0 && !arriving) return new TunnelError('NO_CLIENT', `for cluster ${cluster}`)
  if (arriving || clients.some(({ state }) => state.down)) {
    return new TunnelError('LINK_LOST', `cluster ${cluster} is expected back, but was not in time`)
  }
  return new TunnelError('DRAINING', `all clients of cluster ${cluster} are leaving`)
}

/** Smaller is better, the first difference decides. */
type Key = [health: number, fit: number, streams: number, rttMs: number]

function keyOf({ state, routes }: Client, host: string | undefined): Key {
  const { down, draining, silent, streams, rttMs } = state
  const health = (down ? 4 : 0) + (draining ? 2 : 0) + (silent ? 1 : 0)
  return [health, host === undefined ? 0 : -fit(routes, host), streams, rttMs]
}

function compare(a: Key, b: Key): number {
  const at = a.findIndex((value, index) => value !== b[index])
  return at < 0 ? 0 : (a[at] as number) - (b[at] as number)
}
