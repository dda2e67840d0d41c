/**
 * What each cluster may use of this process, and what all may together: counts and rates. Bytes are shared by
 * FairBudget, the totals of links, connections and of streams at one front by SharedLimit. Names of clusters and
 * clients are free, so it is the limits of the cluster that protect other clusters.
 */
import type { Clock, Dial } from '@tendril/common'
import { TunnelError, systemClock } from '@tendril/common'
import {
  CountedLimit,
  CountedLimitPerKey,
  type LimitName,
  type Release,
  SharedLimit,
  acquireAll
} from '@tendril/common/counted-limit'
import { TokenBucket } from '@tendril/common/token-bucket'
import type { ClusterConfig, FrontConfig } from './config.js'
import type { LimitLabel } from './server-metrics.js'
import { type Party, formatParty, partiesOf } from './party.js'

export type LimitsOptions = {
  clusters: readonly Pick<ClusterConfig, 'name' | 'limits'>[]
  /** There can be other servers. Their links and connections share like one cluster more. Default false. */
  peers?: boolean
  /** Links of all clusters and peers together: `link.linkLimit`. */
  linkLimit: number
  /** Connections of all clusters and peers together: `tunnel.maxConnections`. */
  maxConnections: number
  onRefused: (event: { limit: LimitLabel; cluster?: string }) => void
  clock?: Clock
}

/** `links` and `connections` only where the cluster has limits of its own. */
type ClusterLimits = {
  links: CountedLimit | undefined
  linksPerClient: CountedLimitPerKey
  connections: CountedLimit | undefined
  streams: CountedLimit
  dials: TokenBucket
  routesPerClient: number
}

export class Limits {
  readonly #onRefused: LimitsOptions['onRefused']
  readonly #links: SharedLimit<Party>
  readonly #connections: SharedLimit<Party>
  readonly #clusters: Map<Party, ClusterLimits>

  constructor(options: LimitsOptions) {
    const { clusters, peers = false, linkLimit, maxConnections, onRefused, clock = systemClock } = options
    this.#onRefused = onRefused
    const parties = partiesOf(clusters, peers)
    this.#links = new SharedLimit(
      linkLimit,
      parties,
      { key: 'link.linkLimit', counted: 'links are open' },
      party => onRefused({ limit: 'linkLimit', cluster: formatParty(party) })
    )
    this.#connections = new SharedLimit(
      maxConnections,
      parties,
      { key: 'tunnel.maxConnections', counted: 'connections are open' },
      party => onRefused({ limit: 'maxConnections', cluster: formatParty(party) })
    )
    this.#clusters = new Map(clusters.map(({ name, limits }) => [name, this.#newLimits(name, limits, clock)]))
  }

  /**
   * A link of a client (its verified identity and its name), or of another server, which belongs to no cluster.
   * @throws TunnelError OVERLOADED
   */
  acquireLink(party: Party, client: string): Release {
    const limits = this.#clusters.get(party)
    const { linksPerClient, links } = limits ?? {}
    return acquireAll([
      ...(linksPerClient ? [() => linksPerClient.acquire(client)] : []),
      ...(links ? [() => links.acquire()] : []),
      () => this.#links.acquire(party)
    ])
  }

  /** A connection whose certificate is that of a client or of another server. @throws TunnelError OVERLOADED */
  acquireConnection(party: Party): Release {
    const own = this.#clusters.get(party)?.connections
    return acquireAll([...(own ? [() => own.acquire()] : []), () => this.#connections.acquire(party)])
  }

  /**
   * What the clusters that are reached through one front may have open there together. Connections without a complete
   * request are not among them, and as many as there may be of these are left for them.
   */
  sharedFront(
    { name, maxConnections, maxPending }: Pick<FrontConfig, 'name' | 'maxConnections' | 'maxPending'>,
    clusters: readonly string[]
  ): SharedLimit {
    const limit = Math.max(maxConnections - maxPending, Math.ceil(maxConnections / 2))
    const key = `fronts[${name}].maxConnections`
    return new SharedLimit(limit, clusters, { key, counted: 'streams are open' }, cluster =>
      this.#onRefused({ limit: 'maxConnections', cluster })
    )
  }

  /** `dial` into a cluster, within what its callers may open. The stream counts until it is closed. */
  dial(cluster: string, dial: Dial, front?: SharedLimit): Dial {
    const limits = this.#clusters.get(cluster)
    if (!limits) return dial
    return async (target, context) => {
      const release = this.#acquireStream(cluster, limits, front)
      try {
        const stream = await dial(target, context)
        if (stream.closed) release()
        else stream.once('close', release)
        return stream
      } catch (error) {
        release()
        throw error
      }
    }
  }

  /** Different routes that all links of a client may have together: the registry counts them. */
  routesPerClient(cluster: string): number {
    return this.#clusters.get(cluster)?.routesPerClient ?? Infinity
  }

  /** The routes of one announcement that are looked at, and how many are too many for one client in any case. */
  routes(cluster: string, announced: readonly string[]): { routes: readonly string[]; ignored: number } {
    const limit = this.routesPerClient(cluster)
    const ignored = Math.max(0, announced.length - limit)
    if (ignored > 0) this.#onRefused({ limit: 'routesPerClient', cluster })
    return { routes: announced.slice(0, limit), ignored }
  }

  #acquireStream(cluster: string, { streams, dials }: ClusterLimits, front?: SharedLimit): Release {
    const release = acquireAll([() => streams.acquire(), ...(front ? [() => front.acquire(cluster)] : [])])
    if (dials.take()) return release
    release()
    this.#onRefused({ limit: 'dialsPerSecond', cluster })
    const { key } = nameOf(cluster, 'dialsPerSecond', '')
    throw new TunnelError('OVERLOADED', `${key}: more than ${dials.perSecond} dials in a second`)
  }

  #newLimits(cluster: string, limits: ClusterConfig['limits'], clock: Clock): ClusterLimits {
    const make = (
      limit: 'links' | 'linksPerClient' | 'connections' | 'streams',
      most: number,
      counted: string
    ): ConstructorParameters<typeof CountedLimit> => [
      most,
      nameOf(cluster, limit, counted),
      () => this.#onRefused({ limit, cluster })
    ]
    const { links, linksPerClient, connections, streams } = limits
    return {
      links: links === undefined ? undefined : new CountedLimit(...make('links', links, 'links are open')),
      linksPerClient: new CountedLimitPerKey(
        ...make('linksPerClient', linksPerClient, 'links of this client are open')
      ),
      connections:
        connections === undefined
          ? undefined
          : new CountedLimit(...make('connections', connections, 'connections are open')),
      streams: new CountedLimit(...make('streams', streams, 'streams are open')),
      dials: new TokenBucket(limits.dialsPerSecond, clock),
      routesPerClient: limits.routesPerClient
    }
  }
}

function nameOf(cluster: string, limit: LimitLabel, counted: string): LimitName {
  return { key: `clusters[${cluster}].limits.${limit}`, counted }
}
