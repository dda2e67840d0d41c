import t from 'tap'
import { type ErrorCode, TunnelError, errors } from '../../src/errors.js'
import { FairBudget } from '../../src/fair-budget.js'
import { Link, type LinkOptions, type ResumeCounts } from '../../src/link/link.js'
import { decodeNumber, encodeAnnouncement, encodeNumber, linkType } from '../../src/link/link-message.js'
import { FakeCarrier } from '../support/fake-carrier.js'
import { FakeClock } from '../support/fake-clock.js'

const FRESH: ResumeCounts = { peerReceived: 0, peerSendsFrom: 0, peerReplayLimitBytes: 32 << 20 }

/** A link that notes what it says, up over a first carrier unless told otherwise. */
function linkUp(options: LinkOptions & { up?: boolean } = {}) {
  const clock = new FakeClock()
  const link = new Link({ clock, ...options })
  const events: string[] = []
  const got: string[] = []
  link.on('message', message => got.push(message.toString()))
  link.on('drain', () => events.push('drain'))
  link.on('up', ({ first, replayedBytes, downMs }) =>
    events.push(first ? 'up' : `up again after ${downMs} ms, ${replayedBytes} bytes`)
  )
  link.on('down', error => events.push(`down ${error.code}`))
  link.on('close', error => events.push(`close ${error.code}`))
  link.on('announcement', text => events.push(`announcement ${text}`))
  const carrier = new FakeCarrier()
  if (options.up !== false) link.attach(carrier, FRESH)
  return { clock, link, carrier, events, got }
}

function attach(link: Link, counts: Partial<ResumeCounts> = {}): FakeCarrier {
  const carrier = new FakeCarrier()
  link.attach(carrier, { ...FRESH, peerSendsFrom: link.received, ...counts })
  return carrier
}

const text = (words: string): Buffer => Buffer.from(words)
const ack = (count: number): Buffer => encodeNumber(linkType.ACK, count)
const acksOf = (carrier: FakeCarrier): number[] => carrier.linkMessages(linkType.ACK).map(decodeNumber)

t.test('what is sent before there is a carrier goes out over the first one', async t => {
  const { link, events } = linkUp({ up: false })
  t.equal(link.state, 'down')
  t.notOk(link.send(text('a')), 'the sender is to wait')
  link.send(text('b'))

  const carrier = attach(link)

  t.same(carrier.said, ['a', 'b'])
  t.same(events, ['up', 'drain'])
  t.equal(link.state, 'up')
})

t.test('a link that never had a carrier is not given up', async t => {
  const { link, clock } = linkUp({ up: false })

  clock.tick(3_600_000)

  t.equal(link.state, 'down')
  t.equal(link.silentMs, 3_600_000)
  t.equal(clock.pending, 0)
})

t.test('after a loss the next carrier brings what the peer has not received, and only that', async t => {
  const { link, carrier, clock, events } = linkUp()
  for (const words of ['one', 'two', 'three']) link.send(text(words))
  carrier.receive(ack(1))
  carrier.lose()
  t.equal(link.state, 'down')
  link.send(text('four'))
  clock.tick(700)

  const next = attach(link, { peerReceived: 2 })
  link.send(text('five'))

  t.same(next.said, ['three', 'four', 'five'])
  t.same(carrier.said, ['one', 'two', 'three'])
  t.same(events, ['up', 'down LINK_LOST', 'up again after 700 ms, 9 bytes', 'drain'])
})

t.test('messages known already are skipped once, then counting goes on', async t => {
  const { link, carrier, got } = linkUp()
  for (const words of ['a', 'b', 'c']) carrier.receive(text(words))
  carrier.lose()

  const next = attach(link, { peerSendsFrom: 1 })
  for (const words of ['b', 'c', 'd']) next.receive(text(words))

  t.same(got, ['a', 'b', 'c', 'd'])
  t.equal(link.received, 4)
})

t.test('a peer that does not know how much arrived is told at once, whether or not more comes', async t => {
  // It may be at its replay limit, and then nothing more comes that an acknowledgement could ride on.
  const { link, carrier } = linkUp()
  for (const words of ['a', 'b', 'c']) carrier.receive(text(words))
  carrier.lose()

  const next = attach(link, { peerSendsFrom: 1 })

  t.same(acksOf(next), [3])
})

t.test('counts that cannot be are refused and change nothing', async t => {
  const { link, carrier, got } = linkUp()
  link.send(text('a'))
  link.send(text('b'))
  carrier.receive(ack(1))
  carrier.receive(text('x'))

  const bad: Partial<ResumeCounts>[] = [
    { peerReceived: 0, peerSendsFrom: 1 },
    { peerReceived: 3, peerSendsFrom: 1 },
    { peerReceived: 1, peerSendsFrom: 2 }
  ]
  for (const counts of bad) {
    t.throws(() => link.attach(new FakeCarrier(), { ...FRESH, ...counts }), { code: 'RESUME_REFUSED' })
  }

  t.equal(link.state, 'up')
  link.send(text('c'))
  carrier.receive(text('y'))
  t.same(carrier.said, ['a', 'b', 'c'])
  t.same(got, ['x', 'y'])
})

t.test('the point of resume lies between what was acknowledged and what was sent', async t => {
  const { link, carrier } = linkUp()
  for (const words of ['a', 'b', 'c']) link.send(text(words))
  carrier.receive(ack(2))

  t.equal(link.resumePoint(0), 2, 'it has acknowledged more over the old carrier')
  t.equal(link.resumePoint(2), 2)
  t.equal(link.resumePoint(3), 3)
  t.equal(link.resumePoint(4), undefined)
  link.close('CLOSED')
  t.equal(link.resumePoint(3), undefined)
})

t.test('the newest carrier wins, and nothing of the older one is heard', async t => {
  const { link, carrier, got, events, clock } = linkUp()
  link.send(text('a'))

  const next = attach(link, { peerReceived: 1 })

  t.same(carrier.ended, { by: 'close', error: new TunnelError('SUPERSEDED') })
  carrier.receive(text('late'))
  carrier.receive(ack(1))
  carrier.drain()
  carrier.lose()
  t.same(got, [])
  t.same(events, ['up', 'up again after 0 ms, 0 bytes'])
  t.equal(link.state, 'up')
  link.send(text('b'))
  t.same(next.said, ['b'])
  t.equal(clock.pending, 2, 'one heartbeat, and one watch over what is not acknowledged')
})

t.test('a thousand carriers leave no listener on the link and one timer', async t => {
  const { link, clock } = linkUp()
  const before = link.eventNames().map(name => link.listenerCount(name))

  let last = attach(link)
  for (let round = 0; round < 1_000; round++) {
    if (round % 2) last.lose()
    last.receive(text('late'))
    last = attach(link)
  }

  t.same(
    link.eventNames().map(name => link.listenerCount(name)),
    before
  )
  t.equal(clock.pending, 1)
  link.close('CLOSED')
  t.equal(clock.pending, 0)
})

t.test('messages are acknowledged after a quarter of the peer’s limit, or after 250 ms', async t => {
  const { link, clock } = linkUp({ up: false })
  const carrier = attach(link, { peerReplayLimitBytes: 400_000 })

  carrier.receive(Buffer.alloc(99_999))
  t.same(acksOf(carrier), [])
  carrier.receive(Buffer.alloc(1))
  t.same(acksOf(carrier), [2])
  carrier.receive(Buffer.alloc(1))
  clock.tick(249)
  t.same(acksOf(carrier), [2])
  clock.tick(1)
  t.same(acksOf(carrier), [2, 3])
  clock.tick(1_000)
  t.same(acksOf(carrier), [2, 3], 'nothing came, nothing is said')
})

for (const peerReplayLimitBytes of [0, 1, 64 << 10]) {
  t.test(`a peer that keeps ${peerReplayLimitBytes} bytes draws no answer for every message`, async t => {
    const { link, clock } = linkUp({ up: false })
    const carrier = attach(link, { peerReplayLimitBytes })

    for (let count = 0; count < (16 << 10) - 1; count++) carrier.receive(Buffer.alloc(1))
    t.same(acksOf(carrier), [])
    carrier.receive(Buffer.alloc(1))
    t.same(acksOf(carrier), [16 << 10])
    carrier.receive(Buffer.alloc(1))
    clock.tick(250)
    t.same(acksOf(carrier), [16 << 10, (16 << 10) + 1], 'its sender waits 250 ms at most')
  })
}

t.test('however large the peer’s limit, 256 KiB are acknowledged', async t => {
  const { link } = linkUp({ up: false })
  const carrier = attach(link, { peerReplayLimitBytes: 2 ** 32 - 1 })

  carrier.receive(Buffer.alloc((256 << 10) - 1))
  t.same(acksOf(carrier), [])
  carrier.receive(Buffer.alloc(1))
  t.same(acksOf(carrier), [2])
})

t.test('at the replay limit the sender waits until acknowledgements make room', async t => {
  const { link, carrier, events } = linkUp({ limits: { replayLimitBytes: 10, replayMinBytes: 1 } })

  t.ok(link.send(Buffer.alloc(9)))
  t.notOk(link.send(Buffer.alloc(1)))
  carrier.receive(ack(0))
  t.same(events, ['up'])
  carrier.receive(ack(1))

  t.same(events, ['up', 'drain'])
  t.equal(link.replayBytes, 1)
})

t.test('32 KiB and more are acknowledged after 25 ms: the peer may be waiting', async t => {
  const { carrier, clock } = linkUp()

  carrier.receive(Buffer.alloc((32 << 10) - 1))
  clock.tick(26)
  t.same(acksOf(carrier), [], 'below')
  carrier.receive(Buffer.alloc(1))
  clock.tick(24)
  t.same(acksOf(carrier), [])
  clock.tick(1)
  t.same(acksOf(carrier), [2])
  carrier.receive(Buffer.alloc(1))
  clock.tick(249)
  t.same(acksOf(carrier), [2])
  clock.tick(1)
  t.same(acksOf(carrier), [2, 3])
})

t.test('a link that is down takes one message and then has its sender wait, until it is up', async t => {
  const { link, carrier, events } = linkUp()
  carrier.lose()

  t.notOk(link.send(text('a')))
  t.equal(link.replayBytes, 1)
  const next = attach(link)

  t.same(next.said, ['a'])
  t.equal(events.at(-1), 'drain')
})

t.test('what is sent again waits for the carrier, and what is new waits for that', async t => {
  const { link, carrier, events } = linkUp()
  for (const words of ['a', 'b', 'c']) link.send(text(words))
  carrier.lose()
  link.send(text('d'))
  const next = new FakeCarrier()
  const sentAtOnce: string[] = []
  // Full after every message.
  next.full = true

  link.attach(next, FRESH)
  for (let round = 0; round < 6; round++) {
    sentAtOnce.push(next.said.join(''))
    next.emit('drain')
  }

  t.same(sentAtOnce, ['', 'a', 'ab', 'abc', 'abcd', 'abcd'])
  t.equal(events.filter(event => event === 'drain').length, 1, 'the sender goes on once all of it is sent')
})

t.test(
  'what the peer acknowledges before it was sent again is sent all the same: the peer counts it',
  async t => {
    const { link, carrier } = linkUp()
    for (const words of ['a', 'b', 'c']) link.send(text(words))
    carrier.lose()
    const next = new FakeCarrier()
    next.full = true
    link.attach(next, FRESH)

    // It listened to the old carrier while it asked, and skips the first two that arrive.
    next.receive(ack(2))
    t.equal(link.replayBytes, 3)
    next.drain()

    t.same(next.said, ['a', 'b', 'c'])
    t.equal(link.replayBytes, 1)
    next.receive(ack(3))
    t.equal(link.replayBytes, 0)
  }
)

t.test('closed, a link says first what it was given', async t => {
  const { link, carrier } = linkUp()
  link.send(text('a'))
  carrier.lose()
  const next = new FakeCarrier()
  next.full = true
  link.attach(next, FRESH)
  t.same(next.said, [])

  link.close('CLOSED')

  t.same(next.said, ['a'], 'it may be the last END of a stream')
  t.match(next.ended, { by: 'close', error: { code: 'CLOSED' } })
})

t.test('no more is on its way than the window, which is 256 KiB before anything is measured', async t => {
  const { link, carrier, events } = linkUp()
  let count = 1
  while (link.send(Buffer.alloc(128 << 10))) count++

  t.equal(count, 2)
  t.equal(link.replayBytes, 256 << 10)
  carrier.receive(ack(1))
  t.equal(events.at(-1), 'drain')
})

t.test('a full carrier holds the sender up, and so does its successor', async t => {
  const { link, carrier, events } = linkUp()
  carrier.full = true
  t.notOk(link.send(text('a')))
  carrier.receive(ack(1))
  t.same(events, ['up'], 'an acknowledgement does not empty the carrier')
  carrier.drain()
  t.same(events, ['up', 'drain'])

  link.send(text('b'))
  carrier.lose()
  const next = new FakeCarrier()
  next.full = true
  link.attach(next, { ...FRESH, peerReceived: 1 })
  t.notOk(link.send(text('c')))
  t.same(next.said, [])
  next.drain()
  t.same(next.said, ['b', 'c'])
  t.equal(events.at(-1), 'drain')
})

t.test('a carrier lost while it was full does not hold up the next', async t => {
  const { link, carrier, events } = linkUp()
  carrier.full = true
  link.send(text('a'))
  carrier.lose()

  attach(link, { peerReceived: 1 })

  t.same(events.slice(-2), ['up again after 0 ms, 0 bytes', 'drain'])
})

t.test('when the window is over the link ends with RESUME_EXPIRED and gives its memory back', async t => {
  const budget = new FairBudget(1_000)
  const { link, carrier, clock, events } = linkUp({
    budget: budget.share(),
    limits: { resumeWindowMs: 1_000 }
  })
  link.send(text('lost'))
  carrier.lose()

  clock.tick(999)
  t.equal(link.state, 'down')
  clock.tick(1)

  t.equal(link.state, 'closed')
  t.equal(events.at(-1), 'close RESUME_EXPIRED')
  t.equal(budget.usedBytes, 0)
  t.equal(clock.pending, 0)
  t.throws(() => attach(link), { code: 'RESUME_REFUSED' })
  t.ok(link.send(text('dropped')))
  t.equal(budget.usedBytes, 0)
})

t.test('a resume in time stops the window; the next loss opens a new one', async t => {
  const { link, carrier, clock } = linkUp({ limits: { resumeWindowMs: 1_000 } })
  carrier.lose()
  clock.tick(999)
  const next = attach(link)
  // The heartbeat of a silent carrier must not decide this one.
  clock.tick(5_000)
  t.equal(link.state, 'up')

  next.lose()
  clock.tick(999)
  t.equal(link.state, 'down')
  clock.tick(1)
  t.equal(link.state, 'closed')
})

t.test('a window of nothing ends the link in the next turn, not a carrier later', async t => {
  const { link, carrier, clock } = linkUp({ limits: { resumeWindowMs: 0 } })

  carrier.lose()
  clock.tick(0)

  t.equal(link.state, 'closed')
})

t.test('every code but LINK_LOST and SUPERSEDED ends the link', async t => {
  for (const code of Object.keys(errors) as ErrorCode[]) {
    const { link, carrier, clock } = linkUp()

    carrier.lose(code)

    const lost = code === 'LINK_LOST' || code === 'SUPERSEDED'
    t.equal(link.state, lost ? 'down' : 'closed', code)
    if (!lost) t.equal(clock.pending, 0)
  }
})

t.test('close reaches the carrier with its code, terminate without a word; both once', async t => {
  const closed = linkUp()
  closed.link.close('DRAINING', 'bye')
  closed.link.close('CLOSED')
  closed.link.terminate(new TunnelError('CLOSED'))
  t.match(closed.carrier.ended, { by: 'close', error: { code: 'DRAINING', detail: 'bye' } })
  t.same(closed.events, ['up', 'close DRAINING'])
  t.equal(closed.clock.pending, 0)

  const terminated = linkUp()
  terminated.link.terminate(new TunnelError('INTERNAL'))
  t.match(terminated.carrier.ended, { by: 'terminate', error: { code: 'INTERNAL' } })
  t.same(terminated.events, ['up', 'close INTERNAL'])
  t.equal(terminated.clock.pending, 0)
})

t.test('a link closed while it is down says so to nobody but its session', async t => {
  const { link, carrier, events, clock } = linkUp()
  carrier.lose()

  link.close('CLOSED')

  t.same(events, ['up', 'down LINK_LOST', 'close CLOSED'])
  t.equal(clock.pending, 0)
})

t.test('nothing heard for ten seconds: the carrier is given up, the link waits', async t => {
  const { link, carrier, clock, events } = linkUp()

  clock.tick(9_999)
  t.equal(link.state, 'up')
  clock.tick(1)

  t.match(carrier.ended, {
    by: 'terminate',
    error: { code: 'LINK_LOST', detail: 'nothing heard for 10000 ms' }
  })
  t.same(events, ['up', 'down LINK_LOST'])
})

t.test('silence is counted from the last message, not from when somebody looked', async t => {
  const { link, carrier, clock } = linkUp()

  clock.tick(100)
  carrier.receive(text('the last one'))
  clock.tick(9_999)
  t.equal(link.state, 'up')
  clock.tick(1)

  t.equal(link.state, 'down')
})

t.test('a new carrier is asked for a sign of life at once: that measures the round trip', async t => {
  const { link, carrier, clock } = linkUp()
  const [ping] = carrier.linkMessages(linkType.PING)
  t.ok(ping)

  clock.tick(42)
  carrier.receive(encodeNumber(linkType.PONG, decodeNumber(ping as Buffer)))

  t.equal(link.roundTripMs, 42)
})

t.test('a ping is answered with its number', async t => {
  const { carrier } = linkUp()

  carrier.receive(encodeNumber(linkType.PING, 77))

  t.same(carrier.linkMessages(linkType.PONG).map(decodeNumber), [77])
})

t.test('probe asks at once; drop gives the carrier up; both do nothing while down', async t => {
  const { link, carrier, events } = linkUp()
  link.probe()
  t.equal(carrier.linkMessages(linkType.PING).length, 2)

  link.drop(new TunnelError('LINK_LOST', 'enough'))
  link.drop(new TunnelError('LINK_LOST', 'enough'))
  link.probe()

  t.match(carrier.ended, { by: 'terminate' })
  t.same(events, ['up', 'down LINK_LOST'])
})

t.test('the last announcement is told on every carrier, before anything else', async t => {
  const { link } = linkUp({ up: false })
  link.announce('early')
  link.send(text('a'))
  const first = attach(link)
  t.same(first.sent[0], encodeAnnouncement('early'))
  t.same(first.said, ['a'])
  link.announce('later')
  t.same(first.linkMessages(linkType.ANNOUNCEMENT), [
    encodeAnnouncement('early'),
    encodeAnnouncement('later')
  ])
  first.lose()
  link.announce('latest')

  const second = attach(link)

  t.same(second.linkMessages(linkType.ANNOUNCEMENT), [encodeAnnouncement('latest')])
  t.equal(link.received, 0)
})

t.test(
  'a black hole in the middle of a message is noticed as one between two: after the last byte',
  async t => {
    const { link, carrier, clock } = linkUp({ limits: { pingIntervalMs: 5_000, deadAfterMs: 10_000 } })

    clock.tick(4_500)
    carrier.receivePart(700)
    clock.tick(9_999)
    t.equal(carrier.ended, undefined)
    t.equal(link.silentMs, 9_999)
    clock.tick(1)

    t.match(carrier.ended, { by: 'terminate', error: { code: 'LINK_LOST' } })
    t.equal(link.state, 'down')
  }
)

t.test('a link that the session has paused pauses the carrier it has, and the next one', async t => {
  const { link, carrier, got } = linkUp()
  link.pause()
  carrier.receive(text('a'))
  t.same(got, [])
  t.equal(link.received, 0)
  carrier.lose()

  const next = attach(link)
  next.receive(text('a'))
  t.same(got, [])
  link.resume()
  link.resume()

  t.same(got, ['a'])
  t.equal(link.received, 1)
  next.receive(text('b'))
  t.same(got, ['a', 'b'])
})

t.test('who asks and does not read makes nothing wait but the newest answer of each kind', async t => {
  const { link, carrier, events } = linkUp()
  const before = carrier.sent.length
  carrier.full = true
  link.announce('first')
  const full = carrier.sent.length

  for (let number = 1; number <= 1_000; number++) carrier.receive(encodeNumber(linkType.PING, number))
  for (let count = 0; count < 100; count++) carrier.receive(Buffer.alloc(2 << 20))
  for (let count = 0; count < 100; count++) link.announce(`announcement ${count}`)
  for (let count = 0; count < 100; count++) link.probe()

  t.equal(full, before + 1)
  t.equal(carrier.sent.length, full, 'nothing goes to a carrier that is full')
  carrier.drain()
  t.same(carrier.linkMessages(linkType.PONG).map(decodeNumber), [1_000])
  t.same(acksOf(carrier), [100])
  t.equal(String(carrier.linkMessages(linkType.ANNOUNCEMENT).at(-1)?.subarray(1)), 'announcement 99')
  t.equal(carrier.sent.length, full + 4, 'PONG, ACK, ANNOUNCEMENT and PING once each')
  t.same(events, ['up'], 'nobody above was waiting')
})

t.test('a drain that only one answer fits into leaves the others to the next', async t => {
  const { carrier } = linkUp()
  carrier.full = true
  carrier.receive(encodeNumber(linkType.PING, 1))
  carrier.receive(encodeNumber(linkType.PING, 2))
  carrier.receive(Buffer.alloc(2 << 20))

  carrier.emit('drain')
  t.same(carrier.linkMessages(linkType.PONG).map(decodeNumber), [1, 2])
  t.same(acksOf(carrier), [])
  carrier.drain()

  t.same(acksOf(carrier), [1])
})

t.test('answers that wait are not for the next carrier', async t => {
  const { link, carrier } = linkUp()
  carrier.full = true
  carrier.receive(encodeNumber(linkType.PING, 1))
  carrier.receive(encodeNumber(linkType.PING, 2))
  carrier.lose()

  const next = attach(link)
  next.drain()

  t.same(next.linkMessages(linkType.PONG), [])
})

t.test('of many announcements the first is heard at once and the last a moment later', async t => {
  const { carrier, events, clock } = linkUp()

  for (let count = 0; count < 1_000; count++) carrier.receive(encodeAnnouncement(`n${count}`))
  t.same(events, ['up', 'announcement n0'])
  clock.tick(250)
  t.same(events, ['up', 'announcement n0', 'announcement n999'])
  clock.tick(1_000)
  carrier.receive(encodeAnnouncement('later'))

  t.same(events, ['up', 'announcement n0', 'announcement n999', 'announcement later'])
})

t.test('an announcement held back that its listener refuses ends the link, not the process', async t => {
  const { link, carrier, clock } = linkUp()
  link.on('announcement', text => {
    if (text === 'bad') throw new TunnelError('PROTOCOL_ERROR', 'an announcement is JSON')
  })

  carrier.receive(encodeAnnouncement('good'))
  carrier.receive(encodeAnnouncement('bad'))
  clock.tick(250)

  t.match(carrier.ended, {
    by: 'close',
    error: { code: 'PROTOCOL_ERROR', detail: 'an announcement is JSON' }
  })
  t.equal(clock.pending, 0)
})

t.test('announcements are heard and not counted', async t => {
  const { link, carrier, events } = linkUp()

  carrier.receive(encodeAnnouncement('{"members":[]}'))

  t.equal(events.at(-1), 'announcement {"members":[]}')
  t.equal(link.received, 0)
})

t.test('what breaks a rule of the link ends it and says which', async t => {
  const broken: [Buffer, RegExp][] = [
    [Buffer.from([linkType.HELLO]), /comes once, first/],
    [Buffer.from([linkType.WELCOME]), /comes once, first/],
    [Buffer.from([linkType.REFUSE]), /comes once, first/],
    [Buffer.from([linkType.ACK]), /9 bytes/],
    [ack(1), /1 messages acknowledged, 0 to 0 fit/]
  ]
  for (const [message, detail] of broken) {
    const { link, carrier } = linkUp()
    carrier.receive(message)
    t.equal(link.state, 'closed')
    t.match(carrier.ended, { by: 'close', error: { code: 'PROTOCOL_ERROR', detail } })
  }
})

t.test('a listener of announcements that throws ends the link, not the process', async t => {
  const { link, carrier } = linkUp()
  link.on('announcement', () => {
    throw new TunnelError('PROTOCOL_ERROR', 'an announcement is JSON')
  })

  carrier.receive(encodeAnnouncement('{'))

  t.match(carrier.ended, {
    by: 'close',
    error: { code: 'PROTOCOL_ERROR', detail: 'an announcement is JSON' }
  })
})

t.test('link messages of a later version are ignored', async t => {
  const { link, carrier } = linkUp()

  for (let type = linkType.ANNOUNCEMENT + 1; type <= 0xff; type++) carrier.receive(Buffer.from([type, 1, 2]))

  t.equal(link.state, 'up')
  t.equal(link.received, 0)
})

t.test('bytes received are those of all carriers together', async t => {
  const { link, carrier } = linkUp()
  carrier.receive(text('abc'))
  carrier.lose()
  t.equal(link.bytesReceived, 3)

  const next = attach(link)
  next.receive(text('de'))

  t.equal(link.bytesReceived, 5)
})

t.test('an acknowledgement due when the carrier is lost is part of the resume, not said twice', async t => {
  const { link, carrier, clock } = linkUp()
  carrier.receive(text('a'))
  carrier.lose()
  clock.tick(250)

  const next = attach(link)
  clock.tick(250)

  t.same(acksOf(next), [])
  t.equal(link.received, 1)
})
