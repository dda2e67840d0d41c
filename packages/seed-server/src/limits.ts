/**
 * What each cluster may use of this process, and what all may together: counts and rates. Bytes are shared by FairBudget.
 * Names of clusters and clients are free, so it is the limits of the cluster that protect other clusters.
 */
import type { Clock, Dial } from '@tendril/common'
import { TunnelError, systemClock } from '@tendril/common'
import {
  CountedLimit,
  CountedLimitPerKey,
  type LimitName,
  type Release,
  acquireAll
} from '@tendril/common/counted-limit'
import { TokenBucket } from '@tendril/common/token-bucket'
import type { ClusterConfig } from './config.js'
import type { LimitLabel } from './metrics.js'

export type LimitsOptions = {
  clusters: readonly Pick<ClusterConfig, 'name' | 'limits'>[]
  /** Links of all clusters and peers together. */
  linkLimit: number
  onRefused: (event: { limit: LimitLabel; cluster?: string }) => void
  clock?: Clock
}

type ClusterLimits = {
  links: CountedLimit
  linksPerClient: CountedLimitPerKey
  connections: CountedLimit
  streams: CountedLimit
  dials: TokenBucket
  routesPerClient: number
}

export class Limits {
  readonly #onRefused: LimitsOptions['onRefused']
  readonly #links: CountedLimit
  readonly #clusters: Map<string, ClusterLimits>

  constructor({ clusters, linkLimit, onRefused, clock = systemClock }: LimitsOptions) {
    this.#onRefused = onRefused
    this.#links = new CountedLimit(linkLimit, { key: 'link.linkLimit', counted: 'links are open' }, () =>
      onRefused({ limit: 'linkLimit' })
    )
    this.#clusters = new Map(clusters.map(({ name, limits }) => [name, this.#newLimits(name, limits, clock)]))
  }

  /**
   * A link of a client (its verified identity and its name), or of another server, which belongs to no cluster.
   * @throws TunnelError OVERLOADED
   */
  acquireLink(cluster: string, client: string): Release {
    const limits = this.#clusters.get(cluster)
    return acquireAll([
      ...(limits ? [() => limits.linksPerClient.acquire(client), () => limits.links.acquire()] : []),
      () => this.#links.acquire()
    ])
  }

  /** A connection whose certificate is that of a client. @throws TunnelError OVERLOADED */
  acquireConnection(cluster: string): Release {
    return this.#clusters.get(cluster)?.connections.acquire() ?? (() => {})
  }

  /** `dial` into a cluster, within what its callers may open. The stream counts until it is closed. */
  dial(cluster: string, dial: Dial): Dial {
    const limits = this.#clusters.get(cluster)
    if (!limits) return dial
    return async (target, options) => {
      const release = this.#acquireStream(cluster, limits)
      try {
        const stream = await dial(target, options)
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

  #acquireStream(cluster: string, { streams, dials }: ClusterLimits): Release {
    const release = streams.acquire()
    if (dials.take()) return release
    release()
    this.#onRefused({ limit: 'dialsPerSecond', cluster })
    const { key } = nameOf(cluster, 'dialsPerSecond', '')
    throw new TunnelError('OVERLOADED', `${key}: more than ${dials.perSecond} dials in a second`)
  }

  #newLimits(cluster: string, limits: ClusterConfig['limits'], clock: Clock): ClusterLimits {
    const make = (
      limit: 'links' | 'linksPerClient' | 'connections' | 'streams',
      counted: string
    ): ConstructorParameters<typeof CountedLimit> => [
      limits[limit],
      nameOf(cluster, limit, counted),
      () => this.#onRefused({ limit, cluster })
    ]
    return {
      links: new CountedLimit(...make('links', 'links are open')),
      linksPerClient: new CountedLimitPerKey(...make('linksPerClient', 'links of this client are open')),
      connections: new CountedLimit(...make('connections', 'connections are open')),
      streams: new CountedLimit(...make('streams', 'streams are open')),
      dials: new TokenBucket(limits.dialsPerSecond, clock),
      routesPerClient: limits.routesPerClient
    }
  }
}

function nameOf(cluster: string, limit: LimitLabel, counted: string): LimitName {
  return { key: `clusters[${cluster}].limits.${limit}`, counted }
}
