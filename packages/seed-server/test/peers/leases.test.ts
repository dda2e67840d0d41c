import t, { type Test } from 'tap'
import { createLog } from '@tendril/common/log'
import { type LeaseSourceOptions, leaseSource } from '../../src/peers/leases.js'
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import { silent } from '../support.js'
import { FakeApi } from './fake-api.js'

/** A source under test: what it announced last, and a way to wait for it. */
function source(t: Test, api: FakeApi, options: Partial<LeaseSourceOptions> = {}) {
  const leases = leaseSource({
    namespace: 'seed',
    label: 'group=a',
    kubeconfig: api.kubeconfig(t),
    holder: 'me',
    address: '10.0.0.1:8443',
    log: silent,
    ...options
  })
  const announced: string[] = []
  const waiting: (() => void)[] = []
  t.teardown(() => leases.stop())
  let onFailed = (): void => {}
  const failed = new Promise<void>(resolve => (onFailed = resolve))
  leases.start(
    addresses => {
      announced.push(addresses.join(' '))
      for (const notify of waiting.splice(0)) notify()
    },
    () => onFailed()
  )
  const until = async (wanted: string): Promise<void> => {
    while (announced.at(-1) !== wanted) await new Promise<void>(resolve => waiting.push(resolve))
  }
  return { leases, announced, until, failed }
}

t.test('its own lease says who and where, is renewed, and deleted when it leaves', async t => {
  const api = await FakeApi.start(t)
  const clock = new FakeClock()
  const { leases } = source(t, api, { clock })
  await api.until(() => api.leases.has('tendril-me') && api.watches === 1)

  t.match(api.leases.get('tendril-me'), {
    metadata: { labels: { group: 'a' }, annotations: { 'tendril/address': '10.0.0.1:8443' } },
    spec: { holderIdentity: 'me', leaseDurationSeconds: 30 }
  })
  t.match(api.leases.get('tendril-me')?.spec.renewTime, /^\d{4}-.*\.\d{6}Z$/)
  const first = api.leases.get('tendril-me')?.metadata.resourceVersion

  // The answer has to be read before the wait begins.
  while (clock.pending === 0) await new Promise(resolve => setImmediate(resolve))
  clock.tick(10_000)
  await api.until(() => api.leases.get('tendril-me')?.metadata.resourceVersion !== first)
  await leases.leave()

  t.notOk(api.leases.has('tendril-me'))
  t.equal(api.requests.filter(request => request.startsWith('PUT')).length, 1)
})

t.test('others of the same label are announced as they come, move and go', async t => {
  const api = await FakeApi.start(t)
  api.put('tendril-b', '10.0.0.2:8443')
  api.put('tendril-x', '10.0.0.9:8443', 'group=other')
  const { until, announced } = source(t, api)

  await until('10.0.0.2:8443')
  await api.until(() => api.watches === 1)
  api.put('tendril-c', '10.0.0.3:8443')
  await until('10.0.0.2:8443 10.0.0.3:8443')
  api.put('tendril-b', '10.0.0.4:8443')
  await until('10.0.0.3:8443 10.0.0.4:8443')
  api.delete('tendril-c')
  await until('10.0.0.4:8443')

  t.equal(announced.length, 4, 'nothing is announced twice')
})

t.test('a watch that ends is begun anew, and nothing is missed', async t => {
  const api = await FakeApi.start(t)
  const clock = new FakeClock()
  const { until } = source(t, api, { clock })
  await until('')
  await api.until(() => api.watches === 1)

  api.endWatches()
  await api.until(() => api.watches === 0)
  api.put('tendril-b', '10.0.0.2:8443')
  const turning = setInterval(() => clock.tick(100), 5)
  t.teardown(() => clearInterval(turning))

  await until('10.0.0.2:8443')
  t.pass()
})

t.test('a lease that is not renewed counts no more after its duration, and is deleted later', async t => {
  const api = await FakeApi.start(t)
  const clock = new FakeClock()
  api.put('tendril-dead', '10.0.0.2:8443')
  api.put('tendril-well', '10.0.0.3:8443')
  const { until } = source(t, api, { clock, durationMs: 3_000 })
  await until('10.0.0.2:8443 10.0.0.3:8443')
  await api.until(() => api.watches === 1)

  // The clock goes on only as fast as the answers come.
  const turning = setInterval(() => {
    clock.tick(500)
    api.put('tendril-well', '10.0.0.3:8443')
  }, 20)
  t.teardown(() => clearInterval(turning))
  await until('10.0.0.3:8443')
  t.ok(api.leases.has('tendril-dead'), 'its holder may come back')

  await api.until(() => !api.leases.has('tendril-dead'))
  t.ok(api.leases.has('tendril-well'))
})

t.test('an API that says no is said once, with what is missing, and asked again', async t => {
  const lines: string[] = []
  const log = createLog({ level: 'info', format: 'json', destination: { write: line => lines.push(line) } })
  const api = await FakeApi.start(t)
  api.refuse = 403
  api.put('tendril-b', '10.0.0.2:8443')
  const { until } = source(t, api, { log })
  await api.until(() => api.requests.length >= 4)

  api.refuse = undefined
  await until('10.0.0.2:8443')
  await api.until(() => api.leases.has('tendril-me'))

  const errors = lines.map(line => JSON.parse(line) as { msg: string; reason: string })
  t.equal(errors.length, 2, 'one for the own lease, one for those of others')
  t.match(errors[0]?.reason, /403: the ServiceAccount needs list, watch, create, update and delete/)
})

t.test('an API that is away at the start is waited for', async t => {
  const gone = await FakeApi.start(t)
  const { port } = gone
  const kubeconfig = gone.kubeconfig(t)
  await gone.stop()
  const { until, announced, failed } = source(t, gone, { kubeconfig })
  await failed
  t.same(announced, [])

  const api = await FakeApi.start(t, port)
  api.put('tendril-b', '10.0.0.2:8443')

  await until('10.0.0.2:8443')
  await api.until(() => api.leases.has('tendril-me'))
})

t.test('its own lease, deleted or changed by others, is written again', async t => {
  const api = await FakeApi.start(t)
  source(t, api, { durationMs: 300 })
  await api.until(() => api.leases.has('tendril-me'))

  api.delete('tendril-me')
  await api.until(() => api.leases.has('tendril-me'))
  api.put('tendril-me', '192.0.2.66:1')
  await api.until(
    () => api.leases.get('tendril-me')?.metadata.annotations?.['tendril/address'] === '10.0.0.1:8443'
  )
  t.pass()
})

t.test('to leave and to stop is possible at any moment, twice, and leaves nothing', async t => {
  const api = await FakeApi.start(t)
  const { leases } = source(t, api)

  await Promise.all([leases.stop(), leases.stop()])
  await leases.leave()

  t.notOk(api.leases.has('tendril-me'))
})
