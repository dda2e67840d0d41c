import t from 'tap'
import { CountedLimit, CountedLimitPerKey, acquireAll } from '../src/counted-limit.js'

const NAME = { key: 'clusters[demo].limits.links', counted: 'links are open' }

t.test('as many as the limit are admitted; one more is refused with the key and its value', async t => {
  let refusals = 0
  const limit = new CountedLimit(2, NAME, () => refusals++)

  limit.acquire()
  limit.acquire()
  t.equal(limit.count, 2)
  t.throws(() => limit.acquire(), {
    code: 'OVERLOADED',
    detail: 'clusters[demo].limits.links: 2 links are open'
  })
  t.equal(limit.count, 2)
  t.equal(refusals, 1)
})

t.test('a release makes room for one, however often it is called', async t => {
  const limit = new CountedLimit(2, NAME)
  const release = limit.acquire()
  limit.acquire()

  release()
  release()

  t.equal(limit.count, 1)
  limit.acquire()
  t.throws(() => limit.acquire(), { code: 'OVERLOADED' })
})

t.test('a limit for each key counts keys apart, and forgets those that have nothing', async t => {
  const limit = new CountedLimitPerKey(1, NAME)
  const releases = ['a', 'b'].map(key => limit.acquire(key))
  t.throws(() => limit.acquire('a'), { code: 'OVERLOADED' })
  t.equal(limit.size, 2)

  for (const release of releases) release()
  for (const release of releases) release()

  t.equal(limit.size, 0)
  limit.acquire('a')
  releases[0]?.()
  t.throws(() => limit.acquire('a'), { code: 'OVERLOADED' }, 'a late release is not that of another')
  const none = new CountedLimitPerKey(0, NAME)
  t.throws(() => none.acquire('a'), { code: 'OVERLOADED' })
  t.equal(none.size, 0, 'who was refused is not remembered')
})

t.test('several limits are acquired together or not at all', async t => {
  const wide = new CountedLimit(5, NAME)
  const narrow = new CountedLimit(1, NAME)
  const all = [() => wide.acquire(), () => narrow.acquire()]
  const release = acquireAll(all)

  t.throws(() => acquireAll(all), { code: 'OVERLOADED' })
  t.equal(wide.count, 1)
  release()
  release()
  t.equal(wide.count + narrow.count, 0)
})
