import { once } from 'node:events'
import { type Socket, connect } from 'node:net'
import { connect as connectTls } from 'node:tls'
import t, { type Test } from 'tap'
import { type Dial, type DialContext, type Target, TunnelError } from '@tendril/common'
import { createLog } from '@tendril/common/log'
import { EARLY_LIMIT_BYTES, type FrontObserver } from '../../src/front/caller.js'
import { type Front, type FrontOptions, OVERFLOW_CONNECTIONS, listenFront } from '../../src/front/front.js'
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import {
  FakeBundle,
  type Pem,
  Pki,
  Raw,
  connectTo,
  duplexPair,
  listenTcp,
  rawPlain,
  rawTls,
  silent,
  tcpDial
} from '../support.js'

const ESTABLISHED = 'HTTP/1.1 200 Connection established\r\n\r\n'
const loopback = { host: '127.0.0.1', port: 0 }

type T = Test

async function open(
  t: T,
  options: Partial<FrontOptions>
): Promise<Front & { at: { host: string; port: number } }> {
  const front = await listenFront({
    name: 'test',
    listen: loopback,
    route: () => 'demo',
    dial: () => tcpDial,
    log: silent,
    ...options
  })
  t.teardown(() => front.close())
  return Object.assign(front, { at: front.address as { host: string; port: number } })
}

async function openTls(t: T, options: Partial<FrontOptions> = {}) {
  const pki = new Pki()
  const bundle = new FakeBundle(pki.server(), pki.ca)
  const front = await open(t, { certificates: bundle, ...options })
  const caller = pki.leaf({ commonName: 'kube-apiserver', uris: ['tendril://caller/kube-apiserver'] })
  return { pki, bundle, front, caller, tls: { ...front.at, ca: pki.ca, ...caller } }
}

/** A Dial that settles when the test says so. */
function heldDial() {
  const calls: {
    target: Target
    signal: AbortSignal
    resolve: (stream: any) => void
    reject: (error: unknown) => void
  }[] = []
  const dial: Dial = (target, { signal }) =>
    new Promise((resolve, reject) => void calls.push({ target, signal, resolve, reject }))
  return { calls, dial: () => dial }
}

async function aborted(signal: AbortSignal): Promise<TunnelError> {
  if (!signal.aborted) await once(signal, 'abort')
  return signal.reason
}

async function turns(count = 20): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise(resolve => setImmediate(resolve))
}

t.test('kube-apiserver reaches a target: 200 in a read of its own, then bytes both ways', async t => {
  const port = await listenTcp(t, socket => socket.pipe(socket))
  const { front, tls } = await openTls(t)

  const raw = await rawTls(t, tls)
  raw.write(connectTo(port))
  await raw.until(() => raw.reads.length > 0)
  t.same(raw.reads, [ESTABLISHED])
  raw.write('ping')
  await raw.untilText('ping')
  t.equal(front.connections, 1)
  t.equal(raw.socket.getProtocol(), 'TLSv1.3')
  raw.socket.end()
  await raw.untilClosed()

  t.same(raw.reads, [ESTABLISHED, 'ping'])
})

t.test('a dial carries who asks, at which front, and a trace id that the log lines have too', async t => {
  const lines: Record<string, unknown>[] = []
  const log = createLog({ destination: { write: line => void lines.push(JSON.parse(line)) } })
  const contexts: DialContext[] = []
  const dial = (): Dial => async (_target, context) => {
    contexts.push(context)
    throw new TunnelError('TARGET_REFUSED')
  }
  const { front: tlsFront, tls, pki } = await openTls(t, { dial, log })
  const plain = await open(t, { dial, log, name: 'plain' })
  const other = pki.leaf({ commonName: 'Jane Doe' })

  for (const raw of [
    await rawTls(t, tls),
    await rawTls(t, { ...tls, ...other }),
    await rawPlain(t, plain.at)
  ]) {
    await raw.write(connectTo(1)).untilText('\r\n\r\n')
  }

  t.match(contexts, [
    { principal: { kind: 'caller', name: 'kube-apiserver' }, front: tlsFront.name, hops: 0 },
    { principal: { kind: 'caller', name: 'Jane%20Doe' }, front: tlsFront.name, hops: 0 },
    { principal: { kind: 'local', name: 'loopback:plain' }, front: 'plain', hops: 0 }
  ])
  const refused = lines.filter(({ msg }) => msg === 'request refused')
  t.match(
    refused.map(({ principal }) => principal),
    ['caller/kube-apiserver', 'caller/Jane%20Doe', 'local/loopback:plain']
  )
  t.same(
    refused.map(({ traceId }) => traceId),
    contexts.map(({ traceId }) => traceId)
  )
  t.equal(new Set(contexts.map(({ traceId }) => traceId)).size, 3)
})

t.test('bytes of a target that speaks first never share a read with the 200', async t => {
  const port = await listenTcp(t, socket => socket.end('220 welcome\r\n'))
  const { tls } = await openTls(t)

  for (let round = 0; round < 20; round++) {
    const raw = await rawTls(t, tls)
    raw.write(connectTo(port))
    await raw.untilText('welcome')
    t.same(raw.reads, [ESTABLISHED, '220 welcome\r\n'])
    raw.socket.end()
    await raw.untilClosed()
  }
})

t.test('server-first bytes wait for the caller, or for a short delay', async t => {
  const clock = new FakeClock()
  const port = await listenTcp(t, socket => socket.write('hello'))
  const { front } = { front: await open(t, { clock, firstByteDelayMs: 10 }) }

  const quiet = await rawPlain(t, front.at)
  await quiet.write(connectTo(port)).untilText('200')
  await turns()
  t.equal(quiet.text, ESTABLISHED, 'held back')
  clock.tick(9)
  await turns()
  t.equal(quiet.text, ESTABLISHED)
  clock.tick(1)
  await quiet.untilText('hello')

  const eager = await rawPlain(t, front.at)
  await eager.write(connectTo(port)).untilText('200')
  await eager.write('x').untilText('hello')
})

t.test('half-close is kept both ways', async t => {
  const port = await listenTcp(t, socket => {
    let got = 0
    socket.on('data', chunk => (got += chunk.length))
    socket.on('end', () => socket.end(`got ${got}`))
  })
  const { front, tls } = await openTls(t)

  for (const raw of [await rawTls(t, tls), await rawPlain(t, (await open(t, {})).at)]) {
    await raw.write(connectTo(port)).untilText('200')
    raw.write('x'.repeat(100_000)).socket.end()
    await raw.untilClosed()
    t.equal(raw.text, `${ESTABLISHED}got 100000`)
  }
  t.equal(front.connections, 0)
})

t.test('a caller may half-close together with its first byte, or without any', async t => {
  const port = await listenTcp(t, socket => {
    let text = ''
    socket.on('data', chunk => (text += chunk.toString()))
    socket.on('end', () => socket.end(`<${text}>`))
  })
  const front = await open(t, {})

  for (const last of ['bye', '']) {
    const raw = await rawPlain(t, front.at)
    await raw.write(connectTo(port)).untilText('200')
    raw.socket.end(last)
    await raw.untilClosed()
    t.equal(raw.text, `${ESTABLISHED}<${last}>`)
  }
})

t.test('a caller may say all it has to say and half-close before its answer', async t => {
  const port = await listenTcp(t, socket => {
    let text = ''
    socket.on('data', chunk => (text += chunk.toString()))
    socket.on('end', () => socket.end(`<${text}>`))
  })
  const carried: number[] = []
  const observer: FrontObserver = {
    answered: () => {},
    open: () => {},
    carried: ({ upBytes }) => carried.push(upBytes)
  }
  const { tls } = await openTls(t, { observer })
  const ways = [() => rawTls(t, tls), async () => rawPlain(t, (await open(t, { observer })).at)]

  for (const way of ways) {
    const raw = await way()
    raw.socket.end(`${connectTo(port)}whole request`)
    await raw.untilClosed()
    t.equal(raw.text, `${ESTABLISHED}<whole request>`)
  }
  t.same(carried, ['whole request'.length, 'whole request'.length])
})

t.test('a target that breaks off resets the caller, and the other way round', async t => {
  const atTarget: Socket[] = []
  const port = await listenTcp(t, socket => void atTarget.push(socket))
  const front = await open(t, {})

  const first = await rawPlain(t, front.at)
  await first.write(connectTo(port)).untilText('200')
  let code: string | undefined
  first.socket.on('error', (error: NodeJS.ErrnoException) => (code = error.code))
  atTarget[0]!.resetAndDestroy()
  await first.untilClosed()
  t.equal(code, 'ECONNRESET')

  const second = await rawPlain(t, front.at)
  await second.write(connectTo(port)).untilText('200')
  const failed = new Promise<NodeJS.ErrnoException>(resolve => atTarget[1]!.on('error', resolve))
  second.socket.resetAndDestroy()
  t.equal((await failed).code, 'ECONNRESET')
})

t.test('who cannot be let in is told why, before anything it sends is looked at', async t => {
  const { pki, tls, front } = await openTls(t, { dial: () => () => t.fail('dialled') as never })
  const untrusted = new Pki('other ca').leaf({ commonName: 'mallory' })
  const day = 86_400_000
  const cases: [name: string, own: object, status: RegExp][] = [
    [
      'no certificate',
      { cert: undefined, key: undefined },
      /^HTTP\/1\.1 407 caller not identified: no client certificate was presented\r\n/
    ],
    ['a foreign authority', untrusted, /^HTTP\/1\.1 407 .*"mallory" is signed by an unknown authority/],
    [
      'expired',
      pki.leaf({ now: new Date(Date.now() - 30 * day), validityDays: 1 }),
      /^HTTP\/1\.1 407 .*expired on/
    ],
    ['for servers only', pki.leaf({ usages: ['serverAuth'] }), /^HTTP\/1\.1 407 .*clientAuth/],
    [
      'a tunnel client',
      pki.leaf({ uris: ['tendril://client/demo'] }),
      /^HTTP\/1\.1 403 caller not allowed: .*of a client/
    ],
    [
      'a server',
      pki.leaf({ uris: ['tendril://server'] }),
      /^HTTP\/1\.1 403 caller not allowed: .*of a server/
    ]
  ]

  for (const [name, own, status] of cases) {
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      const raw = await rawTls(t, { ...tls, ...own, maxVersion })
      raw.write(connectTo(1))
      await raw.until(() => raw.ended)
      t.match(raw.text, status, `${name}, ${maxVersion}`)
      raw.socket.end()
      await raw.untilClosed()
    }
  }
  while (front.connections > 0) await turns(1)
})

t.test('a list of callers lets in those it names', async t => {
  const port = await listenTcp(t, socket => socket.pipe(socket))
  const { pki, tls } = await openTls(t, { callers: ['kube-apiserver', 'prometheus'] })
  const own = [
    pki.leaf({ commonName: 'x', uris: ['tendril://caller/kube-apiserver'] }),
    pki.leaf({ commonName: 'prometheus' }),
    pki.leaf({ commonName: 'x', hosts: ['prometheus'] })
  ]

  for (const leaf of own) {
    const raw = await rawTls(t, { ...tls, ...leaf })
    await raw.write(connectTo(port)).untilText('200')
  }
  const other = await rawTls(t, { ...tls, ...pki.leaf({ commonName: 'grafana' }) })
  await other.untilText('\r\n\r\n')
  t.match(other.text, /^HTTP\/1\.1 403 caller not allowed: "grafana" is not in the list of callers/)
})

t.test('a certificate of a client or of a server is refused, though callers names it', async t => {
  const { pki, tls } = await openTls(t, {
    dial: () => () => t.fail('dialled') as never,
    callers: ['vpn-shoot-client', 'vpn-seed-server', 'shoot.test'],
    tunnel: {
      clusters: [
        { name: 'demo', identities: { commonNames: ['vpn-shoot-client'] } },
        { name: 'other', identities: { dnsNames: ['shoot.test'] } }
      ],
      peers: { commonNames: ['vpn-seed-server'] }
    }
  })

  for (const [leaf, why] of [
    [pki.leaf({ commonName: 'vpn-shoot-client' }), /identity of a client of cluster "demo"/],
    [pki.leaf({ hosts: ['shoot.test'] }), /identity of a client of cluster "other"/],
    [pki.leaf({ commonName: 'vpn-seed-server' }), /identity of a server/]
  ] as const) {
    const raw = await rawTls(t, { ...tls, ...leaf })
    await raw.write(connectTo(1)).untilText('\r\n\r\n')
    t.match(raw.text, /^HTTP\/1\.1 403 caller not allowed: /)
    t.match(raw.text, why)
  }
})

t.test("without callers the tunnel's authority makes a caller only of tendril://caller/NAME", async t => {
  const port = await listenTcp(t, socket => socket.pipe(socket))
  const [theirs, ours] = [new Pki('clients ca'), new Pki('callers ca')]
  const certificates = new FakeBundle(ours.server(), ours.ca)
  const tunnel = new FakeBundle(theirs.server(), theirs.ca)
  const front = await open(t, { certificates, tunnel: { certificates: tunnel } })
  const answer = async (leaf: Pem): Promise<string> => {
    const raw = await rawTls(t, { ...front.at, ca: [ours.ca, theirs.ca], ...leaf })
    await raw.write(connectTo(port)).untilText('\r\n\r\n')
    return raw.text.split('\r\n')[0]!
  }
  const plain = ours.leaf({ commonName: 'somebody' })
  const caller = ours.leaf({ uris: ['tendril://caller/x'] })

  t.match(await answer(plain), / 200 /, 'other authorities: its own decide')

  // As text another file: with a comment, or in another order, it is the same authority.
  tunnel.change(theirs.server(), `${ours.ca}\n`)
  t.match(
    await answer(plain),
    / 403 .*CN "somebody" is not a tendril:\/\/caller\/NAME, .*add its name to callers of the front$/
  )
  t.match(await answer(caller), / 200 /)

  certificates.change(theirs.server(), theirs.ca)
  t.match(await answer(theirs.leaf({ commonName: 'somebody' })), / 200 /, 'both files have changed')
})

t.test('a front without callers says at its start that it shares authorities with the tunnel', async t => {
  const [ours, theirs] = [new Pki(), new Pki()]
  const warnings = async (clients: Pki, options: Partial<FrontOptions> = {}): Promise<string[]> => {
    const lines: string[] = []
    await open(t, {
      certificates: new FakeBundle(ours.server(), ours.ca),
      tunnel: { certificates: new FakeBundle(clients.server(), clients.ca) },
      log: createLog({ level: 'warn', destination: { write: line => void lines.push(line) } }),
      ...options
    })
    return lines
  }

  t.match(await warnings(ours), [/"front":"test".*callers is not set/])
  t.same(await warnings(ours, { callers: ['kube-apiserver'] }), [])
  t.same(await warnings(theirs), [])
})

t.test('plain HTTP on a TLS front and TLS on a plain front are told apart', async t => {
  const { front } = await openTls(t)
  const plain = await open(t, {})

  for (const request of [connectTo(1), 'GET / HTTP/1.1\r\n\r\n']) {
    const raw = await rawPlain(t, front.at)
    await raw.write(request).untilText('front is TLS\n')
    t.match(raw.text, /^HTTP\/1\.1 400 bad request: this looks like plain HTTP, but this front is TLS\r\n/)
    raw.socket.end()
    await raw.untilClosed()
  }

  const hello = connectTls({ ...plain.at, rejectUnauthorized: false })
  hello.on('error', () => {})
  t.teardown(() => hello.destroy())
  await new Promise(resolve => hello.on('close', resolve))
  const raw = await rawPlain(t, plain.at)
  await raw.write('\x16\x03\x01').untilText('this front is plain\n')
})

t.test('random bytes and broken handshakes disturb nobody', async t => {
  const port = await listenTcp(t, socket => socket.pipe(socket))
  const { front, tls } = await openTls(t)
  const plain = await open(t, {})
  const good = await rawTls(t, tls)
  await good.write(connectTo(port)).untilText('200')

  const noise = Array.from({ length: 2_000 }, (_, index) => (index * 7919 + 13) % 256)
  for (const at of [front.at, plain.at]) {
    for (const bytes of [
      Buffer.from(noise),
      Buffer.from([0x16, 3, 1, 2, 0, ...noise]),
      Buffer.alloc(100_000)
    ]) {
      const raw = await rawPlain(t, at)
      raw.write(bytes)
      raw.socket.end()
      await raw.untilClosed()
    }
  }

  await good.write('still here').untilText('still here')
  t.equal(front.connections, 1)
})

t.test('the cause of a failed dial stands in the status line', async t => {
  const failures: [error: unknown, status: string][] = [
    [new TunnelError('TARGET_REFUSED', '10.0.0.5:80'), '502 connection refused: 10.0.0.5:80'],
    [new TunnelError('TARGET_UNREACHABLE'), '502 target unreachable'],
    [new TunnelError('TARGET_NOT_FOUND', 'x.test'), '502 no such host: x.test'],
    [new TunnelError('TARGET_DENIED', 'by the client'), '403 target denied: by the client'],
    [new TunnelError('NO_CLIENT', 'for cluster demo'), '503 no client connected for cluster demo'],
    [new TunnelError('DIAL_TIMEOUT'), '504 dial timed out'],
    [new Error('boo'), '500 internal error: boo']
  ]
  let failure: unknown
  const front = await open(t, { dial: () => () => Promise.reject(failure) })

  for (const [error, status] of failures) {
    failure = error
    const raw = await rawPlain(t, front.at)
    await raw.write(connectTo(80)).until(() => raw.ended)
    t.equal(raw.text.split('\r\n')[0], `HTTP/1.1 ${status}`)
    raw.socket.end()
    await raw.untilClosed()
  }
})

t.test('a route that knows no cluster answers 404', async t => {
  const { tls } = await openTls(t, {
    route: name => {
      throw new TunnelError('UNKNOWN_CLUSTER', `asked for ${String(name)}`)
    }
  })

  const named = await rawTls(t, { ...tls, servername: 'localhost' })
  await named.write(connectTo(80)).untilText('\r\n\r\n')
  t.match(named.text, /^HTTP\/1\.1 404 unknown cluster: asked for localhost\r\n/)
  const nameless = await rawTls(t, { ...tls, servername: '' })
  await nameless.write(connectTo(80)).untilText('\r\n\r\n')
  t.match(nameless.text, /^HTTP\/1\.1 404 unknown cluster: asked for undefined\r\n/)
})

t.test('a dial that never settles is answered 504, and its late stream is destroyed', async t => {
  const clock = new FakeClock()
  const { calls, dial } = heldDial()
  const front = await open(t, { clock, dial })
  const raw = await rawPlain(t, front.at)
  raw.write(connectTo(80))
  while (calls.length === 0) await turns(1)

  clock.tick(3_999)
  await turns()
  t.equal(raw.text, '')
  clock.tick(1)
  await raw.untilText('\r\n\r\n')

  t.match(raw.text, /^HTTP\/1\.1 504 dial timed out: 127\.0\.0\.1:80 did not answer within 4000 ms\r\n/)
  t.equal(calls[0]!.signal.aborted, true)
  const [near] = duplexPair()
  calls[0]!.resolve(near)
  await once(near, 'close')
})

t.test('a caller who leaves during the dial cancels it', async t => {
  const { calls, dial } = heldDial()
  const front = await open(t, { dial })
  const ways: [name: string, leave: (socket: Socket) => void][] = [
    ['close', socket => socket.destroy()],
    ['reset', socket => socket.resetAndDestroy()],
    ['half-close', socket => socket.end()]
  ]

  for (const [name, leave] of ways) {
    const raw = await rawPlain(t, front.at)
    raw.write(connectTo(80))
    while (calls.length === 0) await turns(1)
    const { signal } = calls.pop()!
    t.equal(signal.aborted, false)
    leave(raw.socket)
    t.equal((await aborted(signal)).code, 'DIAL_CANCELLED', name)
    await raw.untilClosed()
  }
  while (front.connections > 0) await turns(1)
})

t.test('the same over TLS', async t => {
  const { calls, dial } = heldDial()
  const { front, tls } = await openTls(t, { dial })

  for (const leave of ['destroy', 'end'] as const) {
    const raw = await rawTls(t, tls)
    raw.write(connectTo(80))
    while (calls.length === 0) await turns(1)
    const { signal } = calls.pop()!
    raw.socket[leave]()
    t.equal((await aborted(signal)).code, 'DIAL_CANCELLED')
    await raw.untilClosed()
  }
  while (front.connections > 0) await turns(1)
})

t.test('bytes sent ahead of the 200 are kept, in order, and bounded by not reading on', async t => {
  const { calls, dial } = heldDial()
  const front = await open(t, { dial })
  const raw = await rawPlain(t, front.at)
  const sent = Buffer.alloc(24_000_000, 'abcdefghi')
  raw.write(Buffer.concat([Buffer.from(connectTo(80)), sent.subarray(0, 10)]))
  while (calls.length === 0) await turns(1)
  raw.write(sent.subarray(10))
  raw.socket.end()
  await turns(200)
  t.ok(raw.socket.writableLength > 0, 'the caller is slowed down')
  t.ok(sent.length > 4 * EARLY_LIMIT_BYTES)

  const [near, far] = duplexPair()
  calls[0]!.resolve(near)
  const got: Buffer[] = []
  far.on('data', (chunk: Buffer) => got.push(chunk))
  await once(far, 'end')

  t.ok(Buffer.concat(got).equals(sent))
  far.end('done')
  await raw.untilClosed()
  t.equal(raw.text, `${ESTABLISHED}done`)
})

t.test('the head has a limit in bytes, and a caller who goes on is not listened to for long', async t => {
  const front = await open(t, {
    headerLimitBytes: 100,
    dial: () => () => Promise.reject(new TunnelError('NO_CLIENT'))
  })
  const head = (bytes: number): string => {
    const start = 'CONNECT a:1 HTTP/1.1\r\nX: '
    return `${start}${'y'.repeat(bytes - start.length - 4)}\r\n\r\n`
  }

  for (const [bytes, status] of [
    [99, 503],
    [100, 503],
    [101, 431]
  ] as const) {
    const raw = await rawPlain(t, front.at)
    await raw.write(head(bytes)).untilText('\r\n\r\n')
    t.match(raw.text, new RegExp(`^HTTP/1\\.1 ${status} `), `${bytes} bytes`)
  }

  const flood = await rawPlain(t, front.at)
  const chunk = Buffer.alloc(1_000_000, 'X: yyyyy\r\n')
  flood.write('CONNECT a:1 HTTP/1.1\r\n')
  for (let sent = 0; sent < 10; sent++) flood.write(chunk)
  await flood.untilText('\r\n\r\n')
  t.match(flood.text, /^HTTP\/1\.1 431 request header too large: at most 100 bytes are accepted\r\n/)
})

t.test('a refused caller that keeps the line is cut off', async t => {
  const clock = new FakeClock()
  const front = await open(t, { clock })
  const raw = await rawPlain(t, front.at)
  await raw.write('GET / HTTP/1.1\r\n\r\n').until(() => raw.ended)
  t.match(raw.text, /^HTTP\/1\.1 405 .*\r\nAllow: CONNECT\r\n/s)

  raw.write('and another thing')
  await turns()
  t.equal(front.connections, 1)
  clock.tick(1_000)

  while (front.connections > 0) await turns(1)
  t.equal(clock.pending, 0)
})

t.test('a head has to be complete in time, however busily it trickles', async t => {
  const clock = new FakeClock()
  const front = await open(t, { clock })
  const silent = await rawPlain(t, front.at)
  const slow = await rawPlain(t, front.at)
  while (front.connections < 2) await turns(1)

  for (const byte of 'CONNECT a') {
    slow.write(byte)
    await turns(3)
    clock.tick(1_100)
  }
  t.equal(slow.text, '')
  clock.tick(100)

  await slow.until(() => slow.ended)
  await silent.until(() => silent.ended)
  t.match(slow.text, /^HTTP\/1\.1 408 request header took too long\r\n/)
  t.match(silent.text, /^HTTP\/1\.1 408 /)
})

t.test('half a TLS handshake is dropped in time', async t => {
  const { front, tls } = await openTls(t, { headerTimeoutMs: 150 })
  const silent = await rawPlain(t, front.at)
  const half = await rawPlain(t, front.at)
  half.write(Buffer.from([0x16, 3, 1, 2, 0, 1]))

  await silent.until(() => silent.ended)
  await half.until(() => half.ended)
  const idle = await rawTls(t, tls)
  await idle.until(() => idle.ended)

  t.match(idle.text, /^HTTP\/1\.1 408 /, 'a handshake does not buy more time')
  idle.socket.end()
  await idle.untilClosed()
  while (front.connections > 0) await turns(1)
})

t.test('a connection that ends in the middle of its handshake is gone at once', async t => {
  const { front } = await openTls(t)

  for (const begun of ['', '1603010200010001fc0303']) {
    const probe = await rawPlain(t, front.at)
    while (front.connections < 1) await turns(1)
    probe.write(Buffer.from(begun, 'hex')).socket.end()
    await probe.untilClosed()
    while (front.connections > 0) await turns(1)
  }
})

t.test('callers beyond the limit are told so, and those inside are served on', async t => {
  const port = await listenTcp(t, socket => socket.pipe(socket))
  const { front, tls } = await openTls(t, { maxConnections: 3 })
  const plain = await open(t, { maxConnections: 3 })

  for (const enter of [() => rawTls(t, tls), () => rawPlain(t, plain.at)]) {
    const inside: Raw[] = []
    for (let count = 1; count <= 3; count++) {
      const raw = await enter()
      await raw.write(connectTo(port)).untilText('200')
      inside.push(raw)
    }
    const fourth = await enter()
    await fourth.untilText('\r\n\r\n')
    t.match(fourth.text, /^HTTP\/1\.1 503 overloaded: at most 3 callers at once\r\n/)
    fourth.socket.end()
    await fourth.untilClosed()

    inside[0]!.socket.destroy()
    await turns()
    const next = await enter()
    await next.write(connectTo(port)).untilText('200')
    await inside[1]!.write('alive').untilText('alive')
  }
  t.equal(front.connections, 3)
})

for (const shared of [false, true]) {
  const whose = shared ? 'of a worker' : 'of its own'
  t.test(`far beyond the limit ${whose} connections are dropped, and the count stays bounded`, async t => {
    const front = await open(t, { maxConnections: 1, dial: heldDial().dial, shared })
    const sockets = Array.from({ length: OVERFLOW_CONNECTIONS + 50 }, () => connect(front.at))
    t.teardown(() => sockets.forEach(socket => socket.destroy()))
    for (const socket of sockets) socket.on('error', () => {})

    let most = 0
    for (let turn = 0; turn < 200; turn++) {
      await turns(1)
      most = Math.max(most, front.connections)
    }

    t.ok(most <= OVERFLOW_CONNECTIONS + 1, `${most} at most`)
  })
}

t.test('a thousand callers wait for their dials; all are let go when the front closes', async t => {
  const { calls, dial } = heldDial()
  const front = await open(t, { dial })
  const raws: Raw[] = []
  for (let count = 0; count < 1_000; count++) {
    const socket = connect(front.at)
    t.teardown(() => socket.destroy())
    raws.push(new Raw(socket).write(connectTo(80)))
  }
  while (calls.length < 1_000) await turns(1)
  t.equal(front.connections, 1_000)

  calls[500]!.reject(new TunnelError('TARGET_REFUSED'))
  await Promise.race(raws.map(raw => raw.untilText('502')))
  await front.close()

  t.equal(front.connections, 0)
  t.ok(calls.every(({ signal }, index) => index === 500 || signal.aborted))
  await Promise.all(raws.map(raw => raw.untilClosed()))
})

t.test('a front that stops accepting serves on those inside; closing twice is fine', async t => {
  const port = await listenTcp(t, socket => socket.pipe(socket))
  const front = await open(t, {})
  const raw = await rawPlain(t, front.at)
  await raw.write(connectTo(port)).untilText('200')

  void front.stopAccepting()
  void front.stopAccepting()

  await t.rejects(rawPlain(t, front.at), { code: 'ECONNREFUSED' })
  await raw.write('alive').untilText('alive')
  await Promise.all([front.close(), front.close()])
  await raw.untilClosed()
})

t.test('new certificates are shown to new callers, and open tunnels live on', async t => {
  const port = await listenTcp(t, socket => socket.pipe(socket))
  const { pki, bundle, tls } = await openTls(t)
  const old = await rawTls(t, tls)
  await old.write(connectTo(port)).untilText('200')

  const next = new Pki('next ca')
  bundle.change(next.server({ commonName: 'renewed' }), next.ca, pki.ca)

  const fresh = await rawTls(t, { ...tls, ca: next.ca, ...next.leaf() })
  await fresh.write(connectTo(port)).untilText('200')
  t.equal(fresh.socket.getPeerCertificate().subject.CN, 'renewed')
  await old.write('alive').untilText('alive')
})

t.test('a tunnel is reset when its authority is accepted no more, and another one lives on', async t => {
  const port = await listenTcp(t, socket => socket.pipe(socket))
  const { pki, bundle, tls, caller, front } = await openTls(t)
  const next = new Pki('next ca')
  bundle.change(pki.server(), pki.ca, next.ca)
  const [old, fresh] = [await rawTls(t, tls), await rawTls(t, { ...tls, ...next.leaf() })]
  for (const raw of [old, fresh]) await raw.write(connectTo(port)).untilText('200')
  let code: string | undefined
  old.socket.on('error', (error: NodeJS.ErrnoException) => (code = error.code))

  bundle.change(next.server(), next.ca)

  await old.untilClosed()
  t.equal(code, 'ECONNRESET', 'half an answer does not look whole')
  await fresh.write('alive').untilText('alive')
  const outdated = await rawTls(t, { ...tls, ca: next.ca, ...caller })
  await outdated.untilText('\r\n\r\n')
  t.match(outdated.text, /^HTTP\/1\.1 407 /)
  outdated.socket.destroy()
  while (front.connections > 1) await turns(1)
})

t.test('TLS: 1.2 and 1.3, AES-128 and X25519 preferred, nothing older, no ALPN unless asked for', async t => {
  const { tls } = await openTls(t)
  const asked = await openTls(t, { alpnProtocols: ['http/1.1'] })

  for (const [version, cipher] of [
    ['TLSv1.2', 'ECDHE-ECDSA-AES128-GCM-SHA256'],
    ['TLSv1.3', 'TLS_AES_128_GCM_SHA256']
  ] as const) {
    const { socket } = await rawTls(t, {
      ...tls,
      minVersion: version,
      maxVersion: version,
      ALPNProtocols: ['h2']
    })
    t.equal(socket.getCipher().name, cipher)
    t.match(socket.getEphemeralKeyInfo(), { name: 'X25519' })
    t.equal(socket.alpnProtocol, false)
  }
  const { socket } = await rawTls(t, { ...asked.tls, ALPNProtocols: ['h2', 'http/1.1'], ecdhCurve: 'P-256' })
  t.equal(socket.alpnProtocol, 'http/1.1')
  t.match(socket.getEphemeralKeyInfo(), { name: 'prime256v1' })
  await t.rejects(
    rawTls(t, { ...tls, minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' })
  )
})

t.test('what cannot be listened on is said in a sentence', async t => {
  const taken = await open(t, {})

  await t.rejects(open(t, { listen: taken.at }), {
    code: 'LISTEN_FAILED',
    message: `cannot listen on 127.0.0.1:${taken.at.port} (front test): the address is in use by another program`
  })
  await t.rejects(
    open(t, { listen: { host: '198.51.100.7', port: 0 }, certificates: (await openTls(t)).bundle }),
    {
      code: 'LISTEN_FAILED',
      message: /this machine has no such address/
    }
  )
  for (const host of ['', '0.0.0.0', '192.0.2.1', '::']) {
    await t.rejects(open(t, { listen: { host, port: 0 } }), {
      code: 'BAD_CONFIG',
      message: /front test listens on .* without tls: plain fronts are for loopback and unix sockets/
    })
  }
})

t.test('IPv6 loopback and localhost are loopback', async t => {
  const port = await listenTcp(t, socket => socket.end('hi'))

  for (const host of ['::1', 'localhost']) {
    const front = await open(t, { listen: { host, port: 0 } })
    const raw = await rawPlain(t, front.at)
    await raw.write(connectTo(port)).untilText('hi')
  }
})

t.test('whoever counts hears of every answer, once', async t => {
  const port = await listenTcp(t, socket => socket.end('12345'))
  const said: unknown[] = []
  const observer: FrontObserver = {
    answered: ({ dialMs, ...event }) => void said.push({ ...event, dialled: dialMs !== undefined }),
    open: event => void said.push(event),
    carried: event => void said.push(event)
  }
  const front = await open(t, { observer, headerLimitBytes: 200 })

  const probe = await rawPlain(t, front.at)
  probe.socket.destroy()
  const wrong = await rawPlain(t, front.at)
  await wrong.write('GET / HTTP/1.1\r\n').untilText('\r\n\r\n')
  const right = await rawPlain(t, front.at)
  right.write(`${connectTo(port)}abc`)
  await right.until(() => right.ended)
  right.socket.end('defg')
  await right.untilClosed()
  while (said.length < 5) await turns(1)

  const labels = { front: 'test', cluster: 'demo' }
  t.same(said, [
    { front: 'test', cluster: '', code: 'NOT_CONNECT', dialled: false },
    { ...labels, code: 'OK', dialled: true },
    { ...labels, change: 1 },
    { ...labels, change: -1 },
    { cluster: 'demo', upBytes: 7, downBytes: 5 }
  ])
})

for (const kind of ['tls', 'plain'] as const) {
  t.test(`callers of a ${kind} front who say nothing lose to those who come later`, async t => {
    let dropped = 0
    const options = { maxPending: 10, onPendingDropped: () => dropped++, dial: () => tcpDial }
    const { front, tls } =
      kind === 'tls' ? await openTls(t, options) : { front: await open(t, options), tls: undefined }
    const ask = () => (tls ? rawTls(t, tls) : rawPlain(t, front.at))
    const port = await listenTcp(t, socket => socket.pipe(socket))
    const inside = await ask()
    await inside.write(connectTo(port)).untilText('200')
    t.equal(front.pending, 0, 'whoever has asked is not pending')

    const flood = Array.from({ length: 100 }, () => new Raw(connect({ ...front.at, allowHalfOpen: true })))
    t.teardown(() => flood.forEach(({ socket }) => socket.destroy()))
    let most = 0
    while (flood.filter(raw => raw.ended || raw.closed).length < 90) {
      most = Math.max(most, front.pending)
      await turns(1)
    }
    t.equal(front.pending, 10)
    const late = await ask()
    await late.write(connectTo(port)).untilText('200')

    t.ok(most <= 10, `${most} pending at most`)
    t.equal(dropped, 91)
    inside.write('still here')
    await inside.untilText('still here')
  })
}
