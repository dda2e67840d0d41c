import t from 'tap'
import { RoundTrip } from '../../src/mux/round-trip.js'
import { FakeClock } from '../support/fake-clock.js'

function measured(): { roundTrip: RoundTrip; clock: FakeClock; pings: Buffer[] } {
  const clock = new FakeClock()
  const pings: Buffer[] = []
  return { clock, pings, roundTrip: new RoundTrip(clock, opaque => void pings.push(opaque)) }
}

t.test('the shortest of the last eight answers counts', async t => {
  const { roundTrip, clock, pings } = measured()
  const seen = []

  for (const ms of [50, 20, 90, 80, 80, 80, 80, 80, 80, 80]) {
    roundTrip.measure()
    clock.tick(ms)
    roundTrip.answered(pings.at(-1)!)
    seen.push(roundTrip.ms)
  }

  t.same(seen, [50, 20, 20, 20, 20, 20, 20, 20, 20, 80])
})

t.test('it is measured again when a second has gone by, not before', async t => {
  const { roundTrip, clock, pings } = measured()

  roundTrip.refresh()
  clock.tick(999)
  roundTrip.refresh()
  t.equal(pings.length, 1)
  clock.tick(1)
  roundTrip.refresh()

  t.equal(pings.length, 2)
})

t.test('answers that were not asked for, or come twice, say nothing', async t => {
  const { roundTrip, clock, pings } = measured()
  roundTrip.answered(Buffer.alloc(8))
  t.equal(roundTrip.ms, 0)

  roundTrip.measure()
  roundTrip.measure()
  clock.tick(5)
  roundTrip.answered(pings[0]!)
  t.equal(roundTrip.ms, 0, 'the first was given up')
  roundTrip.answered(pings[1]!)
  clock.tick(100)
  roundTrip.answered(pings[1]!)
  roundTrip.answered(Buffer.alloc(8))

  t.equal(roundTrip.ms, 5)
})
