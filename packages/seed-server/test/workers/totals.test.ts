import t from 'tap'
import { createMetrics } from '@tendril/common/metrics'
import { createServerMetrics } from '../../src/server-metrics.js'
import { Totals } from '../../src/workers/totals.js'

/** A worker that has answered `dials` dials, has one client with `streams` streams, and `peers` peers. */
function worker({ dials, streams, peers }: { dials: number; streams: number; peers: number }) {
  const metrics = createMetrics({ program: 'seed-server', version: '1', processMetrics: false })
  const state = { draining: false, down: false, streams, rttMs: streams }
  const counts = createServerMetrics(metrics, {
    registry: { clients: () => [{ cluster: 'demo', state }] },
    peersUp: () => peers
  })
  for (let dial = 0; dial < dials; dial += 1)
    counts.front.answered({ front: 'kube', cluster: 'demo', code: 'OK', dialMs: 1 })
  return metrics.registry.getMetricsAsJSON()
}

t.test('each metric of several processes is added up, or what it stands for says how', async t => {
  const all = [
    await worker({ dials: 3, streams: 5, peers: 3 }),
    await worker({ dials: 4, streams: 7, peers: 2 })
  ]

  const text = await new Totals().of(all)

  for (const line of [
    'tendril_server_connects_total{front="kube",cluster="demo",code="OK"} 7',
    'tendril_server_dial_duration_seconds_count{front="kube",cluster="demo"} 7',
    'tendril_server_dial_duration_seconds_bucket{le="0.005",front="kube",cluster="demo"} 7',
    'tendril_server_streams{cluster="demo"} 12',
    'tendril_server_clients{cluster="demo"} 1',
    'tendril_server_round_trip_seconds{cluster="demo"} 0.007',
    'tendril_server_peers 2',
    `tendril_build_info{program="seed-server",version="1",node="${process.version}"} 1`
  ]) {
    t.match(text, `${line}\n`)
  }
})

t.test('what ended processes counted stays; what they were does not', async t => {
  const totals = new Totals()
  await totals.keep(await worker({ dials: 3, streams: 5, peers: 3 }))
  await totals.keep(await worker({ dials: 2, streams: 5, peers: 3 }))
  await totals.keep([])

  const text = await totals.of([await worker({ dials: 1, streams: 1, peers: 1 })])

  t.match(text, 'connects_total{front="kube",cluster="demo",code="OK"} 6\n')
  t.match(text, 'dial_duration_seconds_count{front="kube",cluster="demo"} 6\n')
  t.match(text, 'tendril_server_streams{cluster="demo"} 1\n')
})
