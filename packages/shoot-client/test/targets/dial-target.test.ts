import { systemClock } from '@tendril/common'
import type { ErrorCode, Target } from '@tendril/common'
import { createPolicy } from '@tendril/common/policy/policy'
import type { PolicyOptions } from '@tendril/common/policy/policy'
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import { once } from 'node:events'
import { createServer, Socket } from 'node:net'
import type { AddressInfo, TcpNetConnectOpts } from 'node:net'
import t from 'tap'
import type { Test } from 'tap'
import { createTargetDial } from '../../src/targets/dial-target.js'
import type { TargetDialOptions } from '../../src/targets/dial-target.js'
import { dialContext } from '@tendril/common/test/support/dial-context'

const tcp = (host: string, port = 80): Target => ({ proto: 'tcp', host, port })
const signal = () => new AbortController().signal

async function listen(t: Test, host = '127.0.0.1', onSocket: (socket: Socket) => void = () => {}) {
  const sockets = new Set<Socket>()
  const server = createServer({ allowHalfOpen: true }, socket => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.once('close', () => {
      sockets.delete(socket)
      server.emit('socketClosed')
    })
    onSocket(socket)
  }).listen(0, host)
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  await once(server, 'listening')
  return { server, sockets, port: (server.address() as AddressInfo).port }
}

/** A dial whose sockets and time belong to the test. */
function imaginary(rules: PolicyOptions = {}, options: Partial<TargetDialOptions> = {}) {
  const clock = new FakeClock()
  const made: { host: string; socket: Socket }[] = []
  const connect = ({ host = '' }: TcpNetConnectOpts) => {
    const socket = new Socket()
    made.push({ host, socket })
    return socket
  }
  const results: (ErrorCode | 'OK')[] = []
  const metrics = { dialEnded: (code: ErrorCode | 'OK') => void results.push(code), connectionOpened() {} }
  const dial = createTargetDial({ policy: createPolicy(rules), clock, connect, metrics, ...options })
  return { dial, made, clock, results }
}

const real = (rules: PolicyOptions = { allow: ['127.0.0.0/8', '::1'] }) =>
  createTargetDial({ policy: createPolicy(rules), clock: systemClock })

t.test('a target is reached, over IPv4, IPv6 and by name, and what it says first is not lost', async t => {
  for (const host of ['127.0.0.1', '::1']) {
    const { port } = await listen(t, host, socket => socket.end('hello'))

    const socket = await real()(tcp(host, port), dialContext({ signal: signal() }))

    t.equal(socket.readableFlowing, null)
    t.equal(String((await once(socket, 'data'))[0]), 'hello')
    await once(socket, 'end')
    t.ok(socket.writable, 'half-close is kept')
    socket.end()
    await once(socket, 'close')
  }
  const { port } = await listen(t)
  const socket = await real()(tcp('localhost', port), dialContext({ signal: signal() }))
  socket.destroy()
})

t.test('targets that speak at once share a buffer and not one byte', async t => {
  const bytes = 2 << 20
  const dial = real()
  const said = await Promise.all(
    Array.from({ length: 8 }, async (_, i) => {
      const { port } = await listen(t, '127.0.0.1', socket => socket.end(Buffer.alloc(bytes, i)))
      const chunks: Buffer[] = []
      for await (const chunk of await dial(tcp('127.0.0.1', port), dialContext({ signal: signal() })))
        chunks.push(chunk as Buffer)
      return Buffer.concat(chunks)
    })
  )
  t.ok(said.every((received, i) => received.equals(Buffer.alloc(bytes, i))))
})

t.test('an error that destroys the Duplex resets the target, also while it is being ended', async t => {
  const { server, port } = await listen(t)
  for (const ended of [false, true]) {
    const accepted = once(server, 'connection') as Promise<[Socket]>
    const socket = await real()(tcp('127.0.0.1', port), dialContext({ signal: signal() }))
    const [far] = await accepted
    socket.on('error', () => {})
    const closed = new Promise(resolve => socket.once('close', resolve))
    const farEnd = new Promise(resolve => {
      far.once('error', (error: NodeJS.ErrnoException) => resolve(error.code))
      far.once('end', () => resolve('end'))
    })
    socket.write('half')
    // A reset in the same turn as bytes is read as an end by Node itself (libuv takes POLLHUP for EOF).
    await once(far, 'data')

    if (ended) socket.end()
    socket.destroy(new Error('the caller broke off'))

    await closed
    t.equal(await farEnd, ended ? 'end' : 'ECONNRESET')
  }
})

t.test('texts that are no plain address or name are refused before anything else', async t => {
  const { dial, made, results } = imaginary()
  const hosts = [
    '0177.0.0.1',
    '127.1',
    '2130706433',
    '0x7f.1',
    'fe80::1%eth0',
    'a b',
    '',
    '-'.repeat(300),
    'http://x',
    '10.0.0.1.',
    'a..b'
  ]
  for (const host of hosts)
    await t.rejects(dial(tcp(host), dialContext({ signal: signal() })), { code: 'BAD_TARGET' }, host)
  for (const port of [0, 65_536, -1, 1.5, NaN]) {
    await t.rejects(
      dial(tcp('10.0.0.1', port), dialContext({ signal: signal() })),
      { code: 'BAD_TARGET' },
      `${port}`
    )
  }
  for (const proto of ['udp', 'icmp'] as const) {
    await t.rejects(dial({ proto, host: '10.0.0.1', port: 53 }, dialContext({ signal: signal() })), {
      code: 'BAD_TARGET',
      detail: `${proto} is not supported by this client`
    })
  }
  t.same(made, [])
  t.equal(results.length, hosts.length + 7)
})

t.test('a denied address is not connected to, and the rule is told', async t => {
  const { dial, made } = imaginary({ deny: ['10.1.0.0/16'] })

  await t.rejects(dial(tcp('10.1.0.9', 22), dialContext({ signal: signal() })), {
    code: 'TARGET_DENIED',
    message: 'target denied: by the client\'s policy (rule "deny 10.1.0.0/16")'
  })
  await t.rejects(dial(tcp('169.254.169.254'), dialContext({ signal: signal() })), { code: 'TARGET_DENIED' })
  await t.rejects(dial(tcp('::ffff:169.254.169.254'), dialContext({ signal: signal() })), {
    code: 'TARGET_DENIED'
  })
  t.same(made, [])
})

t.test('of the addresses of a name only the allowed ones are tried', async t => {
  const answers: Record<string, string[]> = {
    'mixed.test': ['127.0.0.1', '10.0.0.1', 'fe80::1', '10.0.0.2'],
    'rebound.test': ['127.0.0.1', '::1'],
    'empty.test': [],
    'absolute.test.': ['fe80::1']
  }
  const { dial, made, clock } = imaginary({}, { resolve: async name => answers[name] ?? [] })

  const mixed = dial(tcp('mixed.test'), dialContext({ signal: signal() }))
  await new Promise(setImmediate)
  clock.tick(250)
  t.same(
    made.map(({ host }) => host),
    ['10.0.0.1', '10.0.0.2']
  )
  clock.tick(3_750)
  await t.rejects(mixed, { code: 'DIAL_TIMEOUT' })

  await t.rejects(dial(tcp('rebound.test'), dialContext({ signal: signal() })), {
    code: 'TARGET_DENIED',
    detail:
      "rebound.test is 127.0.0.1, by the client's policy (loopback addresses are denied unless an allow rule names them)"
  })
  await t.rejects(dial(tcp('absolute.test.'), dialContext({ signal: signal() })), { code: 'TARGET_DENIED' })
  await t.rejects(dial(tcp('empty.test'), dialContext({ signal: signal() })), { code: 'TARGET_NOT_FOUND' })
  t.equal(made.length, 2)
})

t.test('a name is resolved once per dial, anew for each, and connected to by address', async t => {
  let asked = 0
  const { port } = await listen(t)
  const hosts: (string | undefined)[] = []
  const dial = createTargetDial({
    policy: createPolicy({ allow: ['127.0.0.1'] }),
    clock: systemClock,
    resolve: async () => (++asked === 1 ? ['127.0.0.1'] : ['169.254.169.254']),
    connect: options => {
      hosts.push(options.host)
      return new Socket().connect(options)
    }
  })

  const socket = await dial(tcp('rebinding.test', port), dialContext({ signal: signal() }))
  socket.destroy()
  await t.rejects(dial(tcp('rebinding.test', port), dialContext({ signal: signal() })), {
    code: 'TARGET_DENIED'
  })

  t.equal(asked, 2)
  t.same(hosts, ['127.0.0.1'])
})

t.test('what the operating system says becomes a code and a sentence', async t => {
  const table: Record<string, ErrorCode> = {
    ECONNREFUSED: 'TARGET_REFUSED',
    EHOSTUNREACH: 'TARGET_UNREACHABLE',
    ENETUNREACH: 'TARGET_UNREACHABLE',
    EADDRNOTAVAIL: 'TARGET_UNREACHABLE',
    ETIMEDOUT: 'DIAL_TIMEOUT',
    ECONNRESET: 'TARGET_RESET',
    EMFILE: 'OVERLOADED',
    ENFILE: 'OVERLOADED',
    ENOBUFS: 'OVERLOADED',
    EWHATEVER: 'INTERNAL'
  }
  for (const [errno, code] of Object.entries(table)) {
    const { dial, made, clock } = imaginary()
    const dialled = dial(tcp('fd00::1', 8080), dialContext({ signal: signal() }))
    await new Promise(setImmediate)
    made[0]!.socket.destroy(Object.assign(new Error(errno), { code: errno }))
    await t.rejects(dialled, { code, detail: '[fd00::1]:8080' }, errno)
    t.equal(clock.pending, 0)
  }
  for (const [errno, code] of [
    ['ENOTFOUND', 'TARGET_NOT_FOUND'],
    ['EAI_AGAIN', 'TARGET_NOT_FOUND'],
    ['EMFILE', 'OVERLOADED']
  ] as const) {
    const { dial } = imaginary(
      {},
      { resolve: () => Promise.reject(Object.assign(new Error(errno), { code: errno })) }
    )
    await t.rejects(
      dial(tcp('db.svc'), dialContext({ signal: signal() })),
      { code, detail: /^db\.svc/ },
      errno
    )
  }
})

t.test('when the addresses of a name fail differently, the most telling failure is the code', async t => {
  const { dial, made } = imaginary({}, { resolve: async () => ['fd00::1', '10.0.0.1'] })
  const dialled = dial(tcp('db.svc', 5432), dialContext({ signal: signal() }))
  await new Promise(setImmediate)
  made[0]!.socket.destroy(Object.assign(new Error('no route'), { code: 'ENETUNREACH' }))
  await new Promise(setImmediate)
  made[1]!.socket.destroy(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }))

  await t.rejects(dialled, {
    message: 'connection refused: db.svc:5432 (fd00::1 ENETUNREACH, 10.0.0.1 ECONNREFUSED)'
  })
})

t.test('a refused port is refused at once', async t => {
  const { server, port } = await listen(t)
  server.close()
  await once(server, 'close')

  await t.rejects(real()(tcp('127.0.0.1', port), dialContext({ signal: signal() })), {
    code: 'TARGET_REFUSED',
    detail: `127.0.0.1:${port}`
  })
})

t.test('the bound covers a black hole, and a name service that is silent', async t => {
  const blackHole = imaginary()
  const dialled = blackHole.dial(tcp('10.0.0.1', 443), dialContext({ signal: signal() }))
  await new Promise(setImmediate)
  blackHole.clock.tick(3_999)
  t.notOk(blackHole.made[0]!.socket.destroyed)
  blackHole.clock.tick(1)
  await t.rejects(dialled, { code: 'DIAL_TIMEOUT', detail: '10.0.0.1:443 did not answer within 4000 ms' })
  t.ok(blackHole.made[0]!.socket.destroyed)
  t.equal(blackHole.clock.pending, 0)

  const silent = imaginary(
    {},
    {
      resolve: (_, signal) =>
        new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    }
  )
  const asking = silent.dial(tcp('db.svc'), dialContext({ signal: signal(), timeoutMs: 100 }))
  silent.clock.tick(100)
  await t.rejects(asking, {
    code: 'DIAL_TIMEOUT',
    detail: 'the nameserver asked for db.svc did not answer within 100 ms'
  })
  t.same(silent.results, ['DIAL_TIMEOUT'])
})

t.test('an abort at any stage leaves nothing open', async t => {
  const already = imaginary()
  await t.rejects(already.dial(tcp('10.0.0.1'), dialContext({ signal: AbortSignal.abort() })), {
    code: 'DIAL_CANCELLED'
  })
  t.same(already.made, [])
  t.equal(already.clock.pending, 0)

  const connecting = imaginary()
  const controller = new AbortController()
  const dialled = connecting.dial(tcp('10.0.0.1'), dialContext({ signal: controller.signal }))
  await new Promise(setImmediate)
  controller.abort()
  await t.rejects(dialled, { code: 'DIAL_CANCELLED', message: 'caller left: 10.0.0.1:80' })
  t.ok(connecting.made[0]!.socket.destroyed)
  t.equal(connecting.clock.pending, 0)

  const { server, sockets, port } = await listen(t)
  for (let i = 0; i < 50; i++) {
    const leaving = new AbortController()
    const orphan = real()(tcp('127.0.0.1', port), dialContext({ signal: leaving.signal }))
    queueMicrotask(() => leaving.abort())
    await t.rejects(orphan, { code: 'DIAL_CANCELLED' })
  }
  const last = await real()(tcp('127.0.0.1', port), dialContext({ signal: signal() }))
  for (const socket of sockets) socket.resume().once('end', () => socket.end())
  last.resume().end()
  while (sockets.size > 0) await once(server, 'socketClosed')
  t.pass('the target has no connection left')
})

t.test('an abort after the dial does nothing', async t => {
  const { port } = await listen(t, '127.0.0.1', socket => socket.pipe(socket))
  const controller = new AbortController()
  const socket = await real()(tcp('127.0.0.1', port), dialContext({ signal: controller.signal }))

  controller.abort()
  socket.write('still here')

  t.equal(String((await once(socket, 'data'))[0]), 'still here')
  socket.destroy()
})

t.test('one dial more than allowed at once is refused, and the next after one ended is not', async t => {
  const { dial, made, clock } = imaginary({}, { limits: { maxPendingDials: 2 } })
  const controller = new AbortController()
  const first = dial(tcp('10.0.0.1'), dialContext({ signal: controller.signal }))
  const second = dial(tcp('10.0.0.2'), dialContext({ signal: signal() }))

  await t.rejects(dial(tcp('10.0.0.3'), dialContext({ signal: signal() })), { code: 'OVERLOADED' })
  controller.abort()
  await t.rejects(first, { code: 'DIAL_CANCELLED' })
  const fourth = dial(tcp('10.0.0.4'), dialContext({ signal: signal() }))
  await new Promise(setImmediate)

  t.same(
    made.map(({ host }) => host),
    ['10.0.0.1', '10.0.0.2', '10.0.0.4']
  )
  clock.tick(4_000)
  await t.rejects(second, { code: 'DIAL_TIMEOUT' })
  await t.rejects(fourth, { code: 'DIAL_TIMEOUT' })
})
