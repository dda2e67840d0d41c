/** A stream is a Node Duplex: half-close, order of events, back-pressure, destroy, pipeline and `for await`. */
import { once } from 'node:events'
import { type Duplex, PassThrough, Readable, Writable } from 'node:stream'
import { finished, pipeline } from 'node:stream/promises'
import t, { type Test } from 'tap'
import { TunnelError } from '../../src/errors.js'
import { UNREAD_TIMEOUT_MS } from '../../src/linger.js'
import { allocMessage } from '../../src/message-buffer.js'
import type { Session } from '../../src/mux/session.js'
import type { Stream } from '../../src/mux/stream.js'
import { FakeClock } from '../support/fake-clock.js'
import { naiveFrame, naiveOpen } from '../support/naive-codec.js'
import { closeOf, POD, readAll, sessionAndPeer, sessionPair, turns, until } from '../support/sessions.js'
import { dialContext } from '../support/dial-context.js'

function events(stream: Duplex): string[] {
  const got: string[] = []
  for (const event of ['end', 'finish', 'error', 'close']) stream.on(event, () => void got.push(event))
  return got
}

t.test('half-close either way round: the other direction goes on, and both close in order', async t => {
  for (const first of ['caller', 'target'] as const) {
    const pair = sessionPair(t)
    const ends = await pair.stream()
    const one = ends[first]
    const two = first === 'caller' ? ends.target : ends.caller
    const got = [events(one), events(two)]

    one.end('question')
    t.equal((await readAll(two)).toString(), 'question')
    await turns()
    t.notOk(two.destroyed)
    t.notOk(one.destroyed)
    t.equal(pair.near.streamCount, 1)
    two.end('answer')
    t.equal((await readAll(one)).toString(), 'answer')
    await Promise.all([closeOf(one), closeOf(two)])

    t.same(got, [
      ['finish', 'end', 'close'],
      ['end', 'finish', 'close']
    ])
    t.equal(pair.near.streamCount, 0)
    t.equal(pair.far.streamCount, 0)
    t.equal(pair.near.promisedBytes, 0)
    t.equal(pair.far.promisedBytes, 0)
  }
})

t.test('the memory of a chunk is used again when all of it was sent, and not before', async t => {
  const pair = sessionPair(t, {
    limits: { windowInitialBytes: 40_000, windowMinBytes: 40_000, windowMaxBytes: 40_000 }
  })
  const { caller, target } = await pair.stream()
  const chunk = allocMessage(100_000)
  const { buffer } = chunk
  caller.write(chunk.fill('a'))
  await turns()

  const meanwhile = allocMessage(100_000).fill('b')
  t.not(meanwhile.buffer, buffer, 'a third of it still waits for credit')
  caller.end(meanwhile)

  const got = (await readAll(target)).toString()
  t.ok(got === 'a'.repeat(100_000) + 'b'.repeat(100_000))
  const again = Array.from({ length: 40 }, () => allocMessage(100_000))
  t.ok(again.some(message => message.buffer === buffer))
})

t.test('write, then end: every byte arrives, whatever the size', async t => {
  const pair = sessionPair(t)
  for (const size of [0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 131_072, 131_073, 3_000_001]) {
    const { caller, target } = await pair.stream()
    const bytes = Buffer.alloc(size, 'abcdefg')

    caller.end(bytes)
    target.end()

    t.ok((await readAll(target)).equals(bytes), `${size} bytes`)
    await finished(caller.resume())
  }
  t.equal(pair.far.streamCount, 0)
})

t.test('many small writes, then end: every byte arrives in order', async t => {
  const { caller, target } = await sessionPair(t).stream()
  let said = ''

  for (let count = 0; count < 5_000; count++) {
    caller.write(`${count},`)
    said += `${count},`
  }
  caller.end()

  t.equal((await readAll(target)).toString(), said)
})

t.test('empty writes are nothing: 10 000 of them block nobody', async t => {
  const { caller, target } = await sessionPair(t).stream()

  for (let count = 0; count < 10_000; count++) caller.write('')
  caller.end('x')

  t.equal((await readAll(target)).toString(), 'x')
})

t.test('who is dialled may speak first', async t => {
  const { near } = sessionPair(t, {
    onOpen: incoming => incoming.accept().write('220 ready')
  })

  const stream = await near.dial(POD, dialContext())
  const [chunk] = await once(stream, 'data')

  t.equal(chunk.toString(), '220 ready')
})

t.test('destroy with an error of ours: the other side hears its code and detail', async t => {
  const pair = sessionPair(t)
  for (const one of ['caller', 'target'] as const) {
    const ends = await pair.stream()
    const other = one === 'caller' ? ends.target : ends.caller

    ends[one].destroy(new TunnelError('OVERLOADED', 'too much'))

    t.match(await closeOf(other), { code: 'OVERLOADED', detail: 'too much' })
    t.equal(pair.near.streamCount + pair.far.streamCount, 0)
  }
})

t.test('destroy with a foreign error: the other side hears who broke', async t => {
  const pair = sessionPair(t)
  const first = await pair.stream()
  first.caller.destroy(new Error('ECONNRESET'))
  t.match(await closeOf(first.target), { code: 'CALLER_RESET' })

  const second = await pair.stream()
  second.target.destroy(new Error('ECONNRESET'))
  t.match(await closeOf(second.caller), { code: 'TARGET_RESET' })
})

t.test('destroy without an error: no error here, CLOSED there', async t => {
  const { caller, target } = await sessionPair(t).stream()
  const got = events(caller)

  caller.destroy()
  caller.destroy()

  t.match(await closeOf(target), { code: 'CLOSED' })
  t.same(got, ['close'])
})

t.test('destroy calls back every write that waits, once, with an error', async t => {
  const { caller, target } = await sessionPair(t, {
    limits: { windowInitialBytes: 1024, windowMinBytes: 1024 }
  }).stream()
  const answers: (Error | null | undefined)[] = []
  let ended: Error | null | undefined
  for (let count = 0; count < 5; count++) caller.write(Buffer.alloc(100_000), error => answers.push(error))
  caller.end((error?: Error | null) => (ended = error))
  await turns()
  t.equal(answers.length, 1, 'the first is in our hands')

  target.destroy(new TunnelError('TARGET_RESET'))
  await closeOf(caller)
  await turns()

  t.equal(answers.length, 5)
  t.ok(answers.slice(1).every(error => error instanceof Error))
  t.ok(ended instanceof Error)
})

t.test('a destroyed stream says nothing more', async t => {
  const { peer, accepted } = sessionAndPeer(t, { answers: true })
  peer.say(naiveOpen(1))
  await peer.expect('OPENED')
  accepted[0]!.write('said and not yet sent')

  accepted[0]!.destroy()
  accepted[0]!.write('x', () => {})
  accepted[0]!.end()
  await peer.settled()

  t.same(
    peer.frames.filter(frame => frame.stream === 1).map(frame => frame.type),
    ['RESET']
  )
})

t.test('writes after a RESET that waits for the reader go nowhere', async t => {
  const { peer, session, accepted } = sessionAndPeer(t, { answers: true })
  peer.say(naiveOpen(1), naiveFrame(5, 1, 'whole answer'), naiveFrame(6, 1), naiveFrame(7, 1, '0x0014'))
  await peer.settled()
  const stream = accepted[0]!
  t.equal(session.streamCount, 0)
  t.notOk(stream.destroyed, 'what was said before END is still to be read')

  stream.write('to nobody')
  await peer.settled()
  const got: Buffer[] = []
  stream.on('data', chunk => got.push(chunk))

  t.match(await closeOf(stream), { code: 'TARGET_RESET' })
  t.equal(Buffer.concat(got).toString(), 'whole answer')
  t.notOk(peer.frames.some(frame => frame.type === 'DATA' || frame.type === 'END' || frame.type === 'RESET'))
  t.equal(session.promisedBytes, 0)
})

t.test('a RESET by a caller drops what was not read of him: he wants nothing done', async t => {
  const { peer, accepted } = sessionAndPeer(t, { answers: true })
  peer.say(naiveOpen(1), naiveFrame(5, 1, 'half an an'), naiveFrame(7, 1, '0x0014'))
  await until(() => accepted.length === 1)

  t.match(await closeOf(accepted[0]!), { code: 'TARGET_RESET' })
  t.equal(accepted[0]!.read(), null)
})

/** A stream that we dialled, to a target that has said `words` and then broke. */
async function brokenOff(
  t: Test,
  words: string,
  clock?: FakeClock
): Promise<{ stream: Duplex; session: Session }> {
  const { session, peer } = sessionAndPeer(t, clock && { clock })
  const dial = session.dial(POD, dialContext())
  await peer.expect('OPEN')
  peer.say(naiveFrame(3, 1, '0x00000400'))
  const stream = await dial
  peer.say(naiveFrame(5, 1, words), naiveFrame(7, 1, '0x0014'))
  await peer.settled()
  return { stream, session }
}

t.test('what a target said before its RESET is read first, however it is read', async t => {
  const readers: Record<string, (stream: Duplex, got: (chunk: Buffer) => void) => void> = {
    flowing: (stream, got) => stream.on('data', got),
    paused: (stream, got) => {
      stream.pause().on('data', got)
      void turns(20).then(() => stream.resume())
    },
    'in parts': (stream, got) =>
      stream.on('readable', () => {
        for (let part; (part = stream.read(3) ?? stream.read()) !== null;) got(part)
      })
  }
  for (const [how, read] of Object.entries(readers)) {
    const { stream, session } = await brokenOff(t, 'half an answer')
    t.equal(session.streamCount, 0)
    const got: Buffer[] = []
    stream.on('end', () => t.fail('half an answer looks whole'))

    read(stream, chunk => got.push(chunk))

    t.match(await closeOf(stream), { code: 'TARGET_RESET' })
    t.equal(Buffer.concat(got).toString(), 'half an answer', how)
    t.equal(session.promisedBytes, 0)
  }
})

t.test('a RESET waits for a reader only while he reads', async t => {
  const clock = new FakeClock()
  const { stream, session } = await brokenOff(t, 'half an answer', clock)

  clock.tick(UNREAD_TIMEOUT_MS - 1)
  await turns()
  t.notOk(stream.destroyed)
  clock.tick(1)

  t.match(await closeOf(stream), { code: 'TARGET_RESET' })
  t.equal(session.promisedBytes, 0)
})

t.test('a target that breaks is reset behind all that was written, when there is credit for it', async t => {
  const { peer, accepted, session } = sessionAndPeer(t, { answers: true })
  peer.say(naiveOpen(1, { credit: 0 }))
  await peer.expect('OPENED')
  const stream = accepted[0] as Stream
  const words = Buffer.alloc(300_000, 'abc')
  for (let at = 0; at < words.length; at += 60_000) stream.write(words.subarray(at, at + 60_000))

  stream.resetBehind(new TunnelError('TARGET_RESET', 'gone'))
  await peer.settled()
  t.notOk(peer.frames.some(frame => frame.type === 'RESET' || frame.type === 'DATA'))
  peer.say(naiveFrame(8, 1, Buffer.from([0, 4, 0x93, 0xe0])))
  await peer.settled()
  t.match(await peer.expectKeeping('RESET'), { code: 20, text: 'gone' })

  const got = peer.frames.map(frame => frame.data as string).join('')
  t.equal(got, words.toString('hex'), 'all, and no END')
  t.match(await closeOf(stream), { code: 'TARGET_RESET' })
  t.equal(session.streamCount, 0)
})

t.test('a reset behind what was written waits for credit only while there is some', async t => {
  const clock = new FakeClock()
  const { peer, accepted, session } = sessionAndPeer(t, { answers: true, clock })
  peer.say(naiveOpen(1, { credit: 10 }))
  await peer.expect('OPENED')
  const stream = accepted[0] as Stream
  stream.write('more than the credit allows')

  stream.resetBehind()
  clock.tick(UNREAD_TIMEOUT_MS / 2)
  await peer.expect('DATA')
  clock.tick(UNREAD_TIMEOUT_MS / 2)
  await peer.settled()
  t.notOk(stream.destroyed, 'the credit was used meanwhile')
  clock.tick(UNREAD_TIMEOUT_MS)

  t.match(await peer.expect('RESET'), { code: 0 })
  t.equal(session.streamCount, 0)
})

t.test('a caller who breaks off resets at once, in front of what he has written', async t => {
  const { session, peer } = sessionAndPeer(t)
  const dial = session.dial(POD, dialContext())
  await peer.expect('OPEN')
  peer.say(naiveFrame(3, 1, '0x00000400'))
  const stream = await dial
  stream.write('a question')

  stream.destroy(new TunnelError('CALLER_RESET'))

  await peer.settled()
  t.same(
    peer.frames.filter(frame => frame.stream === 1).map(frame => frame.type),
    ['RESET']
  )
})

t.test('a link lost after END still lets the reader finish', async t => {
  const pair = sessionPair(t)
  const { caller, target } = await pair.stream()
  target.end(Buffer.alloc(300_000, 3))
  await until(() => pair.far.bytes.sent === 300_000 && pair.near.bytes.received === 300_000)
  await turns()

  pair.nearCarrier.cut()
  const got: Buffer[] = []
  caller.on('data', chunk => got.push(chunk))

  t.match(await closeOf(caller), { code: 'LINK_LOST' })
  t.equal(Buffer.concat(got).length, 300_000)
})

t.test('what a write callback does to other streams harms no message', async t => {
  const pair = sessionPair(t, { highWaterBytes: 1 })
  const streams = []
  for (let count = 0; count < 5; count++) streams.push(await pair.stream())
  const [a, b, c, d, e] = streams.map(({ caller }) => caller) as [Duplex, Duplex, Duplex, Duplex, Duplex]
  const big = (): Buffer => Buffer.alloc(300_000, 1)
  const got = streams.map(({ target }) => readAll(target).catch((error: unknown) => error))

  a.write(big(), () => {
    b.destroy()
    c.end()
    d.end('and more')
    a.end()
    e.destroy(new TunnelError('CALLER_RESET', 'enough'))
    pair.near.drain()
  })
  b.write(big())
  c.write('last words')
  d.write('first ')
  e.write(big())
  const [atA, atB, atC, atD, atE] = await Promise.all(got)

  t.equal((atA as Buffer).length, 300_000)
  t.match(atB, { code: 'CLOSED' })
  t.equal(String(atC), 'last words')
  t.equal(String(atD), 'first and more')
  t.match(atE, { code: 'CALLER_RESET', detail: 'enough' })
  t.equal(pair.near.state, 'draining')
  t.equal(pair.far.state, 'draining')
})

t.test(
  'a paused reader stops its writer after one window; other streams flow, in both directions',
  async t => {
    const window = 64 << 10
    const limits = { windowInitialBytes: window, windowMinBytes: window, windowMaxBytes: window }
    for (const writer of ['caller', 'target'] as const) {
      const pair = sessionPair(t, { limits })
      const stalled = await pair.stream()
      const before = writer === 'caller' ? pair.far : pair.near
      let written = 0
      const write = (): void => {
        while (stalled[writer].write(Buffer.alloc(10_000))) written += 10_000
      }
      stalled[writer].on('drain', write)
      write()
      await turns(50)

      t.equal(before.bytes.received, window, 'exactly one window has crossed')
      t.ok(written < window + 300_000, `${written} bytes taken from the writer`)

      const other = await pair.stream()
      other[writer].end(Buffer.alloc(1_000_000, 1))
      t.equal((await readAll(other[writer === 'caller' ? 'target' : 'caller'])).length, 1_000_000)
      t.equal(before.bytes.received, window + 1_000_000)
    }
  }
)

t.test('a direction that stands still does not stop the other one of the same stream', async t => {
  const limits = { windowInitialBytes: 65_536, windowMinBytes: 65_536 }
  for (const stalledEnd of ['caller', 'target'] as const) {
    const pair = sessionPair(t, { limits })
    const ends = await pair.stream()
    const quiet = ends[stalledEnd]
    const other = ends[stalledEnd === 'caller' ? 'target' : 'caller']
    other.write(Buffer.alloc(4 << 20))
    await turns(50)
    let got = 0
    other.on('data', (chunk: Buffer) => (got += chunk.length))

    Readable.from(chunks(8 << 20)).pipe(quiet, { end: false })
    await until(() => got === 8 << 20)

    t.equal(got, 8 << 20)
  }
})

function* chunks(total: number): Generator<Buffer> {
  for (let at = 0; at < total; at += 50_000) yield Buffer.alloc(Math.min(50_000, total - at), at / 50_000)
}

t.test('a reader that wakes up gets all that was written, in order', async t => {
  const limits = { windowInitialBytes: 65_536, windowMinBytes: 65_536 }
  const { caller, target } = await sessionPair(t, { limits }).stream()
  const bytes = Buffer.concat([...chunks(2 << 20)])
  caller.end(bytes)
  await turns(30)

  t.ok((await readAll(target)).equals(bytes))
})

t.test('pause and resume, read(n), readable events, setEncoding: as any Duplex', async t => {
  const pair = sessionPair(t)
  const paused = await pair.stream()
  const seen: Buffer[] = []
  paused.target.on('data', chunk => {
    seen.push(chunk)
    paused.target.pause()
    setImmediate(() => paused.target.resume())
  })
  paused.caller.end(Buffer.concat([...chunks(1 << 20)]))
  await once(paused.target, 'end')
  t.ok(Buffer.concat(seen).equals(Buffer.concat([...chunks(1 << 20)])), 'paused after every chunk')

  const exact = await pair.stream()
  exact.caller.end(Buffer.concat([...chunks(1_000_000)]))
  const pieces: Buffer[] = []
  exact.target.on('readable', () => {
    let piece: Buffer | null
    while ((piece = exact.target.read(100_000)) !== null) pieces.push(piece)
  })
  await once(exact.target, 'end')
  t.same(
    pieces.map(piece => piece.length),
    Array.from({ length: 10 }, () => 100_000),
    'read(n) beyond the buffer size'
  )

  const text = await pair.stream()
  text.target.setEncoding('utf8')
  const parts: string[] = []
  text.target.on('data', part => parts.push(part))
  for (const byte of Buffer.from('größer')) {
    text.caller.write(Buffer.from([byte]))
    await turns(4)
  }
  text.caller.end()
  await once(text.target, 'end')
  t.equal(parts.join(''), 'größer')
})

t.test('unshift puts bytes back in front', async t => {
  const { caller, target } = await sessionPair(t).stream()
  caller.write('header|body')
  const [chunk] = await once(target, 'data')
  target.pause()

  target.unshift(chunk.subarray(7))
  caller.end('|more')

  t.equal((await readAll(target.resume())).toString(), 'body|more')
})

t.test('pipeline through a stream and back resolves, and rejects with the reset', async t => {
  const pair = sessionPair(t)
  const good = await pair.stream()
  void pipeline(good.target, new PassThrough(), good.target)
  let got = 0
  const sink = new Writable({
    write(chunk: Buffer, _encoding, done) {
      got += chunk.length
      done()
    }
  })
  await pipeline(Readable.from(chunks(1 << 20)), good.caller, sink)
  t.equal(got, 1 << 20)

  const bad = await pair.stream()
  const broken = pipeline(bad.caller, new PassThrough().resume())
  bad.target.destroy(new TunnelError('TARGET_RESET'))
  await t.rejects(broken, { code: 'TARGET_RESET' })
})

t.test('for await that stops half way resets the stream', async t => {
  const { caller, target } = await sessionPair(t).stream()
  caller.write('endless')

  for await (const chunk of target) {
    t.equal((chunk as Buffer).toString(), 'endless')
    break
  }

  t.match(await closeOf(caller), { code: 'TARGET_RESET' })
})

t.test('cork, uncork and strings are written like anything else', async t => {
  const { caller, target } = await sessionPair(t).stream()

  caller.cork()
  caller.write('grüße ')
  caller.write('6f6b', 'hex')
  caller.write(new Uint8Array([33]))
  caller.uncork()
  caller.end()

  t.equal((await readAll(target)).toString(), 'grüße ok!')
})

t.test('the sender cuts frames to what the peer accepts', async t => {
  const { naiveHello } = await import('../support/naive-codec.js')
  const { peer, accepted } = sessionAndPeer(t, { answers: true, hello: false })
  peer.say(naiveHello({ frameLimit: 1024 }), naiveOpen(1, { credit: 10_000 }))
  await peer.expect('OPENED')

  accepted[0]!.end(Buffer.alloc(2500))
  const sizes = []
  for (let count = 0; count < 3; count++) sizes.push(((await peer.expect('DATA')).data as string).length / 2)

  t.same(sizes, [1024, 1024, 452])
  await peer.expect('END')
})

t.test('credit is used to the last byte and not one more', async t => {
  const { peer, accepted } = sessionAndPeer(t, { answers: true })
  peer.say(naiveOpen(1, { credit: 0 }))
  await peer.expect('OPENED')
  accepted[0]!.end('12345')
  await peer.settled()
  t.notOk(peer.frames.some(frame => frame.type === 'DATA'))

  for (const credit of [1, 3]) {
    peer.say(naiveFrame(8, 1, Buffer.from([0, 0, 0, credit])))
    t.equal(((await peer.expect('DATA')).data as string).length / 2, credit)
    await peer.settled()
    t.notOk(peer.frames.some(frame => frame.type === 'DATA' || frame.type === 'END'))
  }
  peer.say(naiveFrame(8, 1, Buffer.from([0, 0, 0, 9])))
  await peer.expect('DATA')
  await peer.expect('END')
})

t.test('END needs no credit', async t => {
  const { peer, accepted } = sessionAndPeer(t, { answers: true })
  peer.say(naiveOpen(1, { credit: 0 }))
  await peer.expect('OPENED')

  accepted[0]!.end()

  t.match(await peer.expect('END'), { stream: 1 })
})
