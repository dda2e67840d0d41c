/**
 * What seed-server counts, as one object made of a metrics registry. Labels come from closed sets: fronts and
 * clusters of the configuration, codes of the table of errors. Who counts what is said where it is counted.
 */
import type { ErrorCode } from '@tendril/common'
import { type Aggregator, DIAL_BUCKETS_S, type Metrics } from '@tendril/common/metrics'
import type { Gauge } from 'prom-client'

/** What is read from the clients at the moment somebody asks for the metrics. */
type ClientView = {
  cluster: string
  state: { draining: boolean; down: boolean; streams: number; rttMs: number }
}

export type ServerMetricsOptions = {
  registry: { clients(): readonly ClientView[] }
  /** Every configured cluster, so that one without clients shows 0 rather than nothing. */
  clusters?: readonly string[]
  /** Bytes kept for a resume, by cluster; those of links between servers under the name `*`. */
  replayBytes?: () => readonly (readonly [cluster: string, bytes: number])[]
  /** How many other servers are connected. Absent: there are none by configuration. */
  peersUp?: (() => number) | undefined
}

/** The limits whose refusals are counted, by the last part of their key. */
export const LIMIT_LABELS = [
  'links',
  'linksPerClient',
  'routesPerClient',
  'connections',
  'streams',
  'dialsPerSecond',
  'linkLimit',
  'maxConnections',
  'maxPending'
] as const

export type LimitLabel = (typeof LIMIT_LABELS)[number]

/** `front` is the observer of every front (FrontObserver). */
export type ServerMetrics = {
  front: {
    answered(event: {
      front: string
      cluster: string
      code: 'OK' | ErrorCode
      dialMs: number | undefined
    }): void
    open(event: { front: string; cluster: string; change: 1 | -1 }): void
    carried(event: { cluster: string; upBytes: number; downBytes: number }): void
  }
  /** The acceptor turned somebody away. */
  tunnelRefused(code: ErrorCode): void
  /** A limit of the configuration was reached: one of one cluster, or of the whole process (no cluster). */
  limitRefused(event: { limit: LimitLabel; cluster?: string }): void
  /** The observer of the registry (RegistryObserver). */
  registry: {
    dialed(event: { cluster: string; code: 'OK' | ErrorCode }): void
    failedOver(event: { cluster: string; code: ErrorCode }): void
  }
  /** A peer answered a dial that was passed on. */
  forwarded(event: { cluster: string; code: 'OK' | ErrorCode }): void
}

const MS_PER_S = 1_000

export function createServerMetrics(
  metrics: Metrics,
  { registry, clusters = [], replayBytes, peersUp }: ServerMetricsOptions
): ServerMetrics {
  const connects = metrics.counter(
    'server_connects_total',
    'CONNECT requests answered, by outcome: OK or a code of docs/errors.md. No cluster: refused before one was known.',
    ['front', 'cluster', 'code']
  )
  const dials = metrics.histogram(
    'server_dial_duration_seconds',
    'From the end of the request head to the answer, in seconds.',
    DIAL_BUCKETS_S,
    ['front', 'cluster']
  )
  const open = metrics.gauge('server_connects_open', 'CONNECT requests that are tunnels now.', [
    'front',
    'cluster'
  ])
  const bytes = metrics.counter(
    'server_bytes_total',
    'Bytes carried by tunnels of fronts that have ended: up to the targets, down to the callers.',
    ['cluster', 'direction']
  )
  const refusals = metrics.counter(
    'server_tunnel_refusals_total',
    'Tunnel connections turned away, by code.',
    ['code']
  )

  const limits = metrics.counter(
    'server_limit_refusals_total',
    'What was refused because a limit was reached, by the last part of its key. No cluster: a limit of the whole process.',
    ['limit', 'cluster']
  )

  const outcomes = metrics.counter(
    'server_dials_total',
    'Dials into clusters, for callers here and for other servers, by outcome: OK or a code of docs/errors.md.',
    ['cluster', 'code']
  )
  const failovers = metrics.counter(
    'server_failovers_total',
    'Dials that a client or another server could not serve for a reason of its own, and somebody else was asked.',
    ['cluster', 'code']
  )
  const forwarded = metrics.counter(
    'server_forwarded_dials_total',
    'Dials passed on to another server, by its answer. One dial may be passed on to several in turn.',
    ['cluster', 'code']
  )
  if (replayBytes) {
    metrics.gauge(
      'server_replay_bytes',
      'Bytes sent and not acknowledged, kept for a resume; of links between servers under the cluster "*".',
      ['cluster'],
      gauge => {
        for (const [cluster, bytes] of replayBytes()) gauge.set({ cluster }, bytes)
      }
    )
  }
  if (peersUp) {
    metrics.gauge(
      'server_peers',
      'Other servers that this one is connected to; of several workers, the one with the fewest.',
      [],
      gauge => {
        gauge.set(peersUp())
      },
      'min'
    )
  }

  // A client has a link to every worker, and is one client: what is said of it is not added up over workers.
  const perCluster = (
    name: string,
    help: string,
    read: (clients: ClientView[]) => number,
    overWorkers: Aggregator = 'max'
  ): void => {
    const collect = (gauge: Gauge<'cluster'>): void => {
      gauge.reset()
      const byCluster = new Map<string, ClientView[]>(clusters.map(cluster => [cluster, []]))
      for (const client of registry.clients()) {
        const these = byCluster.get(client.cluster)
        if (these) these.push(client)
        else byCluster.set(client.cluster, [client])
      }
      for (const [cluster, clients] of byCluster) gauge.set({ cluster }, read(clients))
    }
    metrics.gauge(name, help, ['cluster'], collect, overWorkers)
  }
  perCluster(
    'server_clients',
    'Clients connected, those that are down or draining included.',
    clients => clients.length
  )
  perCluster('server_clients_down', 'Clients whose connection is lost and may come back.', clients => {
    return clients.filter(({ state }) => state.down).length
  })
  perCluster('server_clients_draining', 'Clients connected that take no new streams.', clients => {
    return clients.filter(({ state }) => state.draining).length
  })
  perCluster(
    'server_streams',
    'Streams open to the clients.',
    clients => clients.reduce((sum, { state }) => sum + state.streams, 0),
    'sum'
  )
  perCluster('server_round_trip_seconds', 'Longest measured round trip to a client, in seconds.', clients => {
    return clients.reduce((longest, { state }) => Math.max(longest, state.rttMs), 0) / MS_PER_S
  })

  return {
    front: {
      answered({ front, cluster, code, dialMs }) {
        connects.inc({ front, cluster, code })
        if (dialMs !== undefined) dials.observe({ front, cluster }, dialMs / MS_PER_S)
      },
      open: ({ front, cluster, change }) => open.inc({ front, cluster }, change),
      carried({ cluster, upBytes, downBytes }) {
        bytes.inc({ cluster, direction: 'up' }, upBytes)
        bytes.inc({ cluster, direction: 'down' }, downBytes)
      }
    },
    tunnelRefused: code => refusals.inc({ code }),
    limitRefused: ({ limit, cluster = '' }) => limits.inc({ limit, cluster }),
    registry: {
      dialed: ({ cluster, code }) => outcomes.inc({ cluster, code }),
      failedOver: ({ cluster, code }) => failovers.inc({ cluster, code })
    },
    forwarded: ({ cluster, code }) => forwarded.inc({ cluster, code })
  }
}

/** What the primary of several workers counts; `serving` is asked how many there are. */
export function createWorkersMetrics(
  metrics: Metrics,
  { serving }: { serving: () => number }
): { restarted(): void } {
  metrics.gauge('server_workers', 'Workers that serve.', [], gauge => {
    gauge.set(serving())
  })
  const restarts = metrics.counter(
    'server_worker_restarts_total',
    'Workers started in the place of one that died.'
  )
  return { restarted: () => restarts.inc() }
}
