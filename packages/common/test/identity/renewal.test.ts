import { EventEmitter } from 'node:events'
import t from 'tap'
import { RENEWAL_MS, followRenewals } from '@tendril/common/identity/renewal'

t.test('connections are replaced while the certificate before is still good for as long again', async t => {
  const now = new Date('2030-01-01T00:00:00Z')
  const inMs = (ms: number): Date => new Date(now.getTime() + ms)
  const bundle = Object.assign(new EventEmitter(), { notAfter: inMs(10_000) })
  const spans: number[] = []
  const release = followRenewals(
    bundle as never,
    withinMs => void spans.push(withinMs),
    () => now
  )

  for (const nextMs of [86_400_000, 100_001, 2 * RENEWAL_MS, -1, 5]) {
    bundle.notAfter = inMs(nextMs)
    bundle.emit('change')
  }
  t.same(spans, [5_000, RENEWAL_MS, RENEWAL_MS, RENEWAL_MS, 0])

  release()
  release()
  bundle.emit('change')
  t.equal(spans.length, 5)
})
