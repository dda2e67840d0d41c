/**
 * What every Dial promises (packages/common/src/dial.ts), as tests against real TCP targets on loopback:
 * `dialCompliance` is called by whoever offers one. Nothing here knows what lies between the dial and the target.
 */
import { once } from 'node:events'
import { createHash } from 'node:crypto'
import type { Duplex } from 'node:stream'
import type { Test } from 'tap'
import { TunnelError, type Dial, type DialContext } from '@tendril/common'
import { until } from '../support/child-process.js'
import {
  bannerTarget,
  blackHole,
  echoTarget,
  pseudoRandom,
  refusedPort,
  replyAfterFinTarget,
  sinkTarget,
  sourceTarget,
  stalledTarget,
  tcpTarget
} from '../support/targets.js'
import { dialContext } from '@tendril/common/test/support/dial-context'

export type DialUnderTest = {
  /** Reaches loopback targets. */
  dial: Dial
  /**
   * False for a bare TCP socket, where `destroy(error)` sends FIN: whoever joins it to something else resets it. Default
   * true.
   */
  destroyResets?: boolean
}

/** A Dial; it registers its own clean-up with the test. */
export type MakeDial = (t: Test) => Promise<DialUnderTest> | DialUnderTest

/** More than any chain of windows and kernel buffers may swallow while nobody reads. */
const TOO_MUCH_BYTES = 96 * 1024 * 1024
/** No progress for this long counts as stopped. */
const STOPPED_MS = 400

export function dialCompliance(t: Test, name: string, makeDial: MakeDial): void {
  const test = (title: string, body: (t: Test, tools: Tools) => Promise<void>) => {
    void t.test(`${name}: ${title}`, async t => {
      const made = await makeDial(t)
      const streams: Duplex[] = []
      t.teardown(() => {
        for (const stream of streams) stream.on('error', () => {}).destroy()
      })
      const dial = async (target: { host: string; port: number }, options: Partial<DialContext> = {}) => {
        const stream = await made.dial(
          { proto: 'tcp', host: target.host, port: target.port },
          dialContext({ signal: new AbortController().signal, ...options })
        )
        streams.push(stream)
        return stream
      }
      await body(t, { dial, destroyResets: made.destroyResets ?? true })
    })
  }

  test('what is written comes back', async (t, { dial }) => {
    const stream = await dial(await echoTarget(t))

    stream.write('one')
    t.equal((await take(stream, 3)).toString(), 'one')
    stream.write('two')
    t.equal((await take(stream, 3)).toString(), 'two')
    stream.end()
    t.equal((await readAll(stream)).length, 0)
  })

  for (const bytes of [1, 50_000, 1024 * 1024, 5_000_001]) {
    test(`${bytes} bytes there and back are the same bytes`, async (t, { dial }) => {
      const stream = await dial(await echoTarget(t))

      const [back] = await Promise.all([readAll(stream), writeAll(stream, bytes)])

      t.equal(sha256(back), sha256(Buffer.concat([...pseudoRandom(bytes)])))
    })
  }

  test('the caller ends first and still hears the reply', async (t, { dial }) => {
    const stream = await dial(await replyAfterFinTarget(t))

    stream.end('100000')

    t.equal((await readAll(stream)).toString(), 'got 100000')
  })

  test('the target ends first and still hears the caller', async (t, { dial }) => {
    let got = ''
    const target = await tcpTarget(t, socket => {
      socket.end('goodbye')
      socket.on('data', chunk => (got += chunk.toString()))
    })
    const stream = await dial(target)

    t.equal((await readAll(stream)).toString(), 'goodbye')
    stream.write('wait, ')
    stream.end('there is more')

    await until('the target has heard', () => got === 'wait, there is more')
    await until('the connection is over', () => target.open() === 0)
  })

  test('writing and closing at once keeps every byte, towards the target', async (t, { dial }) => {
    const sink = await sinkTarget(t)
    const stream = await dial(sink)
    const bytes = 3_000_000

    await writeAll(stream, bytes)

    const received = await sink.received()
    t.equal(received.bytes, bytes)
    t.equal(received.sha256, sha256(Buffer.concat([...pseudoRandom(bytes)])))
  })

  test('writing and closing at once keeps every byte, towards the caller', async (t, { dial }) => {
    const source = await sourceTarget(t, 3_000_000)
    const stream = await dial(source)
    stream.end()

    t.equal(sha256(await readAll(stream)), source.sha256)
  })

  test('a target that speaks first is heard, even by a caller that listens late', async (t, { dial }) => {
    const stream = await dial(await bannerTarget(t, 'SSH-2.0-x\r\n'))
    await idle(50)

    t.equal((await take(stream, 11)).toString(), 'SSH-2.0-x\r\n')
  })

  test('a target that speaks and closes before the caller listens is heard to the end', async (t, {
    dial
  }) => {
    const stream = await dial(await tcpTarget(t, socket => socket.end('short')))
    await idle(50)

    t.equal((await readAll(stream)).toString(), 'short')
  })

  test('nobody listens there: TARGET_REFUSED', async (t, { dial }) => {
    await t.rejects(dial({ host: '127.0.0.1', port: await refusedPort() }), {
      name: 'TunnelError',
      code: 'TARGET_REFUSED'
    })
  })

  test('an impossible target: BAD_TARGET', async (t, { dial }) => {
    await t.rejects(dial({ host: '127.0.0.1', port: 0 }), { code: 'BAD_TARGET' })
    await t.rejects(dial({ host: 'not a host', port: 80 }), { code: 'BAD_TARGET' })
  })

  test('an IPv6 target', async (t, { dial }) => {
    const stream = await dial(await echoTarget(t, { host: '::1' }))
    stream.end('six')

    t.equal((await readAll(stream)).toString(), 'six')
  })

  test('a target that answers nothing: DIAL_TIMEOUT, each dial at its own bound', async (t, { dial }) => {
    const hole = await blackHole(t)
    const caller = new AbortController()
    const order: string[] = []
    const longer = dial(hole, { timeoutMs: 3_600_000, signal: caller.signal }).catch(() =>
      order.push('longer')
    )

    await t.rejects(dial(hole, { timeoutMs: 300 }), { code: 'DIAL_TIMEOUT' })

    order.push('shorter')
    caller.abort()
    await longer
    t.same(order, ['shorter', 'longer'])
  })

  test('aborted before it began: DIAL_CANCELLED, and the target saw nobody', async (t, { dial }) => {
    const echo = await echoTarget(t)

    await t.rejects(dial(echo, { signal: AbortSignal.abort() }), { code: 'DIAL_CANCELLED' })

    await idle(50)
    t.equal(echo.open(), 0)
  })

  test('aborted under way: DIAL_CANCELLED at once', async (t, { dial }) => {
    const hole = await blackHole(t)
    const caller = new AbortController()
    const dialling = dial(hole, { signal: caller.signal, timeoutMs: 3_600_000 })
    await idle(20)

    caller.abort()

    await t.rejects(dialling, { code: 'DIAL_CANCELLED' })
  })

  test('a caller who leaves at once, 50 times over, leaves nothing open at the target', async (t, {
    dial
  }) => {
    const echo = await echoTarget(t)

    for (let round = 0; round < 50; round += 1) {
      const caller = new AbortController()
      const dialling = dial(echo, { signal: caller.signal })
      // Every stage of a dial gets its turn to be interrupted.
      for (let turn = 0; turn < round % 10; turn += 1) await new Promise(resolve => setImmediate(resolve))
      caller.abort()
      await dialling.then(
        stream => stream.destroy(),
        (error: unknown) => t.match(error, { code: 'DIAL_CANCELLED' })
      )
    }

    await until('the target has nobody left', () => echo.open() === 0)
  })

  test('aborting after the dial does nothing', async (t, { dial }) => {
    const caller = new AbortController()
    const stream = await dial(await echoTarget(t), { signal: caller.signal })

    caller.abort()
    stream.end('still here')

    t.equal((await readAll(stream)).toString(), 'still here')
  })

  test('destroying the stream with an error resets the far end', async (t, { dial, destroyResets }) => {
    const ends: string[] = []
    const target = await tcpTarget(t, socket => {
      socket.resume()
      socket.once('error', (error: NodeJS.ErrnoException) => ends.push(error.code ?? 'error'))
      socket.once('end', () => {
        ends.push('FIN')
        socket.end()
      })
    })
    const stream = await dial(target)
    await until('the target has the connection', () => target.open() === 1)
    stream.on('error', () => {})

    stream.destroy(new TunnelError('CALLER_RESET'))

    await until('the target has heard', () => ends.length > 0)
    if (destroyResets) t.strictSame(ends, ['ECONNRESET'])
    await until('the connection is gone', () => target.open() === 0)
  })

  test('a target that resets is an error, not an end', async (t, { dial }) => {
    const target = await tcpTarget(t, socket => {
      socket.write('half an ans')
      socket.once('data', () => socket.resetAndDestroy())
    })
    const stream = await dial(target)
    await take(stream, 11)
    const failed = once(stream, 'error') as Promise<[NodeJS.ErrnoException]>
    stream.resume()
    let ended = false
    stream.once('end', () => (ended = true))

    stream.write('go')

    const [error] = await failed
    t.ok(['ECONNRESET', 'TARGET_RESET'].includes(error.code ?? ''), error.message)
    t.notOk(ended)
  })

  test('a target that does not read stops the writer', async (t, { dial }) => {
    const stalled = await stalledTarget(t)
    const stream = await dial(stalled)

    const written = await writeUntilStopped(stream)

    t.ok(written < TOO_MUCH_BYTES, `${written} bytes swallowed`)
  })

  test('a caller that does not read stops the target', async (t, { dial }) => {
    const written: Promise<number>[] = []
    const target = await tcpTarget(t, socket => written.push(writeUntilStopped(socket)))
    await dial(target)
    await until('the target has the connection', () => written.length === 1)

    const bytes = await written[0]!

    t.ok(bytes < TOO_MUCH_BYTES, `${bytes} bytes swallowed`)
  })

  test('a stalled stream stops nobody else, either way', async (t, { dial }) => {
    const upload = await dial(await stalledTarget(t))
    const download = await dial(await tcpTarget(t, socket => void writeUntilStopped(socket)))
    await writeUntilStopped(upload)
    const echo = await dial(await echoTarget(t))

    const [back] = await Promise.all([readAll(echo), writeAll(echo, 1_000_000)])

    t.equal(back.length, 1_000_000)
    t.equal(download.destroyed, false)
  })

  test('a slow upload does not stop a target that keeps sending', async (t, { dial }) => {
    // The target reads nothing and sends everything: the two directions must not know of each other.
    const bytes = 8_000_000
    const target = await tcpTarget(t, socket => {
      socket.pause()
      const chunks = pseudoRandom(bytes)
      const more = () => {
        for (let next = chunks.next(); !next.done; next = chunks.next()) {
          if (!socket.write(next.value)) return void socket.once('drain', more)
        }
      }
      more()
    })
    const stream = await dial(target)
    const stopped = writeUntilStopped(stream)

    const received = await take(stream, bytes)

    t.equal(sha256(received), sha256(Buffer.concat([...pseudoRandom(bytes)])))
    await stopped
  })

  test('200 streams at once do not mix', async (t, { dial }) => {
    const echo = await echoTarget(t)

    const wrong = await Promise.all(
      Array.from({ length: 200 }, async (_, index) => {
        const stream = await dial(echo)
        const text = `stream ${index} `.repeat(500)
        stream.end(text)
        return (await readAll(stream)).toString() !== text
      })
    )

    t.equal(wrong.filter(Boolean).length, 0)
    await until('the target has nobody left', () => echo.open() === 0)
  })
}

type Tools = {
  dial: (target: { host: string; port: number }, options?: Partial<DialContext>) => Promise<Duplex>
  destroyResets: boolean
}

export async function readAll(stream: Duplex): Promise<Buffer> {
  const chunks: Buffer[] = []
  stream.on('data', (chunk: Buffer) => chunks.push(chunk))
  await once(stream, 'end')
  return Buffer.concat(chunks)
}

/** Exactly `bytes`, the rest stays in the stream. */
async function take(stream: Duplex, bytes: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  let missing = bytes
  while (missing > 0) {
    const chunk = stream.read(Math.min(missing, stream.readableLength || missing)) as Buffer | null
    if (chunk) {
      chunks.push(chunk)
      missing -= chunk.length
    } else await once(stream, 'readable')
  }
  return Buffer.concat(chunks)
}

/** Writes pseudo-random bytes, waiting where asked to, and ends. */
async function writeAll(stream: Duplex, bytes: number): Promise<void> {
  for (const chunk of pseudoRandom(bytes)) {
    if (!stream.write(chunk)) await once(stream, 'drain')
  }
  stream.end()
}

/** Writes until nothing moves any more, and says how much was taken. */
async function writeUntilStopped(stream: Duplex): Promise<number> {
  const chunk = Buffer.alloc(64 * 1024, 'x')
  let written = 0
  stream.on('error', () => {})
  while (written < TOO_MUCH_BYTES && !stream.destroyed) {
    written += chunk.length
    if (stream.write(chunk)) continue
    const drained = new AbortController()
    const moved = await Promise.race([
      once(stream, 'drain', { signal: drained.signal }).then(
        () => true,
        () => false
      ),
      idle(STOPPED_MS).then(() => false)
    ])
    drained.abort()
    if (!moved) break
  }
  return written
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** For "nothing happens": the one fact that only time can show. */
function idle(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms))
}
