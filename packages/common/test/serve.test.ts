/** A Dial carried across a session: what the far side dials, the near side gets. */
import { once } from 'node:events'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'
import { Duplex, PassThrough } from 'node:stream'
import t, { type Test } from 'tap'
import type { Dial, DialContext } from '../src/dial.js'
import { TunnelError } from '../src/errors.js'
import { Session } from '../src/mux/session.js'
import type { LinkPrincipal } from '../src/principal.js'
import { serve } from '../src/serve.js'
import { memoryCarriers } from './support/memory-carrier.js'
import { naiveHello, naiveOpen } from './support/naive-codec.js'
import { POD, RawPeer, closeOf, never, readAll, sessionPair, turns, until } from './support/sessions.js'
import { dialContext } from './support/dial-context.js'

function served(t: Test, dial: Dial) {
  /** What was dialled and has closed. */
  const ends: Duplex[] = []
  const watched: Dial = async (...args) => {
    const reached = await dial(...args)
    if (reached.closed) ends.push(reached)
    else reached.once('close', () => ends.push(reached))
    return reached
  }
  return {
    ...sessionPair(t, { onOpen: serve(watched, { remote: { kind: 'server', name: 'near' } }) }),
    ends
  }
}

/** A TCP target, and a Dial that reaches it whatever it is asked for. */
async function tcpTarget(t: Test): Promise<{ dial: Dial; accepted: Socket[]; dialled: Socket[] }> {
  const accepted: Socket[] = []
  const dialled: Socket[] = []
  const server = createServer({ allowHalfOpen: true }, socket => {
    socket.on('error', () => {})
    accepted.push(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of [...accepted, ...dialled]) socket.destroy()
    server.close()
  })
  const dial: Dial = async () => {
    const socket = connect({ port: (server.address() as AddressInfo).port, allowHalfOpen: true })
    dialled.push(socket)
    await once(socket, 'connect')
    return socket
  }
  return { dial, accepted, dialled }
}

for (const [kind, counts] of [
  ['server', true],
  ['client', false]
] as const) {
  t.test(
    `what a ${kind} says of a dial's origin ${counts ? 'counts' : 'is replaced by who it is'}`,
    async t => {
      const contexts: DialContext[] = []
      const remote: LinkPrincipal =
        kind === 'server' ? { kind, name: 'seed' } : { kind, name: 'node', cluster: 'demo' }
      const dial: Dial = (_target, context) => {
        contexts.push(context)
        return Promise.reject(new TunnelError('TARGET_REFUSED'))
      }
      const { near } = sessionPair(t, { onOpen: serve(dial, { remote, leastHops: 1 }) })
      const origin = {
        principal: { kind: 'caller', name: 'admin' },
        front: 'kube',
        traceId: 'trace'
      } as const

      for (const hops of [0, 1, 7]) await t.rejects(near.dial(POD, dialContext({ ...origin, hops })))

      const expected = counts ? origin : { principal: remote, front: '' }
      for (const { principal, front, traceId } of contexts)
        t.strictSame({ principal, front, ...(traceId !== undefined && { traceId }) }, expected)
      t.same(
        contexts.map(({ hops }) => hops),
        counts ? [1, 1, 7] : [1, 1, 1]
      )
    }
  )
}

t.test('a server of version 1.0 says nothing of the origin, and asks for itself', async t => {
  const [carrier, peerCarrier] = memoryCarriers()
  const contexts: DialContext[] = []
  const dial: Dial = (_target, context) => {
    contexts.push(context)
    return Promise.reject(new TunnelError('TARGET_REFUSED'))
  }
  const session = new Session(carrier, {
    onOpen: serve(dial, { remote: { kind: 'server', name: 'seed' }, timeoutMs: 7_000 })
  })
  t.teardown(() => session.close())
  const peer = new RawPeer(peerCarrier)

  peer.say(naiveHello(), naiveOpen(1, { timeoutMs: 0 }))
  await peer.expect('REFUSED')

  t.match(contexts, [{ principal: { kind: 'server', name: 'seed' }, front: '', hops: 0, timeoutMs: 7_000 }])
})

t.test('the far dial gets target, time and signal; its stream is joined, half-close and all', async t => {
  let asked: Parameters<Dial> | undefined
  const { dial, accepted } = await tcpTarget(t)
  const { near, ends } = served(t, (...args) => {
    asked = args
    return dial(...args)
  })

  const stream = await near.dial(
    { proto: 'tcp', host: 'node-1', port: 10250 },
    dialContext({ signal: never(), timeoutMs: 1500 })
  )
  stream.end('question')
  await until(() => accepted.length === 1)
  t.equal((await readAll(accepted[0]!)).toString(), 'question')
  accepted[0]!.end('answer')
  t.equal((await readAll(stream)).toString(), 'answer')
  await until(() => ends.length === 1)

  t.same(asked![0], { proto: 'tcp', host: 'node-1', port: 10250 })
  t.equal(asked![1].timeoutMs, 1500)
  t.notOk(asked![1].signal.aborted)
})

t.test('a refusal of the far dial arrives as it is; a foreign error as INTERNAL', async t => {
  const errors: unknown[] = [new TunnelError('TARGET_REFUSED', 'nobody there'), new Error('oops'), 'a string']
  const { near, far } = served(t, () => Promise.reject(errors.shift()))

  await t.rejects(near.dial(POD, dialContext()), { code: 'TARGET_REFUSED', detail: 'nobody there' })
  await t.rejects(near.dial(POD, dialContext()), { code: 'INTERNAL', detail: 'oops' })
  await t.rejects(near.dial(POD, dialContext()), { code: 'INTERNAL', detail: 'a string' })
  t.equal(far.streamCount, 0)
})

t.test('a dial that throws instead of rejecting is refused all the same', async t => {
  const { near } = served(t, () => {
    throw new TunnelError('TARGET_DENIED')
  })

  await t.rejects(near.dial(POD, dialContext()), { code: 'TARGET_DENIED' })
})

t.test('a caller who leaves cancels the far dial', async t => {
  let signal: AbortSignal | undefined
  const { near, far } = served(
    t,
    (_target, options) =>
      new Promise((_resolve, reject) => {
        signal = options.signal
        signal.addEventListener('abort', () => reject(signal!.reason as Error))
      })
  )
  const leave = new AbortController()
  const dial = near.dial(POD, dialContext({ signal: leave.signal }))
  await until(() => signal !== undefined)

  leave.abort()

  await t.rejects(dial, { code: 'DIAL_CANCELLED' })
  await until(() => signal!.aborted)
  await turns()
  t.equal(far.streamCount, 0)
  t.equal(far.state, 'open')
})

t.test('what the far dial reaches after the caller left is destroyed: no orphan', async t => {
  for (const how of ['abort', 'link'] as const) {
    const { dial, accepted, dialled } = await tcpTarget(t)
    let goOn = (): void => {}
    const { near, far, nearCarrier } = served(t, async (...args) => {
      const socket = await dial(...args)
      await new Promise<void>(resolve => (goOn = resolve))
      return socket
    })
    const leave = new AbortController()
    const dialling = near.dial(POD, dialContext({ signal: leave.signal }))
    dialling.catch(() => {})
    await until(() => accepted.length === 1)

    if (how === 'abort') leave.abort()
    else nearCarrier.cut()
    await t.rejects(dialling)
    await turns()
    goOn()
    await until(() => dialled[0]!.closed && accepted[0]!.closed)

    t.equal(far.streamCount, 0)
    t.equal(far.promisedBytes, 0)
  }
})

t.test('a dial that gives back something already closed resets the caller', async t => {
  const gone = new PassThrough()
  gone.destroy()
  await once(gone, 'close')
  const { near, ends } = served(t, async () => gone)

  const stream = await near.dial(POD, dialContext())

  t.ok(await closeOf(stream))
  await until(() => ends.length === 1)
})

t.test('a target that resets, resets the caller with TARGET_RESET', async t => {
  const { dial, accepted } = await tcpTarget(t)
  const { near, ends } = served(t, dial)
  const stream = await near.dial(POD, dialContext())
  await until(() => accepted.length === 1)

  accepted[0]!.resetAndDestroy()

  t.match(await closeOf(stream), { code: 'TARGET_RESET' })
  await until(() => ends.length === 1)
  t.match(ends[0]!.errored, { code: 'ECONNRESET' })
})

t.test('a caller who resets, resets the target', async t => {
  const { dial, accepted } = await tcpTarget(t)
  const { near } = served(t, dial)
  const stream = await near.dial(POD, dialContext())
  await until(() => accepted.length === 1)
  const error = new Promise<NodeJS.ErrnoException>(resolve => accepted[0]!.once('error', resolve))
  accepted[0]!.resume()

  stream.destroy(new TunnelError('CALLER_RESET'))

  t.equal((await error).code, 'ECONNRESET')
})

t.test('a lost link resets every target', async t => {
  const { dial, accepted } = await tcpTarget(t)
  const { near, nearCarrier, ends } = served(t, dial)
  const streams = await Promise.all([1, 2, 3].map(() => near.dial(POD, dialContext())))
  await until(() => accepted.length === 3)
  for (const socket of accepted) socket.resume()

  nearCarrier.cut()

  for (const stream of streams) t.match(await closeOf(stream), { code: 'LINK_LOST' })
  await until(() => accepted.every(socket => socket.closed) && ends.length === 3)
})

t.test('a whole answer is not lost to the RST of a target that was told more', async t => {
  const { dial, accepted } = await tcpTarget(t)
  const { near } = served(t, dial)
  const stream = await near.dial(POD, dialContext())
  await until(() => accepted.length === 1)
  const size = 3 << 20

  // 413 and close, with the upload unread: the kernel answers what still comes with RST.
  stream.write(Buffer.alloc(4 << 20))
  accepted[0]!.pause()
  accepted[0]!.end(Buffer.alloc(size, 7), () => accepted[0]!.resetAndDestroy())
  const chunks: Buffer[] = []
  stream.on('data', (chunk: Buffer) => void chunks.push(chunk))
  await closeOf(stream)

  const received = Buffer.concat(chunks).length
  t.ok(received === size || stream.errored, `${received} bytes, or an error that says they are not all`)
})

t.test('no end is reported for what was refused, and an end once for what was opened', async t => {
  const answers: (() => Promise<Duplex>)[] = [
    () => Promise.reject(new TunnelError('TARGET_REFUSED')),
    async () => new PassThrough()
  ]
  const { near, ends } = served(t, () => answers.shift()!())
  await t.rejects(near.dial(POD, dialContext()), { code: 'TARGET_REFUSED' })

  const echo = await near.dial(POD, dialContext())
  echo.end('echo')
  t.equal((await readAll(echo)).toString(), 'echo')
  await until(() => ends.length === 1)
  await turns()

  t.equal(ends.length, 1)
})
