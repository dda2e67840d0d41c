/** What a peer may not do, one rule per test: what ends a stream, what ends the session, what is ignored. */
import t from 'tap'
import { Session } from '../../src/mux/session.js'
import { memoryCarriers } from '../support/memory-carrier.js'
import { naiveFrame, naiveHello, naiveOpen, naiveOrigin } from '../support/naive-codec.js'
import { FakeClock } from '../support/fake-clock.js'
import {
  POD,
  RawPeer,
  closeOf,
  readAll,
  sessionAndPeer,
  sessionPair,
  turns,
  until
} from '../support/sessions.js'
import { dialContext } from '../support/dial-context.js'

const [OPEN, OPENED, REFUSED, DATA, END, RESET, CREDIT, PING, PONG, GOAWAY] = [
  2, 3, 4, 5, 6, 7, 8, 9, 10, 11
] as const

/** Frames said to a session that answers (A) or dials (D), and the sentence it closes with. */
const broken: [what: string, side: 'A' | 'D', frames: Buffer[], rule: RegExp][] = [
  ['HELLO twice', 'A', [naiveHello()], /HELLO comes once/],
  [
    'HELLO on a stream',
    'A',
    [naiveFrame(1, 5, naiveHello().subarray(8))],
    /HELLO belongs to stream 0, not 5/
  ],
  ['OPEN to the side that dials', 'D', [naiveOpen(1)], /OPEN from the side that opens nothing/],
  ['a stream id reused', 'A', [naiveOpen(1), naiveOpen(1)], /stream 1 opened twice or out of order/],
  ['stream ids out of order', 'A', [naiveOpen(7), naiveOpen(3)], /stream 3 opened twice or out of order/],
  ['OPEN on stream 0', 'A', [naiveOpen(0)], /stream 0 opened twice or out of order/],
  [
    'OPENED not asked for',
    'D',
    [naiveFrame(OPENED, 1, '0x00000400')],
    /OPENED for stream 1, which was not asked for/
  ],
  ['OPENED to the side that answers', 'A', [naiveFrame(OPENED, 1, '0x00000400')], /not asked for/],
  [
    'REFUSED not asked for',
    'D',
    [naiveFrame(REFUSED, 9, '0x0011')],
    /REFUSED for stream 9, which was not asked for/
  ],
  ['DATA never opened', 'A', [naiveFrame(DATA, 4, 'x')], /DATA for stream 4, never opened/],
  ['DATA on stream 0', 'A', [naiveFrame(DATA, 0, 'x')], /DATA for stream 0, never opened/],
  ['END never opened', 'A', [naiveFrame(END, 4)], /END for stream 4, never opened/],
  ['CREDIT never opened', 'D', [naiveFrame(CREDIT, 4, '0x00000001')], /CREDIT for stream 4, never opened/],
  ['RESET never opened', 'D', [naiveFrame(RESET, 4, '0x0000')], /RESET for stream 4, never opened/],
  ['PING on a stream', 'A', [naiveFrame(PING, 1, '0x0000000000000000')], /PING belongs to stream 0, not 1/],
  ['PONG on a stream', 'A', [naiveFrame(PONG, 1, '0x0000000000000000')], /PONG belongs to stream 0, not 1/],
  ['GOAWAY on a stream', 'A', [naiveFrame(GOAWAY, 1, '0x0000')], /GOAWAY belongs to stream 0, not 1/],
  [
    'a type of our own minor version that is not known',
    'A',
    [naiveFrame(0x0c, 0)],
    /frame type 12 is not known/
  ],
  ['a link type', 'A', [naiveFrame(0x81, 0, '0x00')], /frame type 129 is not known/],
  [
    'a short CREDIT',
    'A',
    [naiveOpen(1), naiveFrame(CREDIT, 1, '0x0001')],
    /CREDIT has at least 4 payload bytes, not 2/
  ],
  [
    'a short RESET',
    'A',
    [naiveOpen(1), naiveFrame(RESET, 1, '0x00')],
    /RESET has at least 2 payload bytes, not 1/
  ],
  ['a short PING', 'A', [naiveFrame(PING, 0, '0x00')], /PING has at least 8 payload bytes, not 1/],
  ['half a header', 'A', [Buffer.from([5, 0, 0])], /a frame header has 8 bytes \(byte 0\)/],
  [
    'a frame that ends outside',
    'A',
    [naiveFrame(PING, 0, '0x0000000000000000').subarray(0, 12)],
    /ends inside its message \(byte 0\)/
  ],
  [
    'an oversized frame',
    'A',
    [naiveOpen(1), naiveFrame(DATA, 1, Buffer.alloc(65537))],
    /at most 65536 bytes, not 65537/
  ]
]

for (const [what, side, frames, rule] of broken) {
  t.test(`${what} closes the session and names the rule`, async t => {
    const { session, peer } = sessionAndPeer(t, { answers: side === 'A' })
    const closed = new Promise<Error>(resolve => session.once('close', resolve))
    await peer.expect('HELLO')

    peer.say(...frames)
    const received = await peer.closed()

    t.equal(received.code, 'PROTOCOL_ERROR')
    t.match(received.detail, rule)
    t.match(await closed, { code: 'PROTOCOL_ERROR', detail: rule })
    t.equal(session.state, 'closed')
    t.equal(session.streamCount, 0)
    t.equal(session.promisedBytes, 0)
  })
}

t.test('an empty message closes the session', async t => {
  const { peer } = sessionAndPeer(t, { answers: true })

  peer.carrier.send(Buffer.alloc(0))

  t.match(await peer.closed(), { code: 'PROTOCOL_ERROR', detail: /at least one frame \(byte 0\)/ })
})

t.test('a frame before HELLO closes the session', async t => {
  const { peer } = sessionAndPeer(t, { answers: true, hello: false })

  peer.say(naiveOpen(1))

  t.match(await peer.closed(), { code: 'PROTOCOL_ERROR', detail: /the first frame is HELLO/ })
})

t.test('another major version closes the session, whatever else its HELLO says', async t => {
  for (const hello of [
    naiveHello({ major: 2 }),
    naiveHello({ major: 0 }),
    naiveHello({ major: 2, frameLimit: 1 }),
    naiveFrame(1, 0, '0x544e444c 0200')
  ]) {
    const { peer } = sessionAndPeer(t, { answers: true, hello: false })

    peer.say(hello)

    t.match(await peer.closed(), { code: 'VERSION_MISMATCH', detail: /this side speaks 1, the peer [02]/ })
  }
})

t.test('a HELLO that is none closes the session', async t => {
  for (const [hello, rule] of [
    [naiveFrame(1, 0, Buffer.alloc(20)), /HELLO starts with TNDL/],
    [naiveHello({ frameLimit: 1023 }), /1024 bytes at least/],
    [naiveFrame(1, 0, '0x544e444c 0100'), /HELLO has at least 20 payload bytes, not 6/],
    [naiveFrame(1, 0, '0x54'), /HELLO has at least 6 payload bytes, not 1/]
  ] as const) {
    const { peer } = sessionAndPeer(t, { answers: true, hello: false })

    peer.say(hello)

    t.match(await peer.closed(), { code: 'PROTOCOL_ERROR', detail: rule })
  }
})

t.test('no HELLO in time closes the session, one in time does not', async t => {
  const clock = new FakeClock()
  const late = sessionAndPeer(t, { clock, hello: false, limits: { helloTimeoutMs: 500 } })
  const good = sessionAndPeer(t, { clock, limits: { helloTimeoutMs: 500 } })
  await good.peer.expect('HELLO')
  await until(() => good.session.state === 'open')

  clock.tick(499)
  t.equal(late.session.state, 'greeting')
  clock.tick(1)

  t.match(await late.peer.closed(), { code: 'PROTOCOL_ERROR', detail: /no HELLO within 500 ms/ })
  t.equal(good.session.state, 'open')
  good.session.close()
  t.equal(clock.pending, 0, 'no timer is left')
})

t.test('unknown frames of a newer minor version are ignored', async t => {
  const { session, peer } = sessionAndPeer(t, { answers: true, hello: false })

  peer.say(
    naiveHello({ minor: 2, features: 0xffff_ffff }),
    naiveFrame(0x0c, 0, 'new'),
    naiveFrame(0x7f, 99, 'newer')
  )
  await peer.settled()

  t.equal(session.state, 'open')
})

t.test('longer payloads of a newer minor version are read as far as they are known', async t => {
  const { session, peer, accepted } = sessionAndPeer(t, { answers: true, hello: false })
  const longer = (frame: Buffer): Buffer =>
    naiveFrame(frame[0]!, frame.readUInt32BE(4), Buffer.concat([frame.subarray(8), Buffer.from('more')]))

  peer.say(
    longer(naiveHello({ minor: 2 })),
    longer(naiveOpen(1, { origin: naiveOrigin() })),
    longer(naiveFrame(CREDIT, 1, '0x00000001'))
  )
  await peer.expect('OPENED')
  peer.say(longer(naiveFrame(PING, 0, '0x0102030405060708')))

  t.equal((await peer.expect('PONG')).opaque, '0102030405060708')
  t.equal(session.state, 'open')
  t.equal(accepted.length, 1)
})

t.test('a malformed OPEN is refused as a bad target and harms nobody else', async t => {
  const { session, peer, accepted } = sessionAndPeer(t, { answers: true })
  const bad: [Buffer, RegExp][] = [
    [naiveFrame(2, 2, ''), /too short/],
    [naiveFrame(2, 3, Buffer.alloc(11)), /too short/],
    [naiveOpen(4, { host: '' }), /host is empty/],
    [naiveOpen(5, { proto: 0 }), /protocol number 0 is not known/],
    [naiveOpen(6, { proto: 4 }), /protocol number 4 is not known/],
    [naiveFrame(2, 7, naiveOpen(7).subarray(8, -1)), /host is cut off/],
    [naiveOpen(8, { host: 'a\r\nb' }), /host has a character/],
    [naiveOpen(9, { host: 'a\0b' }), /host has a character/],
    [naiveOpen(10, { host: 'bücher' }), /host has a character/],
    [naiveFrame(2, 11, naiveOpen(11, { cluster: 'demo' }).subarray(8, -1)), /cluster is cut off/],
    [naiveOpen(12, { cluster: 'de mo' }), /cluster has a character/]
  ]

  peer.say(naiveOpen(1), ...bad.map(([frame]) => frame), naiveOpen(20))
  for (const [, why] of bad) {
    const refused = await peer.expectKeeping('REFUSED')
    t.equal(refused.code, 2)
    t.match(refused.text, why)
  }
  await peer.expect('OPENED')
  await peer.expect('OPENED')

  t.equal(session.state, 'open')
  t.equal(accepted.length, 2)
})

t.test('what breaks a rule of one stream resets that stream only', async t => {
  const { session, peer, accepted } = sessionAndPeer(t, {
    answers: true,
    limits: { windowInitialBytes: 1024, windowMinBytes: 1024 }
  })
  const bad: [what: string, frames: (id: number) => Buffer[], code: number, text: RegExp][] = [
    ['DATA after END', id => [naiveFrame(END, id), naiveFrame(DATA, id, 'x')], 48, /DATA after END/],
    ['END twice', id => [naiveFrame(END, id), naiveFrame(END, id)], 48, /END twice/],
    ['empty DATA', id => [naiveFrame(DATA, id)], 48, /DATA carries one byte at least/],
    ['credit of zero', id => [naiveFrame(CREDIT, id, '0x00000000')], 50, /one byte at least/],
    ['credit beyond the limit', id => [naiveFrame(CREDIT, id, '0x7fffffff')], 50, /credit beyond 2147483647/],
    [
      'DATA beyond credit',
      id => [naiveFrame(DATA, id, Buffer.alloc(1025))],
      50,
      /1025 bytes sent with 1024 of credit/
    ],
    ['OPENED from the side that asked', id => [naiveFrame(OPENED, id, '0x00000001')], 48, /OPENED/]
  ]
  peer.say(naiveOpen(1))
  await peer.expect('OPENED')
  let id = 1

  for (const [what, frames, code, text] of bad.slice(0, -1)) {
    id++
    peer.say(naiveOpen(id), ...frames(id))
    const reset = await peer.expect('RESET')
    t.match(reset, { stream: id, code, text }, what)
    t.match(
      await closeOf(accepted.at(-1)!),
      { code: code === 48 ? 'PROTOCOL_ERROR' : 'FLOW_CONTROL_ERROR' },
      what
    )
    t.equal(session.streamCount, 1, what)
  }
  peer.say(naiveFrame(DATA, 1, 'alive'), naiveFrame(END, 1))

  t.equal((await readAll(accepted[0]!)).toString(), 'alive')
})

t.test('credit at the limit is taken, one byte more resets the stream', async t => {
  const { peer, accepted } = sessionAndPeer(t, { answers: true })

  peer.say(naiveOpen(1, { credit: 0x7fff_fffe }), naiveFrame(CREDIT, 1, '0x00000001'))
  await peer.settled()
  t.notOk(accepted[0]!.destroyed)
  peer.say(naiveFrame(CREDIT, 1, '0x00000001'))

  t.match(await peer.expect('RESET'), { stream: 1, code: 50 })
})

t.test('first credit beyond the limit ends only its own dial', async t => {
  const answering = sessionAndPeer(t, { answers: true })
  answering.peer.say(naiveOpen(1, { credit: 0x8000_0000 }), naiveOpen(2, { credit: 0x7fff_ffff }))
  t.match(await answering.peer.expect('REFUSED'), { stream: 1, code: 50 })
  t.match(await answering.peer.expect('OPENED'), { stream: 2 })

  const dialling = sessionAndPeer(t)
  const dial = dialling.session.dial(POD, dialContext())
  await dialling.peer.expect('OPEN')
  dialling.peer.say(naiveFrame(OPENED, 1, '0x80000000'))
  await t.rejects(dial, { code: 'FLOW_CONTROL_ERROR' })
  t.match(await dialling.peer.expect('RESET'), { stream: 1, code: 50 })
  t.equal(dialling.session.state, 'open')
  t.equal(dialling.session.promisedBytes, 0)
})

t.test('frames for streams that have ended are ignored', async t => {
  const { session, peer, accepted } = sessionAndPeer(t, { answers: true })
  peer.say(naiveOpen(1), naiveFrame(RESET, 1, '0x0017'))
  await until(() => accepted[0]?.closed === true)

  peer.say(
    naiveFrame(DATA, 1, 'late'),
    naiveFrame(END, 1),
    naiveFrame(CREDIT, 1, '0x00000001'),
    naiveFrame(RESET, 1, '0x0000')
  )
  await peer.settled()

  t.equal(session.state, 'open')
  t.notOk(peer.frames.some(frame => frame.type === 'RESET'))
})

t.test('OPENED and REFUSED that come after the caller left are ignored', async t => {
  const { session, peer } = sessionAndPeer(t)
  const leave = new AbortController()
  const dials = [1, 2].map(() => session.dial(POD, dialContext({ signal: leave.signal })))
  await peer.expect('OPEN')
  await peer.expect('OPEN')

  leave.abort()
  for (const dial of dials) await t.rejects(dial, { code: 'DIAL_CANCELLED' })
  peer.say(
    naiveFrame(OPENED, 1, '0x00000400'),
    naiveFrame(REFUSED, 3, '0x0011'),
    naiveFrame(DATA, 1, 'hello')
  )
  await peer.settled()

  t.equal(session.state, 'open')
  t.equal(session.streamCount, 0)
  t.equal(session.promisedBytes, 0)
  t.match(
    peer.frames.filter(frame => frame.type === 'RESET'),
    [
      { stream: 1, code: 22 },
      { stream: 3, code: 22 }
    ]
  )
})

t.test('OPENED twice resets the stream', async t => {
  const { session, peer } = sessionAndPeer(t)
  const dial = session.dial(POD, dialContext())
  await peer.expect('OPEN')

  peer.say(naiveFrame(OPENED, 1, '0x00000400'), naiveFrame(OPENED, 1, '0x00000400'))

  t.match(await closeOf(await dial), { code: 'PROTOCOL_ERROR', detail: /OPENED/ })
  t.match(await peer.expect('RESET'), { stream: 1, code: 48 })
  t.equal(session.state, 'open')
})

t.test('DATA, CREDIT and END before OPENED end the dial, in both roles', async t => {
  for (const frame of [naiveFrame(DATA, 1, 'x'), naiveFrame(CREDIT, 1, '0x00000001'), naiveFrame(END, 1)]) {
    const dialling = sessionAndPeer(t)
    const dial = dialling.session.dial(POD, dialContext())
    await dialling.peer.expect('OPEN')
    dialling.peer.say(frame)
    await t.rejects(dial, { code: 'PROTOCOL_ERROR', detail: /before OPENED/ })
    t.match(await dialling.peer.expect('RESET'), { stream: 1, code: 48 })
    t.equal(dialling.session.state, 'open')
    t.equal(dialling.session.promisedBytes, 0)

    let signal: AbortSignal | undefined
    const answering = sessionAndPeer(t, {
      answers: true,
      onOpen: incoming => {
        signal = incoming.signal
        signal.addEventListener('abort', () => incoming.refuse(signal?.reason))
      }
    })
    answering.peer.say(naiveOpen(1), frame)
    t.match(await answering.peer.expect('REFUSED'), { stream: 1, code: 48, text: /before OPENED/ })
    t.equal(answering.session.state, 'open')
    t.equal(answering.session.streamCount, 0)
  }
})

t.test('RESET instead of an answer ends the dial with its code', async t => {
  const { session, peer } = sessionAndPeer(t)
  const dial = session.dial(POD, dialContext())
  await peer.expect('OPEN')

  peer.say(naiveFrame(RESET, 1, Buffer.concat([Buffer.from([0, 20]), Buffer.from('gone')])))

  await t.rejects(dial, { code: 'TARGET_RESET', detail: 'gone' })
  t.equal(session.streamCount, 0)
})

t.test('a stream opened and reset in one message harms nobody who is not listening yet', async t => {
  const { session, peer } = sessionAndPeer(t)
  const dial = session.dial(POD, dialContext())
  await peer.expect('OPEN')

  peer.say(naiveFrame(OPENED, 1, '0x00000400'), naiveFrame(RESET, 1, '0x0014'))
  const stream = await dial

  t.match(await closeOf(stream), { code: 'TARGET_RESET' })
})

t.test('an unknown reset code reads as an internal error', async t => {
  const { session, peer } = sessionAndPeer(t)
  const dial = session.dial(POD, dialContext())
  await peer.expect('OPEN')

  peer.say(naiveFrame(REFUSED, 1, '0xffff'))

  await t.rejects(dial, { code: 'INTERNAL' })
})

t.test('of 100 000 PINGs the newest is answered, those before it at most once and in order', async t => {
  const { session, peer } = sessionAndPeer(t, { answers: true })
  await peer.expect('HELLO')
  const total = 100_000

  for (let sent = 0; sent < total; sent += 1_000) {
    const pings = Array.from({ length: 1_000 }, (_, at) => {
      const frame = naiveFrame(PING, 0, Buffer.alloc(8))
      frame.writeUInt32BE(sent + at, 8)
      return frame
    })
    peer.say(...pings)
  }
  const pongs: number[] = []
  await until(() => {
    for (const frame of peer.frames.splice(0)) {
      if (frame.type === 'PONG') pongs.push(parseInt((frame.opaque as string).slice(0, 8), 16))
    }
    return pongs.at(-1) === total - 1
  })

  t.ok(pongs.every((number, at) => at === 0 || number > (pongs[at - 1] as number)))
  t.equal(session.state, 'open')
})

t.test('a peer that asks and does not read has one PONG waiting, whatever it asks', async t => {
  const { session, peer, carrier } = sessionAndPeer(t, {
    answers: true,
    highWaterBytes: 1,
    limits: { controlLimitBytes: 64 }
  })
  await peer.expect('PING')
  carrier.hold()
  peer.say(naiveFrame(PING, 0, '0x0000000000000001'))
  await turns()

  for (let count = 2; count <= 1_000; count++) {
    peer.say(naiveFrame(PING, 0, `0x${count.toString(16).padStart(16, '0')}`))
  }
  await turns(200)
  t.equal(session.state, 'open')
  carrier.release()
  await peer.expect('PONG')

  t.equal((await peer.expect('PONG')).opaque, (1_000).toString(16).padStart(16, '0'))
  await turns()
  t.equal(peer.frames.length, 0)
})

/** What an OPEN of no bytes is answered with: REFUSED, which nothing can take the place of. */
const REFUSED_BYTES = 8 + 2 + 'OPEN is too short'.length

for (const more of [-1, 0, 1]) {
  t.test(`answers at the limit ${more < 0 ? '' : '+'}${more} for a peer that does not read`, async t => {
    const { session, peer, carrier } = sessionAndPeer(t, {
      answers: true,
      highWaterBytes: 1,
      limits: { controlLimitBytes: 100 * REFUSED_BYTES }
    })
    await peer.expect('PING')
    carrier.hold()
    peer.say(naiveFrame(PING, 0, '0x0102030405060708'))
    await turns()

    for (let id = 1; id <= 100 + more; id++) peer.say(naiveFrame(OPEN, id, Buffer.alloc(0)))
    await turns(60)

    t.equal(session.state, more > 0 ? 'closed' : 'open')
    carrier.release()
    if (more > 0) {
      t.match(await peer.closed(), { code: 'OVERLOADED', detail: /does not read the answers/ })
    } else {
      for (let id = 1; id <= 100 + more; id++) t.equal((await peer.expect('REFUSED')).stream, id)
    }
  })
}

t.test('answers for a peer that reads slowly are bounded whatever it asks', async t => {
  const { session, peer, carrier } = sessionAndPeer(t, { answers: true })
  await peer.expect('HELLO')
  carrier.hold()
  let id = 0

  for (let count = 0; count < 400 && session.state !== 'closed'; count++) {
    peer.say(Buffer.concat(Array.from({ length: 1_000 }, () => naiveFrame(OPEN, ++id, Buffer.alloc(0)))))
    await turns(1)
  }
  await until(() => session.state === 'closed')

  t.ok(carrier.peakBytes <= (256 << 10) + (256 << 10), `${carrier.peakBytes} bytes handed to the carrier`)
})

t.test('after the end nothing is listened to any more', async t => {
  const [near, far] = memoryCarriers()
  const session = new Session(near)
  const peer = new RawPeer(far)
  peer.say(naiveHello())
  await until(() => session.state === 'open')

  session.close()
  session.close('INTERNAL', 'twice')

  t.match(await peer.closed(), { code: 'CLOSED' })
  for (const event of ['message', 'drain', 'close'] as const) t.equal(near.listenerCount(event), 0, event)
})

t.test('a listener that throws ends the session with a reason, not the process', async t => {
  const { session, peer } = sessionAndPeer(t, {
    answers: true,
    onOpen: () => {
      throw new Error('no idea')
    }
  })

  peer.say(naiveOpen(1))

  t.match(await peer.closed(), { code: 'INTERNAL' })
  t.equal(session.streamCount, 0)
})

t.test('stream ids used up: the session drains, and says so to both sides', async t => {
  const { near, far, stream } = sessionPair(t, { nearLimits: { streamIdLimit: 6 } })
  const goaway = new Promise<Error>(resolve => far.once('goaway', resolve))
  const kept = []

  for (let count = 0; count < 3; count++) kept.push(await stream())

  await t.rejects(near.dial(POD, dialContext()), { code: 'DRAINING' })
  t.equal(near.state, 'draining')
  t.match(await goaway, { code: 'DRAINING', detail: 'stream ids are used up' })
  kept[2]!.caller.end('still carried')
  t.equal((await readAll(kept[2]!.target)).toString(), 'still carried')
})

t.test('the largest stream id is a stream like any other, and the last', async t => {
  const { peer, session } = sessionAndPeer(t, { answers: true })

  peer.say(naiveOpen(0xffff_ffff), naiveFrame(DATA, 0xffff_ffff, 'x'))
  t.match(await peer.expect('OPENED'), { stream: 0xffff_ffff })
  t.equal(session.state, 'open')
  peer.say(naiveOpen(0xffff_ffff))

  t.match(await peer.closed(), { code: 'PROTOCOL_ERROR' })
})

for (const [asked, taken] of [
  [599_999, 599_999],
  [600_000, 600_000],
  [600_001, 600_000],
  [0xffff_ffff, 600_000]
] as const) {
  t.test(`an OPEN that may take ${asked} ms may take ${taken}`, async t => {
    const { peer, incoming } = sessionAndPeer(t, { answers: true })
    const open = naiveOpen(1)
    open.writeUInt32BE(asked, 12)

    peer.say(open)
    await until(() => incoming.length === 1)

    t.equal(incoming[0]?.timeoutMs, taken)
  })
}
