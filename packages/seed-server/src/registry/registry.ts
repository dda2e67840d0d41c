/**
 * Which clients are connected, per cluster, and which of them gets the next dial. Knows no sockets: a client comes
 * in with its Dial and leaves by the release it was given. Other replicas are one Dial more, asked when no client
 * here can be.
 *
 *     clients that are well, best fit first  →  other replicas  →  silent and draining clients  →  wait for a change
 *           ▲                                                                                            │
 *           └────────────────────────────────────────────────────────────────────────────────────────────┘
 *
 * One dial on this way is search.ts; which client fits best is client-index.ts.
 */
import { EventEmitter } from 'node:events'
import {
  type Clock,
  type Dial,
  type DialContext,
  type ErrorCode,
  type Target,
  TunnelError,
  systemClock
} from '@tendril/common'
import type { Client } from './registered-client.js'
import { ClientIndex } from './client-index.js'
import { Search } from './search.js'

export type RegistryEvents = { add: [client: Client]; remove: [client: Client] }

/** For metrics. */
export type RegistryObserver = {
  /** A dial was answered. */
  dialed(event: { cluster: string; code: 'OK' | ErrorCode }): void
  /** A client failed for a reason of its own; the next client is asked. */
  failedOver(event: { cluster: string; code: ErrorCode }): void
}

export type RegistryOptions = {
  clock?: Clock
  /** The other replicas as a Dial. Rejects with NO_CLIENT when none of them has a client either. */
  dialRemote?: ((cluster: string) => Dial) | undefined
  observer?: RegistryObserver
  /**
   * Different routes that the links of a client (`Client.owner`) have together; what exceeds them is ignored. Default:
   * any.
   */
  routesPerClient?: (cluster: string) => number
  /** A number in [0, 1). */
  random?: () => number
}

/** What `add` returns. Each may be called at any time, and twice. */
export type Registration = {
  /** The client gets no more dials. */
  release(): void
  /** Its state or its routes are not what they were: its link is down or up again, it drains, it responds again. */
  changed(): void
  /** How many of its routes are ignored at present, because its client has as many as it may. */
  readonly ignoredRoutes: number
}

/** What is kept for a cluster. At most as many as are configured. */
type ClusterEntry = {
  index: ClientIndex
  /** Clients whose link is up and whose session has yet to open. */
  arriving: number
  /** Dials that wait until something changes. */
  waiting: Set<() => void>
}

export class Registry extends EventEmitter<RegistryEvents> {
  readonly #options: RegistryOptions
  readonly #clock: Clock
  readonly #observer: RegistryObserver | undefined
  readonly #clusters = new Map<string, ClusterEntry>()

  constructor(options: RegistryOptions = {}) {
    super()
    this.#options = options
    this.#clock = options.clock ?? systemClock
    this.#observer = options.observer
  }

  add(client: Client): Registration {
    const { cluster } = client
    const { index } = this.#cluster(cluster)
    const entry = index.add(client)
    let over = false
    this.emit('add', client)
    this.changed(cluster)
    return {
      release: () => {
        if (over) return
        over = true
        index.remove(entry)
        this.emit('remove', client)
        this.changed(cluster)
      },
      changed: () => {
        if (over) return
        const { came } = index
        index.refresh(entry)
        if (index.came !== came) this.changed(cluster)
      },
      get ignoredRoutes() {
        return entry.ignored
      }
    }
  }

  /**
   * A client of the cluster is on its way, perhaps in the place of one that has just gone: dials wait for it.
   * @returns the release: it has come, or will not. Calling it twice is fine.
   */
  expect(cluster: string): () => void {
    const entry = this.#cluster(cluster)
    entry.arriving++
    let over = false
    return () => {
      if (over) return
      over = true
      entry.arriving--
      this.changed(cluster)
    }
  }

  /** The clients of the cluster are not what they were: dials that wait look again. */
  changed(cluster: string): void {
    for (const notify of [...this.#cluster(cluster).waiting]) notify()
  }

  /** The clients of one cluster, or all, in no order. */
  clients(cluster?: string): Client[] {
    const clusters = cluster === undefined ? [...this.#clusters.values()] : [this.#cluster(cluster)]
    return clusters.flatMap(({ index }) => index.clients)
  }

  /** How many clients of a cluster take new streams. */
  serving(cluster: string): number {
    const { index } = this.#cluster(cluster)
    index.refreshAll()
    const { well, silent } = index.counts
    return well + silent
  }

  /** Whether a client of the cluster could be asked now that is connected, responds and does not drain. */
  hasWell(cluster: string): boolean {
    return this.#cluster(cluster).index.hasWell
  }

  /**
   * A Dial into a cluster, over a client that serves it at that moment. When a client fails in a way that another may
   * not (`retryable`: its link broke before the answer, it does not respond, it drains, it is full), the next is asked
   * within what is left of the time; no byte of the caller has been sent by then. When all that could serve are down,
   * silent, draining or on their way, the dial waits for the first that comes (back). What a target said is never asked
   * again elsewhere.
   *
   * Rejects with NO_CLIENT when there is none, else with the last client's error. With DIAL_TIMEOUT only when a client
   * was asked and did not answer.
   */
  dial(cluster: string): Dial {
    return this.#counted(cluster, (target, context) => this.#search(cluster, target, context).run())
  }

  /** The same for another replica that asks: out of the clients that are here now, without waiting, and no further. */
  dialLocal(cluster: string): Dial {
    return this.#counted(cluster, (target, context) => this.#search(cluster, target, context).runOnce())
  }

  #cluster(cluster: string): ClusterEntry {
    const found = this.#clusters.get(cluster)
    if (found) return found
    const entry = {
      index: new ClientIndex({
        random: this.#options.random,
        routesPerClient: this.#options.routesPerClient?.(cluster)
      }),
      arriving: 0,
      waiting: new Set<() => void>()
    }
    this.#clusters.set(cluster, entry)
    return entry
  }

  #counted(cluster: string, dial: Dial): Dial {
    return async (target, context) => {
      try {
        const stream = await dial(target, context)
        this.#observer?.dialed({ cluster, code: 'OK' })
        return stream
      } catch (error) {
        const failure = TunnelError.from(error)
        this.#observer?.dialed({ cluster, code: failure.code })
        throw failure
      }
    }
  }

  #search(cluster: string, target: Target, context: DialContext): Search {
    const entry = this.#cluster(cluster)
    return new Search(target, context, {
      cluster,
      index: entry.index,
      isArriving: () => entry.arriving > 0,
      remote: this.#options.dialRemote?.(cluster),
      change: (ms, signal) => this.#change(entry, ms, signal),
      onFailover: code => this.#observer?.failedOver({ cluster, code }),
      clock: this.#clock
    })
  }

  /** Resolves at the next change among the clients of a cluster, after `ms`, or when the caller leaves. */
  #change({ waiting }: ClusterEntry, ms: number, signal: AbortSignal): Promise<void> {
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
