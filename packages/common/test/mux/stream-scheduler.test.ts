import fc from 'fast-check'
import t from 'tap'
import { SHORT_BYTES, SHORT_SHARE_BYTES, StreamScheduler } from '../../src/mux/stream-scheduler.js'

t.test('round robin: who was added first speaks first, and once', async t => {
  const scheduler = new StreamScheduler<string>()

  scheduler.add('a', 100_000)
  scheduler.add('b', 100_000)
  scheduler.add('a', 1)

  t.equal(scheduler.size, 2)
  t.same([scheduler.next(), scheduler.next(), scheduler.next()], ['a', 'b', undefined])
})

t.test('at the short limit a stream is short, one byte beyond it is long', async t => {
  const scheduler = new StreamScheduler<string>()

  scheduler.add('long', SHORT_BYTES + 1)
  scheduler.add('short', SHORT_BYTES)

  t.same([scheduler.next(), scheduler.next()], ['short', 'long'])
})

t.test('short ones go before long ones until they have said their share', async t => {
  const scheduler = new StreamScheduler<string>()
  scheduler.add('long', 1_000_000)
  let before = 0

  for (;;) {
    scheduler.add('short', SHORT_BYTES)
    if (scheduler.next() === 'long') break
    scheduler.charge(SHORT_BYTES)
    before += SHORT_BYTES
  }

  t.equal(before, SHORT_SHARE_BYTES)
  scheduler.charge(65_536)
  scheduler.add('long', 1_000_000)
  t.equal(scheduler.next(), 'short', 'the share begins anew')
})

t.test('delete and clear take out of both lanes, and may be called twice', async t => {
  const scheduler = new StreamScheduler<string>()
  scheduler.add('short', 1)
  scheduler.add('long', 1_000_000)

  scheduler.delete('short')
  scheduler.delete('short')
  t.equal(scheduler.next(), 'long')
  scheduler.add('short', 1)
  scheduler.add('long', 1_000_000)
  scheduler.clear()
  scheduler.clear()

  t.equal(scheduler.size, 0)
  t.equal(scheduler.next(), undefined)
})

t.test(
  'nobody starves: however the others come and go, whoever waits speaks within a bounded time',
  async () => {
    const FRAME = 65_536
    const additions = fc.array(fc.record({ name: fc.nat(30), bytes: fc.integer({ min: 1, max: 200_000 }) }), {
      minLength: 200,
      maxLength: 600
    })

    fc.assert(
      fc.property(additions, stream => {
        const scheduler = new StreamScheduler<number>()
        const WATCHED = 1000
        scheduler.add(WATCHED, 1_000_000)
        let said = 0
        for (const { name, bytes } of stream) {
          scheduler.add(name, bytes)
          const next = scheduler.next()
          if (next === WATCHED) return true
          const part = Math.min(bytes, FRAME)
          scheduler.charge(part)
          said += part
          // Before it: at most one turn of each other long one (31), and a share of short ones between any two scheduler.
          if (said > 32 * (FRAME + SHORT_SHARE_BYTES + SHORT_BYTES)) return false
        }
        return true
      }),
      { numRuns: 500 }
    )
  }
)

t.test('long streams get equal shares', async () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 20 }), fc.integer({ min: 50, max: 300 }), (streams, rounds) => {
      const scheduler = new StreamScheduler<number>()
      const said = new Array<number>(streams).fill(0)
      for (let name = 0; name < streams; name++) scheduler.add(name, 1_000_000)
      for (let round = 0; round < rounds * streams; round++) {
        const name = scheduler.next()!
        scheduler.charge(65_536)
        said[name]!++
        scheduler.add(name, 1_000_000)
      }
      return said.every(count => count === rounds)
    })
  )
})
