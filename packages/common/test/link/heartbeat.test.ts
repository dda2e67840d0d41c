import t from 'tap'
import { Heartbeat } from '../../src/link/heartbeat.js'
import { FakeClock } from '../support/fake-clock.js'

/** `random` 0: no ping comes early. */
function patient(limits = { pingIntervalMs: 5_000, deadAfterMs: 10_000 }, random = () => 0) {
  const clock = new FakeClock()
  const state = { bytes: 0, pings: [] as number[], deadMs: undefined as number | undefined }
  const heart = {
    bytesReceived: () => state.bytes,
    ping: (id: number) => state.pings.push(id),
    dead: (silentMs: number) => {
      state.deadMs = silentMs
      // What a link does with a carrier that is given up.
      heartbeat.stop()
    }
  }
  const heartbeat = new Heartbeat(clock, limits, heart, random)
  return { clock, state, heartbeat }
}

t.test('a ping goes out after five seconds of silence, not before', async t => {
  const { clock, state, heartbeat } = patient()

  clock.tick(4_999)
  t.same(state.pings, [])
  clock.tick(1)
  t.same(state.pings, [1])
  heartbeat.stop()
})

t.test('ten seconds of silence are the end, one less is not', async t => {
  const { clock, state } = patient()

  clock.tick(9_999)
  t.equal(state.deadMs, undefined)
  clock.tick(1)
  t.equal(state.deadMs, 10_000)
  t.same(state.pings, [1], 'it asked once')
  t.equal(clock.pending, 0)
})

t.test('a process that stood still reads what has come before it calls the other side dead', async t => {
  const { clock, state, heartbeat } = patient()

  clock.jump(60_000)
  t.equal(state.deadMs, undefined, 'the timer came late: what waits in the kernel has yet to be read')
  state.bytes++
  heartbeat.listen()
  clock.tick(9_999)
  t.equal(state.deadMs, undefined)

  clock.jump(60_000)
  clock.tick(1)
  t.not(state.deadMs, undefined, 'nothing came: one turn later it is dead')
  t.equal(clock.pending, 0)
})

t.test('any byte is a sign of life, a pong is not needed', async t => {
  const { clock, state, heartbeat } = patient()

  for (let second = 0; second < 100; second++) {
    state.bytes++
    clock.tick(4_000)
  }
  t.equal(state.deadMs, undefined)
  t.same(state.pings, [], 'who hears something need not ask')

  clock.tick(9_999)
  t.equal(state.deadMs, undefined)
  clock.tick(5_001)
  t.not(state.deadMs, undefined)
  heartbeat.stop()
})

t.test('a line that is only ever asked and answers lives', async t => {
  const { clock, state, heartbeat } = patient()

  for (let minute = 0; minute < 60; minute++) {
    const before = state.pings.length
    clock.tick(5_000)
    if (state.pings.length > before) state.bytes += 9
  }

  t.equal(state.deadMs, undefined)
  t.ok(state.pings.length >= 29, `${state.pings.length} pings in 300 s`)
  heartbeat.stop()
})

t.test('silence is counted from the last byte as far as it was looked for, never too early', async t => {
  const { clock, state } = patient()

  clock.tick(4_000)
  state.bytes++
  clock.tick(1_000)
  clock.tick(9_999)
  t.equal(state.deadMs, undefined)
  clock.tick(1)
  t.equal(state.deadMs, 10_000)
})

t.test('the round trip is that of the last ping, late pongs do not count', async t => {
  const { clock, heartbeat } = patient()
  t.equal(heartbeat.roundTripMs, 0)

  heartbeat.ping()
  clock.tick(30)
  heartbeat.pong(1)
  t.equal(heartbeat.roundTripMs, 30)
  heartbeat.ping()
  clock.tick(10)
  heartbeat.pong(1)
  t.equal(heartbeat.roundTripMs, 30)
  heartbeat.stop()
})

t.test('who has asked and waits does not ask again', async t => {
  const { clock, state, heartbeat } = patient()

  heartbeat.ping()
  clock.tick(9_999)

  t.same(state.pings, [1])
  heartbeat.stop()
})

t.test('a ping comes up to a fifth of the interval early, by chance', async t => {
  const { clock, state, heartbeat } = patient(undefined, () => 0.5)

  clock.tick(4_499)
  t.same(state.pings, [])
  clock.tick(1)
  t.same(state.pings, [1])
  heartbeat.stop()
})

t.test('two sides that began together soon ask in turns, and both know the round trip', async t => {
  const clock = new FakeClock()
  const bytes = [0, 0]
  let pings = 0
  let steps = 0
  // The golden ratio: evenly spread, never twice the same.
  const random = (): number => (steps += 0.618) % 1
  const arrive = (at: number, then: () => void): void => {
    clock.after(20, () => {
      bytes[at]! += 9
      sides[at]!.listen()
      then()
    })
  }
  const sides = [0, 1].map(me => {
    const heart = {
      bytesReceived: () => bytes[me]!,
      ping: (id: number) => {
        pings++
        arrive(1 - me, () => arrive(me, () => sides[me]!.pong(id)))
      },
      dead: () => t.fail('somebody was given up')
    }
    return new Heartbeat(clock, { pingIntervalMs: 5_000, deadAfterMs: 10_000 }, heart, random)
  })
  for (const side of sides) side.ping()

  clock.tick(600_000)

  t.ok(pings > 120 && pings < 160, `${pings} pings in 600 s; two that ask together make 240`)
  for (const side of sides) {
    t.equal(side.roundTripMs, 40)
    side.stop()
  }
})

t.test('a stopped heartbeat leaves no timer; stopping twice is fine', async t => {
  const { clock, state, heartbeat } = patient()
  t.equal(clock.pending, 1, 'one timer at a time')

  heartbeat.stop()
  heartbeat.stop()
  clock.tick(60_000)

  t.equal(clock.pending, 0)
  t.same(state.pings, [])
})

t.test('silentMs is the time since the last sign of life', async t => {
  const { clock, state, heartbeat } = patient()

  clock.tick(3_000)
  t.equal(heartbeat.silentMs, 3_000)
  state.bytes++
  t.equal(heartbeat.silentMs, 0)
  heartbeat.stop()
})

t.test('a dead bound below the ping interval is kept all the same', async t => {
  const { clock, state } = patient({ pingIntervalMs: 5_000, deadAfterMs: 2_000 })

  clock.tick(2_000)

  t.equal(state.deadMs, 2_000)
})
