/**
 * What a target said before its connection broke, through everything between it and the caller: the socket towards it,
 * a session with small windows, and the splice at the front. The caller reads nothing until the target is gone.
 */
import { type Clock, Session, serve, splice, systemClock } from '@tendril/common'
import { createPolicy } from '@tendril/common/policy/policy'
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import { memoryCarriers } from '@tendril/common/test/support/memory-carrier'
import { turns, until } from '@tendril/common/test/support/sessions'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import type { Test } from 'tap'
import { createTargetDial } from '../../src/targets/dial-target.js'
import { CATCH_UP_MS, STALLED_MS } from '../../src/targets/tcp.js'
import { dialContext } from '@tendril/common/test/support/dial-context'

/** More than Node reads of its own accord. */
const UNREAD_BYTES = 200_000
const limits = { windowInitialBytes: 32 << 10, windowMinBytes: 32 << 10, budgetBytes: 0 }

async function accepting(t: Test): Promise<{ port: number; next: () => Promise<Socket> }> {
  const server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const next = async (): Promise<Socket> => {
    const [socket] = (await once(server, 'connection')) as [Socket]
    t.teardown(() => socket.destroy())
    return socket.on('error', () => {})
  }
  return { port: (server.address() as AddressInfo).port, next }
}

/** stream ─ session ═ session ─ target. Nobody reads the stream before `join`, which gives it a caller. */
async function tunnel(t: Test, clock: Clock = systemClock, resumedAtMs = (): number => -Infinity) {
  const [nearCarrier, farCarrier] = memoryCarriers()
  const dialled: Socket[] = []
  const dial = createTargetDial({
    policy: createPolicy({ allow: ['127.0.0.0/8'] }),
    clock,
    resumedAtMs,
    metrics: { dialEnded() {}, connectionOpened: socket => void dialled.push(socket) }
  })
  const near = new Session(nearCarrier, { limits })
  const far = new Session(farCarrier, {
    limits,
    onOpen: serve(dial, { remote: { kind: 'server', name: 'near' } })
  })
  t.teardown(() => near.close())
  const listener = await accepting(t)
  const signal = new AbortController().signal
  const [stream, target] = await Promise.all([
    near.dial({ proto: 'tcp', host: '127.0.0.1', port: listener.port }, dialContext({ signal })),
    listener.next()
  ])
  const join = async (): Promise<Socket> => {
    const front = await accepting(t)
    const caller = connect({ port: front.port, host: '127.0.0.1', allowHalfOpen: true })
    t.teardown(() => caller.destroy())
    void splice(await front.next(), stream)
    return caller
  }
  return { stream, target, dialled: dialled[0]!, join, near, far }
}

/** All that a caller reads, and how it ends. */
async function receivedBy(caller: Socket): Promise<{ bytes: number; end: string }> {
  let bytes = 0
  caller.on('data', (chunk: Buffer) => (bytes += chunk.length))
  const end = await new Promise<string>(resolve => {
    caller.on('end', () => resolve('FIN')).on('error', (error: NodeJS.ErrnoException) => resolve(error.code!))
  })
  return { bytes, end }
}

/** The target writes until everything of ours is full, and what then waits in our kernel. How many bytes these are. */
async function fill(target: Socket, dialled: Socket): Promise<number> {
  let bytes = 0
  while (dialled.bytesRead === bytes) {
    target.write(Buffer.alloc(16 << 10, 7))
    bytes += 16 << 10
    for (let turn = 0; turn < 10 && dialled.bytesRead < bytes; turn++) await delay(5)
  }
  return bytes
}

/** Time for the kernel to say what there is to say. */
const pause = (): Promise<void> => delay(50)

t.test('a target that ended is heard to its end, though a late write of ours drew a RST', async t => {
  const { stream, target, dialled, join, near, far } = await tunnel(t)
  const bytes = await fill(target, dialled)
  target.end().resume()
  await pause()
  target.destroy()

  for (const late of ['late', 'later']) {
    stream.write(late)
    await pause()
  }
  const caller = await join()

  t.same(await receivedBy(caller), { bytes, end: 'FIN' })
  caller.destroy()
  await until(() => near.streamCount + far.streamCount === 0)
})

t.test('a target that broke is heard to its last byte, then the caller hears RST', async t => {
  for (const late of [['late', 'later'], []]) {
    const { stream, target, dialled, join, near, far } = await tunnel(t)
    stream.write(Buffer.alloc(UNREAD_BYTES))
    const bytes = await fill(target, dialled)
    await pause()
    // With unread input: the kernel says RST instead of FIN.
    target.destroy()

    for (const word of late) {
      stream.write(word)
      await pause()
    }
    const caller = await join()

    t.same(await receivedBy(caller), { bytes, end: 'ECONNRESET' }, `${late.length} late writes`)
    await until(() => near.streamCount + far.streamCount === 0)
  }
})

t.test('a RST that comes together with the last bytes is no end', async t => {
  const { stream, target, join } = await tunnel(t)
  const received = receivedBy(await join())
  stream.write('question')
  await once(target, 'data')

  target.write('half an ans')
  target.resetAndDestroy()

  t.same(await received, { bytes: 11, end: 'ECONNRESET' })
})

t.test('a target that stood still is read to its end before it hears more, and so can say all', async t => {
  const clock = new FakeClock()
  const { stream, target, dialled, join } = await tunnel(t, clock, () => clock.now())
  const bytes = await fill(target, dialled)
  // More than our kernel takes: the target's has to keep it, and drops it at the first RST.
  target.end(Buffer.alloc(250_000, 7)).resume()
  await once(target, 'finish')
  target.destroy()

  clock.tick(STALLED_MS)
  stream.write('late')
  await pause()
  const received = receivedBy(await join())
  const ticking = setInterval(() => clock.tick(50), 5)
  t.teardown(() => clearInterval(ticking))

  t.same(await received, { bytes: bytes + 250_000, end: 'FIN' })
})

t.test('a target that nobody reads hears what is said to it, after an outage a little later', async t => {
  const clock = new FakeClock()
  let resumedAtMs = -Infinity
  const { stream, target, dialled } = await tunnel(t, clock, () => resumedAtMs)
  let received = ''
  target.on('data', (chunk: Buffer) => (received += chunk.toString()))
  await fill(target, dialled)

  stream.write('1')
  await until(() => received === '1')
  clock.tick(STALLED_MS)
  stream.write('2')
  await until(() => received === '12')
  resumedAtMs = clock.now()
  stream.write('3')
  await turns(20)
  for (let waitedMs = 0; waitedMs < CATCH_UP_MS; waitedMs += 100) {
    t.equal(received, '12')
    clock.tick(100)
  }
  await until(() => received === '123')
  stream.write('4')
  await until(() => received === '1234')
})
