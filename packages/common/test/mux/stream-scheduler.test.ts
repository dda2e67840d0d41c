import fc from 'fast-check'
import t from 'tap'
import { SHORT_BYTES, SHORT_SHARE_BYTES, Turns } from '../../src/mux/stream-scheduler.js'

t.test('round robin: who was added first speaks first, and once', async t => {
  const turns = new Turns<string>()

  turns.add('a', 100_000)
  turns.add('b', 100_000)
  turns.add('a', 1)

  t.equal(turns.size, 2)
  t.same([turns.next(), turns.next(), turns.next()], ['a', 'b', undefined])
})

t.test('at the short limit a stream is short, one byte beyond it is long', async t => {
  const turns = new Turns<string>()

  turns.add('long', SHORT_BYTES + 1)
  turns.add('short', SHORT_BYTES)

  t.same([turns.next(), turns.next()], ['short', 'long'])
})

t.test('short ones go before long ones until they have said their share', async t => {
  const turns = new Turns<string>()
  turns.add('long', 1_000_000)
  let before = 0

  for (;;) {
    turns.add('short', SHORT_BYTES)
    if (turns.next() === 'long') break
    turns.spent(SHORT_BYTES)
    before += SHORT_BYTES
  }

  t.equal(before, SHORT_SHARE_BYTES)
  turns.spent(65_536)
  turns.add('long', 1_000_000)
  t.equal(turns.next(), 'short', 'the share begins anew')
})

t.test('delete and clear take out of both lanes, and may be called twice', async t => {
  const turns = new Turns<string>()
  turns.add('short', 1)
  turns.add('long', 1_000_000)

  turns.delete('short')
  turns.delete('short')
  t.equal(turns.next(), 'long')
  turns.add('short', 1)
  turns.add('long', 1_000_000)
  turns.clear()
  turns.clear()

  t.equal(turns.size, 0)
  t.equal(turns.next(), undefined)
})

t.test(
  'nobody starves: however the others come and go, whoever waits speaks within a bounded time',
  async () => {
    const FRAME = 65_536
    const arrivals = fc.array(fc.record({ name: fc.nat(30), bytes: fc.integer({ min: 1, max: 200_000 }) }), {
      minLength: 200,
      maxLength: 600
    })

    fc.assert(
      fc.property(arrivals, stream => {
        const turns = new Turns<number>()
        const WATCHED = 1000
        turns.add(WATCHED, 1_000_000)
        let said = 0
        for (const { name, bytes } of stream) {
          turns.add(name, bytes)
          const next = turns.next()
          if (next === WATCHED) return true
          const part = Math.min(bytes, FRAME)
          turns.spent(part)
          said += part
          // Before it: at most one turn of each other long one (31), and a share of short ones between any two turns.
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
      const turns = new Turns<number>()
      const said = new Array<number>(streams).fill(0)
      for (let name = 0; name < streams; name++) turns.add(name, 1_000_000)
      for (let round = 0; round < rounds * streams; round++) {
        const name = turns.next()!
        turns.spent(65_536)
        said[name]!++
        turns.add(name, 1_000_000)
      }
      return said.every(count => count === rounds)
    })
  )
})
