import { EventEmitter, once } from 'node:events'
import { createServer } from 'node:net'
import type { AddressInfo, Socket, TcpNetConnectOpts } from 'node:net'
import t from 'tap'
import type { Test } from 'tap'
import type { Clock } from '../src/clock.js'
import { systemClock } from '../src/clock.js'
import { interleave, race, RaceError } from '../src/race.js'

/** Sockets that connect or fail when the test says so. */
function imaginary() {
  const sockets = new Map<string, EventEmitter & { destroyed: boolean }>()
  const connect = ({ host }: TcpNetConnectOpts) => {
    const socket = Object.assign(new EventEmitter(), {
      destroyed: false,
      destroy() {
        socket.destroyed = true
      }
    })
    sockets.set(host ?? '', socket)
    return socket as unknown as Socket
  }
  return {
    sockets,
    connect,
    fail: (host: string, code: string) =>
      sockets.get(host)?.emit('error', Object.assign(new Error(code), { code }))
  }
}

function handClock() {
  const timers = new Set<{ dueMs: number; callback: () => void }>()
  let nowMs = 0
  const clock: Clock = {
    now: () => nowMs,
    after(ms, callback) {
      const timer = { dueMs: nowMs + ms, callback }
      timers.add(timer)
      return { cancel: () => void timers.delete(timer) }
    }
  }
  const turn = (ms: number) => {
    nowMs += ms
    for (const timer of timers) if (timer.dueMs <= nowMs && timers.delete(timer)) timer.callback()
  }
  return { clock, turn, timers }
}

function start(addresses: string[]) {
  const controller = new AbortController()
  const world = { ...imaginary(), ...handClock(), controller }
  const { connect, clock } = world
  return { ...world, won: race({ addresses, port: 80, signal: controller.signal, clock, connect }) }
}

t.test('families take turns, the preferred one first', async t => {
  t.same(interleave(['fd00::1', 'fd00::2', '10.0.0.1', 'fd00::3', '10.0.0.2']), [
    'fd00::1',
    '10.0.0.1',
    'fd00::2',
    '10.0.0.2',
    'fd00::3'
  ])
  t.same(interleave(['10.0.0.1', '10.0.0.2', '::1']), ['10.0.0.1', '::1', '10.0.0.2'])
  t.same(interleave(['10.0.0.1']), ['10.0.0.1'])
})

t.test('the second address starts after the delay, beside the first, and the loser is destroyed', async t => {
  const { won, sockets, turn, timers } = start(['fd00::1', '10.0.0.1'])
  turn(249)
  t.notOk(sockets.has('10.0.0.1'))
  turn(1)
  t.ok(sockets.has('10.0.0.1'))
  t.notOk(sockets.get('fd00::1')?.destroyed, 'the first goes on')

  sockets.get('fd00::1')?.emit('connect')

  t.equal(await won, sockets.get('fd00::1'))
  t.ok(sockets.get('10.0.0.1')?.destroyed)
  t.equal(timers.size, 0)
})

t.test('a failure starts the next address at once', async t => {
  const { won, sockets, fail, timers } = start(['fd00::1', '10.0.0.1'])

  fail('fd00::1', 'ENETUNREACH')
  sockets.get('10.0.0.1')?.emit('connect')

  t.equal(await won, sockets.get('10.0.0.1'))
  t.equal(timers.size, 0)
})

t.test('when all fail, all failures are told', async t => {
  const { won, fail, timers } = start(['fd00::1', '10.0.0.1'])

  fail('fd00::1', 'ENETUNREACH')
  fail('10.0.0.1', 'ECONNREFUSED')

  const error = await won.catch((error: unknown) => error)
  t.match(error, { message: 'fd00::1: ENETUNREACH, 10.0.0.1: ECONNREFUSED' })
  t.ok(error instanceof RaceError)
  t.equal(timers.size, 0)
})

t.test('an abort destroys all attempts and starts no other', async t => {
  const { won, sockets, turn, controller, timers } = start(['fd00::1', '10.0.0.1', 'fd00::2'])
  turn(250)

  controller.abort(new Error('enough'))

  await t.rejects(won, { message: 'enough' })
  t.ok(sockets.get('fd00::1')?.destroyed)
  t.ok(sockets.get('10.0.0.1')?.destroyed)
  turn(1000)
  t.equal(sockets.size, 2)
  t.equal(timers.size, 0)
  await t.rejects(
    race({ addresses: ['10.0.0.1'], port: 80, signal: controller.signal, clock: systemClock }),
    { message: 'enough' }
  )
})

async function listen(t: Test, host: string, onSocket: (socket: Socket) => void) {
  const server = createServer({ allowHalfOpen: true }, onSocket).listen(0, host)
  t.teardown(() => server.close())
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

for (const host of ['127.0.0.1', '::1']) {
  t.test(`nothing is read from a real socket to ${host} before its owner reads`, async t => {
    const port = await listen(t, host, socket => socket.end('server first'))
    const { signal } = new AbortController()

    const socket = await race({ addresses: [host], port, signal, clock: systemClock, allowHalfOpen: true })

    t.equal(socket.readableFlowing, null)
    const [chunk] = (await once(socket, 'data')) as [Buffer]
    t.equal(chunk.toString(), 'server first')
    await once(socket, 'end')
    t.ok(socket.writable, 'half-close is kept')
    socket.end()
    await once(socket, 'close')
  })
}
