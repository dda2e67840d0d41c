/** Sessions in which both sides may open streams (feature TWO_WAY), and what a side does whose peer does not know it. */
import type { Duplex } from 'node:stream'
import t, { type Test } from 'tap'
import { type IncomingDial, Session, type SessionLimits } from '../../src/mux/session.js'
import { feature } from '../../src/wire/frame.js'
import { dialContext } from '../support/dial-context.js'
import { memoryCarriers } from '../support/memory-carrier.js'
import { naiveFrame, naiveHello, naiveOpen } from '../support/naive-codec.js'
import { POD, RawPeer, readAll, turns, until } from '../support/sessions.js'

const [OPENED, REFUSED, DATA, END, CREDIT] = [3, 4, 5, 6, 8] as const
const TWO_WAY_HELLO = naiveHello({ minor: 1, features: feature.TWO_WAY })

type Side = { session: Session; accepted: Duplex[]; incoming: IncomingDial[] }

/** Two sides that both dial and answer. */
function pair(t: Test, limits: Partial<SessionLimits> = {}): [odd: Side, even: Side] {
  const carriers = memoryCarriers()
  const sides = (['odd', 'even'] as const).map((twoWay, at): Side => {
    const accepted: Duplex[] = []
    const incoming: IncomingDial[] = []
    const onOpen = (dial: IncomingDial): void => {
      incoming.push(dial)
      accepted.push(dial.accept())
    }
    return { session: new Session(carriers[at]!, { twoWay, onOpen, limits }), accepted, incoming }
  })
  t.teardown(() => {
    for (const { session } of sides) session.close()
  })
  return sides as [Side, Side]
}

/** One side, and a peer that says what a test wants said. */
function withPeer(
  t: Test,
  twoWay: 'odd' | 'even',
  { limits = {} }: { limits?: Partial<SessionLimits> } = {}
) {
  const [carrier, peerCarrier] = memoryCarriers()
  const incoming: IncomingDial[] = []
  const peer = new RawPeer(peerCarrier)
  const session = new Session(carrier, { twoWay, onOpen: dial => void incoming.push(dial), limits })
  t.teardown(() => session.close())
  return { session, peer, incoming }
}

t.test('both sides dial at once, and each dialler reaches the one who answers', async t => {
  const [odd, even] = pair(t)

  const [fromOdd, fromEven] = await Promise.all(
    [odd, even].map(({ session }) => session.dial(POD, dialContext()))
  )

  t.equal(odd.session.twoWay, true)
  odd.accepted[0]!.end('said by odd')
  even.accepted[0]!.end('said by even')
  fromOdd!.end('asked by odd')
  fromEven!.end('asked by even')
  t.equal((await readAll(fromOdd!)).toString(), 'said by even')
  t.equal((await readAll(fromEven!)).toString(), 'said by odd')
  t.equal((await readAll(odd.accepted[0]!)).toString(), 'asked by even')
  t.equal((await readAll(even.accepted[0]!)).toString(), 'asked by odd')
  await until(() => odd.session.streamCount + even.session.streamCount === 0)
})

t.test('one side uses odd numbers, the other even ones', async t => {
  for (const [twoWay, numbers] of [
    ['odd', [1, 3, 5]],
    ['even', [2, 4, 6]]
  ] as const) {
    const { session, peer } = withPeer(t, twoWay)
    peer.say(TWO_WAY_HELLO)
    t.match(await peer.expect('HELLO'), { major: 1, minor: 1, features: feature.TWO_WAY, streamLimit: 8192 })

    for (const stream of numbers) {
      session.dial(POD, dialContext()).catch(() => {})
      t.match(await peer.expect('OPEN'), { stream })
    }
  }
})

t.test('no even number is used before the peer has named TWO_WAY, and none when it does not', async t => {
  const { session, peer } = withPeer(t, 'even')
  const early = session.dial(POD, dialContext())
  await turns()
  t.equal(
    peer.frames.some(({ type }) => type === 'OPEN'),
    false
  )

  peer.say(naiveHello({ streamLimit: 0 }))

  await t.rejects(early, { code: 'ONE_WAY', detail: 'TWO_WAY is not in force' })
  await t.rejects(session.dial(POD, dialContext()), { code: 'ONE_WAY' })
  t.equal(session.twoWay, false)
  peer.say(naiveOpen(1), naiveOpen(2), naiveOpen(7))
  await peer.settled()
  t.equal(session.streamCount, 3, 'it numbers its streams as version 1.0 does')
})

t.test('the side that opens streams in version 1.0 takes none from a peer without TWO_WAY', async t => {
  const { session, peer } = withPeer(t, 'odd')
  peer.say(naiveHello({ features: 0xffff_fffe }), naiveOpen(2))

  t.match(await peer.closed(), { code: 'PROTOCOL_ERROR', detail: 'OPEN from the side that opens nothing' })
  t.equal(session.state, 'closed')
})

for (const [what, twoWay, frames, rule] of [
  [
    'an OPEN with a number of the receiver',
    'odd',
    [naiveOpen(1)],
    /stream 1 opened by the wrong side, its own are even/
  ],
  ['the same the other way', 'even', [naiveOpen(2)], /stream 2 opened by the wrong side, its own are odd/],
  ['a number used twice', 'odd', [naiveOpen(4), naiveOpen(4)], /stream 4 opened twice or out of order/],
  ['numbers out of order', 'odd', [naiveOpen(4), naiveOpen(2)], /stream 2 opened twice or out of order/],
  [
    'OPENED for a stream of the peer',
    'odd',
    [naiveOpen(2), naiveFrame(OPENED, 2, '0x00000400')],
    /2, which was not asked for/
  ],
  [
    'REFUSED for a stream of the peer',
    'even',
    [naiveOpen(1), naiveFrame(REFUSED, 1, '0x0011')],
    /1, which was not asked for/
  ],
  [
    'DATA for an own number, smaller than those of the peer, never opened',
    'odd',
    [naiveOpen(8), naiveFrame(DATA, 5, 'x')],
    /DATA for stream 5, never opened/
  ],
  [
    'CREDIT for a number of the peer, smaller than own ones, never opened',
    'odd',
    [naiveFrame(CREDIT, 2, '0x00000001')],
    /CREDIT for stream 2, never opened/
  ],
  ['END on stream 0', 'even', [naiveFrame(END, 0)], /END for stream 0, never opened/]
] as const) {
  t.test(`${what} closes the session and names the rule`, async t => {
    const { session, peer } = withPeer(t, twoWay)
    peer.say(TWO_WAY_HELLO)
    await until(() => session.state === 'open')
    for (let count = 0; count < 2; count++) session.dial(POD, dialContext()).catch(() => {})

    peer.say(...frames)

    t.match(await peer.closed(), { code: 'PROTOCOL_ERROR', detail: rule })
    t.equal(session.streamCount, 0)
  })
}

t.test('numbers grow in each direction by itself', async t => {
  const { session, peer, incoming } = withPeer(t, 'odd')
  peer.say(TWO_WAY_HELLO, naiveOpen(1_000))
  await until(() => incoming.length === 1)

  session.dial(POD, dialContext()).catch(() => {})

  t.match(await peer.expect('OPEN'), { stream: 1 })
  peer.say(naiveOpen(1_002))
  await until(() => incoming.length === 2)
})

for (const more of [-1, 0, 1]) {
  t.test(`the stream limit ${more < 0 ? '' : '+'}${more}, in each direction by itself`, async t => {
    const limit = 3
    const [odd, even] = pair(t, { streamLimit: limit })
    const sides = [odd, even]
    const dialAll = (count: number) =>
      Promise.all(
        sides.flatMap(({ session }) => Array.from({ length: count }, () => session.dial(POD, dialContext())))
      )

    const streams = await dialAll(Math.min(limit, limit + more))

    if (more > 0) {
      for (const { session } of sides)
        await t.rejects(session.dial(POD, dialContext()), {
          code: 'OVERLOADED',
          detail: '3 streams are open'
        })
    }
    t.equal(odd.session.streamCount, 2 * Math.min(limit, limit + more))
    for (const stream of streams) stream.destroy()
    await until(() => odd.session.streamCount + even.session.streamCount === 0)
    t.equal((await dialAll(limit)).length, 2 * limit, 'all places are free again')
  })
}

t.test('a peer that minds no limit is refused at ours, whatever this side has open', async t => {
  const { session, peer, incoming } = withPeer(t, 'odd', { limits: { streamLimit: 2 } })
  peer.say(TWO_WAY_HELLO)
  await until(() => session.state === 'open')
  const own = [1, 2].map(() => session.dial(POD, dialContext()))
  for (const dial of own) dial.catch(() => {})

  peer.say(naiveOpen(2), naiveOpen(4), naiveOpen(6))

  t.match(await peer.expect('REFUSED'), { stream: 6, code: 35, text: '2 streams are open' })
  t.equal(incoming.length, 2)
  peer.say(naiveFrame(7, 2, '0x0016'), naiveOpen(8))
  await until(() => incoming.length === 3)
  t.equal(incoming[0]!.signal.aborted, true, 'taken back: its place is free')
})

t.test('who has used up its numbers says so, and the peer goes on with those it has', async t => {
  for (const [twoWay, last] of [
    ['odd', 5],
    ['even', 4]
  ] as const) {
    const { session, peer } = withPeer(t, twoWay, { limits: { streamIdLimit: 5 } })
    peer.say(TWO_WAY_HELLO)
    await until(() => session.state === 'open')

    for (let stream = twoWay === 'odd' ? 1 : 2; stream <= last; stream += 2) {
      session.dial(POD, dialContext()).catch(() => {})
      t.match(await peer.expect('OPEN'), { stream })
    }

    await t.rejects(session.dial(POD, dialContext()), { code: 'DRAINING', detail: 'stream ids are used up' })
    t.match(await peer.expect('GOAWAY'), { code: 34 })
  }
})

t.test('a side that says GOAWAY takes no streams and may still open some', async t => {
  const [odd, even] = pair(t)
  await Promise.all([odd, even].map(({ session }) => session.dial(POD, dialContext())))

  odd.session.drain()
  await until(() => even.session.peerIsLeaving)

  await t.rejects(even.session.dial(POD, dialContext()), { code: 'DRAINING' })
  t.ok(await odd.session.dial(POD, dialContext()))
})

t.test('the end of a session ends the streams of both directions', async t => {
  const [odd, even] = pair(t)
  const streams = await Promise.all([odd, even].map(({ session }) => session.dial(POD, dialContext())))

  even.session.close('CLOSED', 'enough')
  await until(() => streams.every(stream => stream.closed) && odd.session.state === 'closed')

  for (const { session } of [odd, even]) {
    t.equal(session.streamCount, 0)
    t.equal(session.promisedBytes, 0)
  }
})
