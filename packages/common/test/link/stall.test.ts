import t from 'tap'
import { Link, type LinkOptions, type ResumeCounts } from '../../src/link/link.js'
import { encodeNumber, linkType } from '../../src/link/link-message.js'
import { StallWatch } from '../../src/link/stall.js'
import { FakeCarrier } from '../support/fake-carrier.js'
import { FakeClock } from '../support/fake-clock.js'

const FRESH: ResumeCounts = { peerReceived: 0, peerSendsFrom: 0, peerReplayLimitBytes: 32 << 20 }
/** No heartbeat in between: what it decides is shown elsewhere. */
const LIMITS = { ackTimeoutMs: 30_000, pingIntervalMs: 10_000_000, deadAfterMs: 20_000_000 }

const ack = (count: number): Buffer => encodeNumber(linkType.ACK, count)

function linkUp(options: LinkOptions = {}) {
  const clock = new FakeClock()
  const link = new Link({ clock, limits: LIMITS, ...options })
  const ends: string[] = []
  link.on('close', error => ends.push(`${error.code} ${error.detail ?? ''}`))
  const carrier = new FakeCarrier()
  link.attach(carrier, FRESH)
  return { clock, link, carrier, ends }
}

t.test('a link whose messages nobody acknowledges ends after the time, and cannot be resumed', async t => {
  const { clock, link, carrier, ends } = linkUp()
  link.send(Buffer.alloc(10))

  clock.tick(29_999)
  t.equal(link.state, 'up')
  clock.tick(1)

  t.same(ends, ['OVERLOADED link.ackTimeout: nothing acknowledged for 30000 ms'])
  t.match(carrier.ended, { by: 'close', error: { code: 'OVERLOADED' } })
  t.equal(link.replayBytes, 0)
  t.equal(link.resumePoint(0), undefined)
  t.equal(clock.pending, 0)
})

t.test('a link that is slow and moves goes on: one message in almost the time is enough', async t => {
  const { clock, link, carrier, ends } = linkUp()
  for (let count = 0; count < 100; count++) link.send(Buffer.alloc(10))

  for (let count = 1; count <= 100; count++) {
    clock.tick(29_999)
    carrier.receive(ack(count))
  }

  t.same(ends, [])
  clock.tick(10_000_000 - 1)
  t.equal(link.state, 'up', 'who owes nothing may be silent')
})

t.test('an acknowledgement that repeats what is known is none', async t => {
  const { clock, link, carrier, ends } = linkUp()
  link.send(Buffer.alloc(10))
  link.send(Buffer.alloc(10))
  carrier.receive(ack(1))

  clock.tick(20_000)
  carrier.receive(ack(1))
  clock.tick(9_999)
  t.same(ends, [])
  clock.tick(1)

  t.equal(ends.length, 1)
})

t.test('the time begins with the message that waits, not with what was long acknowledged', async t => {
  const { clock, link, carrier, ends } = linkUp()
  link.send(Buffer.alloc(10))
  carrier.receive(ack(1))
  clock.tick(25_000)

  link.send(Buffer.alloc(10))

  clock.tick(29_999)
  t.same(ends, [])
  clock.tick(1)
  t.equal(ends.length, 1)
})

t.test(
  'time in which the link is down does not count, and a new connection is no acknowledgement',
  async t => {
    const { clock, link, carrier, ends } = linkUp()
    link.send(Buffer.alloc(10))
    clock.tick(20_000)
    carrier.lose()
    clock.tick(50_000)

    link.attach(new FakeCarrier(), FRESH)
    clock.tick(9_999)
    t.equal(link.state, 'up')
    clock.tick(1)

    t.equal(ends.length, 1)
  }
)

t.test('a resume that says what has arrived counts as an acknowledgement', async t => {
  const { clock, link, carrier, ends } = linkUp()
  link.send(Buffer.alloc(10))
  link.send(Buffer.alloc(10))
  clock.tick(20_000)
  carrier.lose()

  link.attach(new FakeCarrier(), { ...FRESH, peerReceived: 1 })

  clock.tick(29_999)
  t.same(ends, [])
  clock.tick(1)
  t.equal(ends.length, 1)
})

t.test('a link that moves one message in each connection goes on, however often it breaks', async t => {
  const { clock, link, carrier, ends } = linkUp()
  const carriers = [carrier]
  for (let count = 0; count < 100; count++) link.send(Buffer.alloc(10))

  for (let count = 1; count < 100; count++) {
    clock.tick(29_999)
    carriers.at(-1)?.lose()
    carriers.push(new FakeCarrier())
    link.attach(carriers.at(-1) as FakeCarrier, { ...FRESH, peerReceived: count })
  }

  t.same(ends, [])
})

t.test('ten thousand acknowledged messages need one timer', async t => {
  const clock = new FakeClock()
  let timers = 0
  const counting = {
    now: () => clock.now(),
    after: (ms: number, callback: () => void) => {
      timers++
      return clock.after(ms, callback)
    }
  }
  const watch = new StallWatch(counting, 30_000, () => t.fail('it moves'))

  for (let count = 0; count < 10_000; count++) {
    watch.waiting()
    watch.moved({ waiting: false })
  }

  t.equal(timers, 1)
  watch.pause()
  watch.pause()
  t.equal(clock.pending, 0)
})

t.test('a process that stood still itself waits anew: it could hear no acknowledgement', async t => {
  const { clock, link, carrier, ends } = linkUp()
  link.send(Buffer.alloc(10))

  clock.jump(40_000)
  t.equal(link.state, 'up')
  carrier.receive(ack(1))
  link.send(Buffer.alloc(10))
  clock.jump(40_000)
  clock.tick(29_999)
  t.same(ends, [])
  clock.tick(1)
  t.same(ends, ['OVERLOADED link.ackTimeout: nothing acknowledged for 30000 ms'])
})
