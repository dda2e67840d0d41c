import t from 'tap'
import { CountedLimit, CountedLimitPerKey, SharedLimit, acquireAll } from '../src/counted-limit.js'

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

/** Acquires until refused. */
function takeAll(limit: SharedLimit, party: string): (() => void)[] {
  const releases = []
  try {
    for (;;) releases.push(limit.acquire(party))
  } catch {
    return releases
  }
}

const SHARED = { key: 'link.linkLimit', counted: 'links are open' }

for (const parties of [1, 2, 3, 10, 100]) {
  t.test(`each of ${parties} parties has what is kept for it, whatever all others have`, async t => {
    const names = Array.from({ length: parties }, (_, at) => `p${at}`)
    const [last = '', ...others] = [...names].reverse()
    const limit = new SharedLimit(4_096, names, SHARED)

    const taken = others.map(party => takeAll(limit, party).length)
    const left = takeAll(limit, last).length

    t.ok(limit.keptForEach >= Math.floor(2_048 / parties))
    t.equal(left, parties === 1 ? 4_096 : limit.keptForEach)
    if (parties > 1)
      t.equal(Math.max(...taken), 4_096 - (parties - 1) * limit.keptForEach, 'one alone has half')
    t.equal(limit.count, 4_096, 'and nothing is left over')
    t.throws(() => limit.acquire(last), { code: 'OVERLOADED', detail: 'link.linkLimit: 4096 links are open' })
  })
}

t.test('a party that was not named gets nothing, and takes nothing from the others', async t => {
  for (const parties of [[], ['a', 'b']]) {
    const limit = new SharedLimit(8, parties, SHARED)
    t.throws(() => limit.acquire('c'), { code: 'OVERLOADED' })
    t.equal(limit.count, 0)
  }
})

t.test('a party that has what it may have is told that the rest is kept for others', async t => {
  let refused = ''
  const limit = new SharedLimit(8, ['a', 'b'], SHARED, party => (refused = party))

  t.equal(takeAll(limit, 'a').length, 6)

  t.throws(() => limit.acquire('a'), {
    code: 'OVERLOADED',
    detail: 'link.linkLimit: 6 of 8 links are open, what is left is kept for other clusters'
  })
  t.equal(refused, 'a')
  t.throws(() => limit.acquire('somebody else'), { code: 'OVERLOADED' })
  t.equal(limit.count, 6)
})

t.test('what is given back is for whoever comes first, in any order of giving and taking', async t => {
  const limit = new SharedLimit(8, ['a', 'b'], SHARED)
  const ofA = takeAll(limit, 'a')
  const ofB = takeAll(limit, 'b')
  t.same([ofA.length, ofB.length], [6, 2])

  // Released first: one that was within what is kept. It is the number that counts.
  ofA[0]?.()
  ofA[0]?.()
  t.equal(limit.count, 7)
  ofB.push(...takeAll(limit, 'b'))
  t.equal(ofB.length, 3)
  for (const release of [...ofA, ...ofB]) release()

  t.equal(limit.count, 0)
  t.equal(takeAll(limit, 'b').length, 6)
})

t.test('a limit smaller than twice the parties keeps as much as it can', async t => {
  const kept = (limit: number): number => new SharedLimit(limit, ['a', 'b', 'c'], SHARED).keptForEach

  t.same([2, 3, 5, 6, 7].map(kept), [0, 1, 1, 1, 1])
  t.equal(takeAll(new SharedLimit(2, ['a', 'b', 'c'], SHARED), 'a').length, 2)
})
