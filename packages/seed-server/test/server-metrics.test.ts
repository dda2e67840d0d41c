import t from 'tap'
import { createMetrics } from '@tendril/common/metrics'
import type { FrontObserver } from '../src/front/caller.js'
import { createServerMetrics } from '../src/server-metrics.js'

function make(
  clients: {
    cluster: string
    state: { down: boolean; draining: boolean; streams: number; rttMs: number }
  }[] = []
) {
  const metrics = createMetrics({ program: 'seed-server', version: '0', processMetrics: false })
  const counts = createServerMetrics(metrics, {
    registry: { clients: () => clients },
    clusters: ['demo', 'idle'],
    replayBytes: () => [['demo', 77] as const]
  })
  return { clients, counts, lines: async () => (await metrics.registry.metrics()).split('\n') }
}

t.test('what a front says is counted', async t => {
  const { counts, lines } = make()
  const front: FrontObserver = counts.front
  const labels = { front: 'kas', cluster: 'demo' }

  front.answered({ ...labels, code: 'OK', dialMs: 20 })
  front.answered({ ...labels, code: 'TARGET_REFUSED', dialMs: 4_000 })
  front.answered({ front: 'kas', cluster: '', code: 'NOT_CONNECT', dialMs: undefined })
  front.open({ ...labels, change: 1 })
  front.open({ ...labels, change: 1 })
  front.open({ ...labels, change: -1 })
  front.carried({ cluster: 'demo', upBytes: 7, downBytes: 500 })
  counts.tunnelRefused('CLUSTER_DENIED')
  counts.limitRefused({ limit: 'links', cluster: 'demo' })
  counts.limitRefused({ limit: 'linkLimit' })

  const said = await lines()
  for (const line of [
    'tendril_server_connects_total{front="kas",cluster="demo",code="OK"} 1',
    'tendril_server_connects_total{front="kas",cluster="demo",code="TARGET_REFUSED"} 1',
    'tendril_server_connects_total{front="kas",cluster="",code="NOT_CONNECT"} 1',
    'tendril_server_dial_duration_seconds_bucket{le="0.005",front="kas",cluster="demo"} 0',
    'tendril_server_dial_duration_seconds_bucket{le="0.025",front="kas",cluster="demo"} 1',
    'tendril_server_dial_duration_seconds_bucket{le="12.5",front="kas",cluster="demo"} 2',
    'tendril_server_connects_open{front="kas",cluster="demo"} 1',
    'tendril_server_bytes_total{cluster="demo",direction="up"} 7',
    'tendril_server_bytes_total{cluster="demo",direction="down"} 500',
    'tendril_server_tunnel_refusals_total{code="CLUSTER_DENIED"} 1',
    'tendril_server_limit_refusals_total{limit="links",cluster="demo"} 1',
    'tendril_server_limit_refusals_total{limit="linkLimit",cluster=""} 1'
  ]) {
    t.ok(said.includes(line), line)
  }
})

t.test('clients are looked at when somebody asks, and a cluster without any shows zero', async t => {
  const { clients, lines } = make()
  clients.push(
    { cluster: 'demo', state: { down: false, draining: false, streams: 3, rttMs: 5 } },
    { cluster: 'demo', state: { down: false, draining: true, streams: 4, rttMs: 20 } }
  )

  const said = await lines()
  for (const line of [
    'tendril_server_clients{cluster="demo"} 2',
    'tendril_server_replay_bytes{cluster="demo"} 77',
    'tendril_server_clients{cluster="idle"} 0',
    'tendril_server_clients_draining{cluster="demo"} 1',
    'tendril_server_streams{cluster="demo"} 7',
    'tendril_server_streams{cluster="idle"} 0',
    'tendril_server_round_trip_seconds{cluster="demo"} 0.02'
  ]) {
    t.ok(said.includes(line), line)
  }
  clients.length = 0
  t.ok((await lines()).includes('tendril_server_clients{cluster="demo"} 0'))
})
