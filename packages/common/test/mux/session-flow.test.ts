/** Many streams at once: who stalls costs nobody else anything, memory stays bounded, and nothing is mixed up. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import fc from 'fast-check'
import t from 'tap'
import { TunnelError } from '../../src/errors.js'
import { MESSAGE_LIMIT_BYTES } from '../../src/carrier.js'
import { collectGarbage } from '../support/garbage.js'
import { naiveFrame, naiveOpen } from '../support/naive-codec.js'
import { POD, closeOf, sessionAndPeer, sessionPair, turns, until } from '../support/sessions.js'
import { dialContext } from '../support/dial-context.js'

/** Sends `size` bytes and waits until as many have come back. */
async function echoed(stream: Duplex, size: number): Promise<void> {
  let left = size
  const back = new Promise<void>(resolve => {
    const onData = (chunk: Buffer): void => {
      left -= chunk.length
      if (left > 0) return
      stream.off('data', onData)
      resolve()
    }
    stream.on('data', onData)
  })
  stream.write(Buffer.alloc(size))
  await back
}

t.test('200 streams echo beside one stalled in each direction', async t => {
  const { near, far } = sessionPair(t, {
    onOpen: incoming => {
      const stream = incoming.accept()
      if (incoming.target.port === 80) stream.pipe(stream)
      // 1: never reads. 2: writes without end to a caller who never reads.
      if (incoming.target.port === 2) {
        const write = (): void => {
          while (stream.write(Buffer.alloc(65_536))) continue
        }
        stream.on('drain', write)
        write()
      }
    }
  })
  const deaf = await near.dial({ ...POD, port: 1 }, dialContext())
  const talker = await near.dial({ ...POD, port: 2 }, dialContext())
  const write = (): void => {
    while (deaf.write(Buffer.alloc(65_536))) continue
  }
  deaf.on('drain', write)
  write()
  await turns(100)
  const stalled = near.bytes.sent + far.bytes.sent

  const streams = await Promise.all(Array.from({ length: 200 }, () => near.dial(POD, dialContext())))
  for (let round = 0; round < 20; round++) await Promise.all(streams.map(stream => echoed(stream, 1_000)))

  t.equal(near.bytes.sent + far.bytes.sent - stalled, 2 * 200 * 20 * 1_000, 'the stalled ones said no more')
  t.notOk(deaf.destroyed)
  t.notOk(talker.destroyed)
})

t.test('500 stalled streams hold no more than their windows', async t => {
  const limits = { windowInitialBytes: 65_536, windowMinBytes: 16_384, budgetBytes: 4 << 20 }
  const { near, far } = sessionPair(t, { limits })
  const streams = await Promise.all(Array.from({ length: 500 }, () => near.dial(POD, dialContext())))
  await collectGarbage()
  const before = process.memoryUsage().arrayBuffers
  // One megabyte each, from one piece of memory: what grows is what the far side keeps.
  const shared = Buffer.alloc(1 << 20)

  for (const stream of streams) stream.write(shared)
  await turns(300)
  await collectGarbage()
  const grown = process.memoryUsage().arrayBuffers - before

  const bound = limits.budgetBytes + 500 * limits.windowMinBytes
  t.ok(far.bytes.received <= bound, `${far.bytes.received} bytes were let in, at most ${bound}`)
  t.ok(far.promisedBytes <= limits.budgetBytes)
  t.ok(grown < bound * 1.5, `${grown} bytes of buffers`)
  for (const stream of streams) stream.destroy()
  await until(() => far.streamCount === 0)
  t.equal(far.promisedBytes, 0)
  t.equal(near.promisedBytes, 0)
})

t.test('one byte in each of many large messages pins what it says, not the messages', async t => {
  const { peer, accepted, session } = sessionAndPeer(t, { answers: true })
  peer.say(naiveOpen(1), naiveOpen(2))
  await peer.expect('OPENED')
  await peer.expect('OPENED')
  accepted[1]!.resume()
  await collectGarbage()
  const before = process.memoryUsage().arrayBuffers
  const unknown = Buffer.alloc(MESSAGE_LIMIT_BYTES - 9)
  for (let at = 0; at + 16 <= unknown.length; at += 16) naiveFrame(10, 0, Buffer.alloc(8)).copy(unknown, at)
  const filler = unknown.subarray(0, unknown.length - (unknown.length % 16))

  for (let count = 0; count < 100; count++) {
    peer.say(naiveFrame(5, 1, 'x'), filler)
    await turns(1)
  }
  await until(() => session.bytes.received === 100)
  await collectGarbage()

  const grown = process.memoryUsage().arrayBuffers - before
  t.ok(grown < 8 << 20, `${grown} bytes of buffers after 100 MiB of messages`)
  t.equal((await once(accepted[0]!, 'data'))[0].length > 0, true)
})

t.test('a short message does not wait for the bulk that is queued before it', async t => {
  const { peer, accepted, session, carrier } = sessionAndPeer(t, { answers: true, highWaterBytes: 1 })
  const bulk = Array.from({ length: 60 }, (_, at) => naiveOpen(at + 1, { credit: 1 << 20 }))
  peer.say(...bulk, naiveOpen(100))
  await until(
    () => accepted.length === 61 && peer.frames.filter(({ type }) => type === 'OPENED').length === 61
  )
  peer.frames.length = 0
  carrier.hold()
  const quick = accepted.pop()!
  for (const stream of accepted) stream.write(Buffer.alloc(1 << 20))
  await turns(20)

  quick.write('ping')
  peer.on('frame', ({ stream }) => {
    if (stream === 100) session.close()
  })
  carrier.release()
  await peer.closed()
  const before = peer.frames.slice(
    0,
    peer.frames.findIndex(({ stream }) => stream === 100)
  )
  const bytes = before.reduce((sum, { data }) => sum + ((data as string | undefined)?.length ?? 0) / 2, 0)

  t.ok(bytes > 0 && bytes <= 4 * 65_536, `${bytes} bytes of bulk came before it`)
})

t.test('windows grow for a fast reader and carry more than the first window per round trip', async t => {
  const { near, far, stream } = sessionPair(t, { limits: { windowInitialBytes: 65_536 } })
  const { caller, target } = await stream()
  target.resume()
  const first = far.promisedBytes

  for (let count = 0; count < 100; count++) {
    if (!caller.write(Buffer.alloc(1 << 20))) await once(caller, 'drain')
  }

  t.ok(far.promisedBytes > first, `${first} bytes promised at first, ${far.promisedBytes} now`)
  t.ok(near.roundTripMs > 0)
})

t.test(
  'whatever is written, paused, ended and reset at random: bytes arrive equal, in order, or not at all',
  async t => {
    type Act = 'write' | 'small' | 'pause' | 'resume' | 'end' | 'destroy' | 'turn'
    const act = fc.constantFrom<Act>(
      ...([
        'write',
        'write',
        'write',
        'small',
        'small',
        'pause',
        'resume',
        'end',
        'turn',
        'turn',
        'turn'
      ] as Act[]),
      'destroy'
    )
    const step = fc.record({
      act,
      stream: fc.nat(11),
      side: fc.constantFrom('caller', 'target'),
      bytes: fc.integer({ min: 1, max: 200_000 })
    })

    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 20, maxLength: 120 }),
        fc.constantFrom(1, 65_536, 1 << 20),
        async (steps, highWaterBytes) => {
          const limits = { windowInitialBytes: 20_000, windowMinBytes: 3_000, budgetBytes: 200_000 }
          const pair = sessionPair(t, { limits, highWaterBytes })
          const streams = []
          for (let count = 0; count < 12; count++) streams.push(watched(await pair.stream()))
          for (const { act, stream, side, bytes } of steps) {
            const { ends, said, destroyed } = streams[stream]!
            const end = ends[side]
            const writable = !end.writableEnded && !end.destroyed
            if ((act === 'write' || act === 'small') && writable) {
              const chunk = Buffer.alloc(act === 'small' ? 1 + (bytes % 50) : bytes, bytes % 251)
              said[side].update(chunk)
              end.write(chunk)
            } else if (act === 'pause') end.pause()
            else if (act === 'resume') end.resume()
            else if (act === 'end') end.end()
            else if (act === 'destroy') {
              destroyed.yes = true
              end.destroy(new TunnelError('CALLER_RESET', 'at random'))
            } else if (act === 'turn') await turns(1 + (bytes % 3))
          }
          for (const { ends } of streams) for (const end of [ends.caller, ends.target]) end.resume().end()
          for (const { ends, said, got, destroyed } of streams) {
            const errors = await Promise.all([closeOf(ends.caller), closeOf(ends.target)])
            if (destroyed.yes) continue
            if (errors.some(error => error))
              throw new Error(`a stream broke: ${String(errors.find(error => error))}`)
            if (said.caller.digest('hex') !== got.target.digest('hex'))
              throw new Error('caller to target differs')
            if (said.target.digest('hex') !== got.caller.digest('hex'))
              throw new Error('target to caller differs')
          }
          await until(() => pair.near.streamCount + pair.far.streamCount === 0)
          if (pair.near.promisedBytes + pair.far.promisedBytes !== 0) throw new Error('budget is left')
          if (pair.near.state !== 'open' || pair.far.state !== 'open') throw new Error('the session broke')
          pair.close()
        }
      ),
      { numRuns: 60 }
    )
  }
)

function watched(ends: { caller: Duplex; target: Duplex }) {
  const sums = () => ({ caller: createHash('sha256'), target: createHash('sha256') })
  const said = sums()
  const got = sums()
  for (const side of ['caller', 'target'] as const) {
    ends[side].on('data', (chunk: Buffer) => got[side].update(chunk))
  }
  return { ends, said, got, destroyed: { yes: false } }
}
