import t from 'tap'
import { createMetrics, DIAL_BUCKETS_S } from '../src/metrics.js'

t.test('metrics carry the prefix, and each registry knows only its own', async t => {
  const one = createMetrics({ program: 'seed-server', version: '1.2.3', processMetrics: false })
  const other = createMetrics({ program: 'shoot-client', version: '1.2.3', processMetrics: false })

  one.counter('dials_total', 'Dials.', ['code']).inc({ code: 'DIAL_TIMEOUT' })
  one.gauge('streams', 'Streams.', [], gauge => gauge.set(7))
  one.histogram('dial_seconds', 'Time.', DIAL_BUCKETS_S).observe(0.02)

  const text = await one.registry.metrics()
  t.match(text, /^tendril_build_info\{program="seed-server",version="1\.2\.3",node="v\d+.*"\} 1$/m)
  t.match(text, /^tendril_dials_total\{code="DIAL_TIMEOUT"\} 1$/m)
  t.match(text, /^tendril_streams 7$/m)
  t.match(text, /^tendril_dial_seconds_bucket\{le="0\.025"\} 1$/m)
  t.notMatch(await other.registry.metrics(), /dials_total|process_/)
})

t.test('the process is described under the names that dashboards know', async t => {
  const { registry } = createMetrics({ program: 'seed-server', version: '0' })

  const text = await registry.metrics()
  t.match(text, /^process_cpu_seconds_total /m)
  t.match(text, /^nodejs_eventloop_lag_seconds /m)
})
