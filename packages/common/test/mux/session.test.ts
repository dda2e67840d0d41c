/** The life of a session: greeting, dials and how they end, draining, closing, and the carrier lost at any time. */
import { once } from 'node:events'
import t from 'tap'
import { TunnelError } from '../../src/errors.js'
import { type IncomingDial, Session } from '../../src/mux/session.js'
import { FakeClock } from '../support/fake-clock.js'
import { memoryCarriers } from '../support/memory-carrier.js'
import { naiveHello } from '../support/naive-codec.js'
import {
  POD,
  closeOf,
  never,
  readAll,
  sessionAndPeer,
  sessionPair,
  turns,
  until
} from '../support/sessions.js'
import { dialContext } from '../support/dial-context.js'

/** A far side that notes who asks and answers when the test says so. */
function slowFar(): { asked: IncomingDial[]; onOpen: (incoming: IncomingDial) => void } {
  const asked: IncomingDial[] = []
  return { asked, onOpen: incoming => void asked.push(incoming) }
}

t.test('a dial carries its target, time and credit, and opens a stream', async t => {
  const { asked, onOpen } = slowFar()
  const { near } = sessionPair(t, { onOpen })

  const dial = near.dial(
    { proto: 'udp', host: '2001:db8::5', port: 53 },
    dialContext({ signal: never(), timeoutMs: 1234.5 })
  )
  await until(() => asked.length === 1)
  const far = asked[0]!.accept()
  far.end('hello')

  t.same(asked[0]!.target, { proto: 'udp', host: '2001:db8::5', port: 53 })
  t.equal(asked[0]!.timeoutMs, 1235)
  t.equal((await readAll(await dial)).toString(), 'hello')
})

t.test('a dial made before the greeting waits for it', async t => {
  const { session, peer } = sessionAndPeer(t, { hello: false })
  void session.dial(POD, dialContext()).catch(() => {})
  t.equal((await peer.expect('HELLO')).streamLimit, 0, 'this side opens nothing for the peer')
  await turns()
  t.notOk(peer.frames.some(frame => frame.type === 'OPEN'))
  t.equal(session.state, 'greeting')

  peer.say(naiveHello())

  t.match(await peer.expect('OPEN'), { stream: 1, host: 'pod', port: 80, proto: 'tcp', timeoutMs: 4000 })
  t.equal(session.state, 'open')
})

t.test('while the greeting is awaited a dial can time out, be cancelled, or lose the link', async t => {
  const clock = new FakeClock()
  const { session, carrier } = sessionAndPeer(t, { hello: false, clock })
  const leave = new AbortController()
  const cancelled = session.dial(POD, dialContext({ signal: leave.signal }))
  const timed = session.dial(POD, dialContext({ signal: never(), timeoutMs: 50 }))
  const lost = session.dial(POD, dialContext())

  leave.abort()
  await t.rejects(cancelled, { code: 'DIAL_CANCELLED' })
  clock.tick(50)
  await t.rejects(timed, { code: 'DIAL_TIMEOUT', detail: 'no answer within 50 ms' })
  carrier.cut()
  await t.rejects(lost, { code: 'LINK_LOST' })

  t.equal(clock.pending, 0)
  t.equal(session.streamCount, 0)
})

t.test('a refusal arrives with its code and text, cut at a character', async t => {
  const text = 'ü'.repeat(400)
  const { near } = sessionPair(t, {
    onOpen: incoming => incoming.refuse(new TunnelError('TARGET_DENIED', text))
  })

  await t.rejects(near.dial(POD, dialContext()), { code: 'TARGET_DENIED', detail: 'ü'.repeat(256) })
  t.equal(near.streamCount, 0)
  t.equal(near.promisedBytes, 0)
})

t.test('a target that no OPEN has room for is refused here, and the session goes on', async t => {
  const pair = sessionPair(t)
  for (const target of [
    { ...POD, host: 'h'.repeat(256) },
    { ...POD, host: '' },
    { ...POD, host: 'bücher' },
    { ...POD, host: 'a b' },
    { ...POD, port: 65536 },
    { ...POD, port: -1 },
    { ...POD, port: 1.5 },
    { ...POD, port: NaN }
  ]) {
    await t.rejects(pair.near.dial(target, dialContext()), { code: 'BAD_TARGET' }, JSON.stringify(target))
  }
  t.equal(pair.near.streamCount, 0)
  t.equal(pair.near.promisedBytes, 0)

  const longest = pair.near.dial({ ...POD, host: 'h'.repeat(255) }, dialContext())

  t.ok(await longest)
  t.equal(pair.near.state, 'open')
})

t.test('a slow dial holds up nobody', async t => {
  const slow: IncomingDial[] = []
  const { near } = sessionPair(t, {
    onOpen: incoming => {
      if (incoming.target.port === 1) slow.push(incoming)
      else incoming.accept().end('quick')
    }
  })
  void near.dial({ ...POD, port: 1 }, dialContext()).catch(() => {})
  await until(() => slow.length === 1)

  const quick = await Promise.all(Array.from({ length: 50 }, () => near.dial(POD, dialContext())))
  quick.forEach(stream => stream.end())

  for (const stream of quick) t.equal((await readAll(stream)).toString(), 'quick')
})

t.test('a dial times out at its time, not before, and is cancelled to the far end', async t => {
  const clock = new FakeClock()
  const { asked, onOpen } = slowFar()
  const { near, far } = sessionPair(t, { clock, onOpen })
  let settled = false
  const dial = near.dial(POD, dialContext({ signal: never(), timeoutMs: 100 }))
  dial.catch(() => (settled = true))
  await until(() => asked.length === 1)

  clock.tick(99)
  await turns()
  t.notOk(settled)
  clock.tick(1)

  await t.rejects(dial, { code: 'DIAL_TIMEOUT', detail: 'no answer within 100 ms' })
  await until(() => asked[0]!.signal.aborted)
  t.match(asked[0]!.signal.reason, { code: 'DIAL_TIMEOUT' })
  t.equal(far.streamCount, 0)
  t.equal(near.promisedBytes, 0)
})

t.test(
  'a caller who leaves cancels the dial to the far end; what is accepted later is reset at once',
  async t => {
    const { asked, onOpen } = slowFar()
    const { near, far } = sessionPair(t, { onOpen })
    const leave = new AbortController()
    const dial = near.dial(POD, dialContext({ signal: leave.signal }))
    await until(() => asked.length === 1)

    leave.abort()
    await t.rejects(dial, { code: 'DIAL_CANCELLED' })
    await until(() => asked[0]!.signal.aborted)
    const late = asked[0]!.accept()
    late.write('nobody hears')

    t.match(await closeOf(late), { code: 'DIAL_CANCELLED' })
    t.equal(far.streamCount, 0)
    t.equal(far.promisedBytes, 0)
    t.equal(far.state, 'open')
    t.equal(near.state, 'open')
  }
)

t.test('a caller who has already left dials nobody', async t => {
  const { session, peer } = sessionAndPeer(t)
  await until(() => session.state === 'open')

  await t.rejects(session.dial(POD, dialContext({ signal: AbortSignal.abort() })), { code: 'DIAL_CANCELLED' })
  await peer.settled()

  t.notOk(peer.frames.some(frame => frame.type === 'OPEN'))
})

t.test('after the answer the signal does nothing', async t => {
  const { near } = sessionPair(t)
  const leave = new AbortController()
  const stream = await near.dial(POD, dialContext({ signal: leave.signal }))

  leave.abort()
  await turns()

  t.notOk(stream.destroyed)
})

t.test('accept and refuse count once; what comes after changes nothing', async t => {
  const { asked, onOpen } = slowFar()
  const { near, far } = sessionPair(t, { onOpen })
  const dial = near.dial(POD, dialContext())
  await until(() => asked.length === 1)

  const stream = asked[0]!.accept()
  asked[0]!.refuse(new TunnelError('TARGET_REFUSED'))
  const second = asked[0]!.accept()
  stream.end('one answer')

  t.match(await closeOf(second), { code: 'DIAL_CANCELLED' })
  t.equal((await readAll(await dial)).toString(), 'one answer')
  t.equal(far.streamCount, 1, 'the caller has not ended its half')
})

t.test('at the stream limit of either side dials are OVERLOADED, below it they are not', async t => {
  for (const limits of [{ nearLimits: { streamLimit: 3 } }, { farLimits: { streamLimit: 3 } }]) {
    const pair = sessionPair(t, limits)
    await pair.stream()
    await pair.stream()
    const third = await pair.stream()

    await t.rejects(pair.near.dial(POD, dialContext()), {
      code: 'OVERLOADED',
      detail: '3 streams are open'
    })
    third.caller.destroy()
    await until(() => pair.far.streamCount === 2)

    t.ok(await pair.stream())
  }
})

t.test('two sides that both answer do not join their diallers when they dial at once', async t => {
  // If both numbered their streams alike, each would take the other's OPENED for the answer to its own OPEN.
  const [nearCarrier, farCarrier] = memoryCarriers()
  const near = new Session(nearCarrier, { onOpen: incoming => void incoming.accept().end('said by near') })
  const far = new Session(farCarrier, { onOpen: incoming => void incoming.accept().end('said by far') })
  t.teardown(() => {
    near.close()
    far.close()
  })

  const dials = [near, far].map(session => session.dial(POD, dialContext()))

  await Promise.all(
    dials.map(dial => t.rejects(dial, { code: 'ONE_WAY', detail: 'TWO_WAY is not in force' }))
  )
  t.strictSame([near.streamCount, far.streamCount], [0, 0])
})

t.test('a peer that minds no limit is refused at ours', async t => {
  const { naiveOpen } = await import('../support/naive-codec.js')
  const { session, peer } = sessionAndPeer(t, { answers: true, limits: { streamLimit: 2 } })

  peer.say(naiveOpen(1), naiveOpen(2), naiveOpen(3))

  t.match(await peer.expect('OPENED'), { stream: 1 })
  t.match(await peer.expect('OPENED'), { stream: 2 })
  t.match(await peer.expect('REFUSED'), { stream: 3, code: 35 })
  t.equal(session.streamCount, 2)
})

t.test('drain: what is open goes on, idle comes once all has been said, whichever side leaves', async t => {
  for (const leaver of ['near', 'far'] as const) {
    const pair = sessionPair(t)
    const other = leaver === 'near' ? pair.far : pair.near
    const { caller, target } = await pair.stream()
    const goaway = once(other, 'goaway')
    const idle = once(pair[leaver], 'idle')
    let early = true
    void idle.then(() => t.notOk(early, 'idle only after the stream'))

    pair[leaver].drain('DRAINING', 'going home')
    pair[leaver].drain()
    t.match((await goaway)[0], { code: 'DRAINING', detail: 'going home' })
    t.equal(pair[leaver].state, 'draining')
    t.equal(other.state, 'draining')
    if (leaver === 'far') await t.rejects(pair.near.dial(POD, dialContext()), { code: 'DRAINING' })

    caller.end('question')
    t.equal((await readAll(target)).toString(), 'question')
    early = false
    target.end('answer')
    t.equal((await readAll(caller)).toString(), 'answer')
    await idle
  }
})

t.test('an OPEN that crosses our GOAWAY is refused as DRAINING', async t => {
  const { naiveOpen } = await import('../support/naive-codec.js')
  const { session, peer } = sessionAndPeer(t, { answers: true })
  await until(() => session.state === 'open')

  session.drain()
  peer.say(naiveOpen(1))

  t.match(await peer.expect('REFUSED'), { stream: 1, code: 34 })
})

t.test(
  'drain without streams is idle at once, also after the peer has said goodbye first, also twice',
  async t => {
    const pair = sessionPair(t)
    const received = once(pair.near, 'goaway')
    pair.far.drain()
    await once(pair.far, 'idle')
    await received

    const idle = once(pair.near, 'idle')
    pair.near.drain()
    await idle
    pair.near.drain()
    await once(pair.near, 'idle')

    t.equal(pair.near.state, 'draining')
  }
)

t.test('a side that dials and is leaving may go on dialling meanwhile', async t => {
  const pair = sessionPair(t)
  const goaway = once(pair.far, 'goaway')
  await pair.stream()
  pair.near.drain()
  await goaway

  t.ok(pair.far.peerIsLeaving)
  t.notOk(pair.near.peerIsLeaving)
  t.ok(await pair.stream())

  pair.far.drain()
  await once(pair.near, 'goaway')
  await t.rejects(pair.near.dial(POD, dialContext()), { code: 'DRAINING' })
})

t.test(
  'drain during the greeting: dials still wait for the HELLO, and a peer that is asked hears GOAWAY',
  async t => {
    const { session, peer } = sessionAndPeer(t, { hello: false })
    const before = session.dial(POD, dialContext())

    session.drain()
    const after = session.dial(POD, dialContext())
    for (const dial of [before, after]) dial.catch(() => {})
    peer.say(naiveHello())

    t.match(await peer.expect('GOAWAY'), { code: 34 })
    t.match(await peer.expect('OPEN'), { stream: 1 })
    t.match(await peer.expect('OPEN'), { stream: 3 })
    t.equal(session.state, 'draining')
  }
)

t.test('who closes at idle loses no byte and no END', async t => {
  const pair = sessionPair(t)
  const { caller, target } = await pair.stream()
  caller.end()
  await readAll(target)
  pair.far.once('idle', () => pair.far.close('DRAINING'))
  pair.far.drain()

  target.end(Buffer.alloc(500_000, 7))

  t.equal((await readAll(caller)).length, 500_000)
})

t.test('who closes at idle still lets the last RESET out', async t => {
  const { naiveOpen } = await import('../support/naive-codec.js')
  const { session, peer, accepted } = sessionAndPeer(t, { answers: true })
  peer.say(naiveOpen(1))
  await peer.expect('OPENED')
  session.once('idle', () => session.close())

  accepted[0]!.destroy(new TunnelError('TARGET_RESET', 'by peer'))

  t.match(await peer.expect('RESET'), { stream: 1, code: 20, text: 'by peer' })
  t.match(await peer.closed(), { code: 'CLOSED' })
})

t.test('close resets what is open, on both sides, and both hear the reason', async t => {
  const pair = sessionPair(t)
  const { caller, target } = await pair.stream()
  const far = once(pair.far, 'close')

  pair.near.close('SUPERSEDED', 'a newer one came')
  pair.near.close('INTERNAL')

  t.match((await far)[0], { code: 'SUPERSEDED', detail: 'a newer one came' })
  t.match(await closeOf(caller), { code: 'LINK_LOST', detail: /a newer one came/ })
  t.match(await closeOf(target), { code: 'LINK_LOST', detail: /a newer one came/ })
  await t.rejects(pair.near.dial(POD, dialContext()), { code: 'LINK_LOST', detail: /a newer one came/ })
})

t.test('a carrier lost at any time ends every dial and stream with LINK_LOST and leaves nothing', async t => {
  const clock = new FakeClock()
  const asked: IncomingDial[] = []
  const pair = sessionPair(t, {
    clock,
    onOpen: incoming => {
      if (incoming.target.port === 1) asked.push(incoming)
      else incoming.accept().write('x')
    }
  })
  const closes: TunnelError[] = []
  pair.near.on('close', error => closes.push(error))
  const streams = await Promise.all([1, 2, 3].map(() => pair.near.dial(POD, dialContext())))
  const [flowing, halfClosed, stalled] = streams as [
    (typeof streams)[0],
    (typeof streams)[0],
    (typeof streams)[0]
  ]
  flowing.resume()
  halfClosed.end()
  stalled.write(Buffer.alloc(8 << 20))
  const dialling = pair.near.dial({ ...POD, port: 1 }, dialContext())
  dialling.catch(() => {})
  await until(() => asked.length === 1)
  pair.near.drain()

  pair.nearCarrier.cut()
  for (const stream of streams) stream.resume()

  for (const stream of streams) t.match(await closeOf(stream), { code: 'LINK_LOST' })
  await t.rejects(dialling, { code: 'LINK_LOST' })
  t.ok(asked[0]!.signal.aborted)
  t.match(closes, [{ code: 'LINK_LOST', detail: 'cut' }])
  for (const session of [pair.near, pair.far]) {
    t.equal(session.state, 'closed')
    t.equal(session.streamCount, 0)
    t.equal(session.promisedBytes, 0)
  }
  t.equal(clock.pending, 0)
})

t.test('the round trip is measured at the greeting, and again while data flows', async t => {
  const clock = new FakeClock()
  const { session, peer } = sessionAndPeer(t, {
    clock,
    answers: true,
    limits: { windowInitialBytes: 1024, windowMinBytes: 1024 }
  })
  const { naiveFrame, naiveOpen } = await import('../support/naive-codec.js')
  const pong = async (afterMs: number): Promise<void> => {
    const { opaque } = await peer.expect('PING')
    clock.tick(afterMs)
    peer.say(naiveFrame(10, 0, `0x${opaque as string}`))
    await peer.settled()
  }
  peer.say(naiveFrame(10, 0, '0x0000000000000000'))
  await pong(30)
  t.equal(session.roundTripMs, 30)

  peer.say(naiveFrame(10, 0, '0x0000000000000000'))
  peer.say(naiveFrame(10, 0, '0x0000000000000001'))
  await peer.settled()
  t.equal(session.roundTripMs, 30, 'answers to nothing say nothing')

  clock.tick(1000)
  peer.say(naiveOpen(1), naiveFrame(5, 1, Buffer.alloc(600)))
  await peer.settled()
  t.same(peer.frames.map(frame => frame.type).includes('PING'), false, 'nobody has read')
})

t.test('a carrier that is over before it began', async t => {
  const [carrier] = memoryCarriers()
  const clock = new FakeClock()
  carrier.terminate(new TunnelError('LINK_LOST'))
  const session = new Session(carrier, { clock })
  const dial = session.dial(POD, dialContext())

  clock.tick(10_000)

  await t.rejects(dial)
  t.equal(session.state, 'closed')
})
