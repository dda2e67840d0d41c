import { once } from 'node:events'
import { type Socket, connect } from 'node:net'
import { type ConnectionOptions, connect as connectTls } from 'node:tls'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import type { ErrorCode } from '@tendril/common'
import { CountedLimit } from '@tendril/common/counted-limit'
import {
  type Acceptor,
  type AcceptorOptions,
  CLOSE_GRACE_MS,
  type TunnelConnection,
  listenAcceptor
} from '../../src/acceptor/acceptor.js'
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import { FakeBundle, type Leaf, type Pem, Pki, Raw, rawPlain, rawTls, silent } from '../support.js'

const upgradeRequest = (
  fields: Record<string, string | undefined> = {},
  line = 'GET /tunnel HTTP/1.1'
): string => {
  const all: Record<string, string | undefined> = {
    Host: 'vpn.test',
    Upgrade: 'websocket',
    Connection: 'Upgrade',
    'Sec-WebSocket-Version': '13',
    'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
    'Sec-WebSocket-Protocol': 'tendril.v1',
    'Tendril-Cluster': 'demo',
    ...fields
  }
  const lines = Object.entries(all).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}: ${value}\r\n`]
  )
  return `${line}\r\n${lines.join('')}\r\n`
}

async function open(t: Test, options: Partial<AcceptorOptions> = {}) {
  const pki = new Pki()
  const bundle = new FakeBundle(pki.server(), pki.ca)
  const connections: TunnelConnection[] = []
  const refused: ErrorCode[] = []
  const acceptor: Acceptor = await listenAcceptor({
    listen: { host: '127.0.0.1', port: 0 },
    certificates: bundle,
    clusters: [{ name: 'demo' }, { name: 'other', identities: { commonNames: ['vpn-shoot-client'] } }],
    onConnection: connection => {
      connection.websocket.on('error', () => {})
      connections.push(connection)
    },
    onRefused: code => refused.push(code),
    log: silent,
    ...options
  })
  t.teardown(() => acceptor.close())
  const at = acceptor.address as { host: string; port: number }
  const leaf = (options: Leaf = { uris: ['tendril://client/demo'] }): Pem => pki.leaf(options)
  const tls = { ...at, ca: pki.ca, ...leaf() }
  return { acceptor, bundle, connections, refused, at, leaf, tls, pki }
}

/** A client as `ws` makes it. */
function dial(
  t: Test,
  tls: ConnectionOptions & { port: number },
  { cluster = 'demo', socket }: { cluster?: string; socket?: Socket } = {}
) {
  const websocket = new WebSocket(`wss://localhost:${tls.port}/tunnel`, 'tendril.v1', {
    headers: { 'Tendril-Cluster': cluster },
    createConnection: () => connectTls({ ...tls, ...(socket && { socket }) })
  })
  t.teardown(() => websocket.terminate())
  return websocket
}

async function turns(count = 20): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise(resolve => setImmediate(resolve))
}

t.test('a client is handed over with its cluster, identity and first bytes', async t => {
  const got: string[] = []
  const { acceptor, connections, tls } = await open(t, {
    onConnection: connection => {
      connections.push(connection)
      connection.websocket.on('message', data => {
        got.push((data as Buffer).toString())
        connection.websocket.send(data)
      })
    }
  })

  const websocket = dial(t, tls)
  websocket.on('open', () => websocket.send('hello'))
  const [echo] = await once(websocket, 'message')

  const [connection] = connections
  t.equal(String(echo), 'hello')
  t.same(got, ['hello'])
  t.equal(websocket.protocol, 'tendril.v1')
  t.equal(websocket.extensions, '')
  t.same(connection?.principal, { kind: 'client', name: 'leaf', cluster: 'demo' })
  t.match(connection?.identity, { role: 'client', cluster: 'demo' })
  t.equal(connection?.remoteAddress, '127.0.0.1')
  t.equal(connection?.headers['tendril-cluster'], 'demo')
  t.same([acceptor.connections, acceptor.pending], [1, 0])
  websocket.close()
  await once(websocket, 'close')
  while (acceptor.connections > 0) await turns(1)
})

t.test('a message that came with the upgrade request is not lost', async t => {
  const got: string[] = []
  const { tls } = await open(t, {
    onConnection: ({ websocket }) =>
      void websocket.on('message', data => got.push((data as Buffer).toString()))
  })
  const raw = await rawTls(t, tls)

  raw.write(upgradeRequest() + '\x82\x82\0\0\0\0hi')
  await raw.untilText('101 Switching Protocols')
  while (got.length === 0) await turns(1)

  t.same(got, ['hi'])
})

t.test('a certificate that others issued is mapped to its cluster', async t => {
  const { connections, leaf, tls } = await open(t)

  const websocket = dial(t, { ...tls, ...leaf({ commonName: 'vpn-shoot-client' }) }, { cluster: 'other' })
  await once(websocket, 'open')

  t.same(connections[0]?.principal, { kind: 'client', name: 'vpn-shoot-client', cluster: 'other' })
})

t.test('who may not come in is told why, before anything it sends is looked at', async t => {
  const { acceptor, connections, refused, leaf, tls } = await open(t)
  const untrusted = new Pki('other ca').leaf({ commonName: 'mallory', uris: ['tendril://client/demo'] })
  const day = 86_400_000
  const cases: [name: string, own: object, status: RegExp, code: ErrorCode][] = [
    [
      'no certificate',
      { cert: undefined, key: undefined },
      /^HTTP\/1\.1 401 client not identified: no client certificate/,
      'CLIENT_NOT_IDENTIFIED'
    ],
    ['a foreign authority', untrusted, /^HTTP\/1\.1 401 .*unknown authority/, 'CLIENT_NOT_IDENTIFIED'],
    [
      'expired',
      leaf({ uris: ['tendril://client/demo'], now: new Date(Date.now() - 30 * day), validityDays: 1 }),
      /^HTTP\/1\.1 401 .*expired on/,
      'CLIENT_NOT_IDENTIFIED'
    ],
    [
      'a cluster nobody knows',
      leaf({ uris: ['tendril://client/nobody'] }),
      /^HTTP\/1\.1 403 .*"nobody"/,
      'CLUSTER_DENIED'
    ],
    [
      'a caller',
      leaf({ uris: ['tendril://caller/kube-apiserver'] }),
      /^HTTP\/1\.1 403 .*of a caller/,
      'CLUSTER_DENIED'
    ],
    ['a server', leaf({ uris: ['tendril://server'] }), /^HTTP\/1\.1 403 .*of a server/, 'CLUSTER_DENIED'],
    ['a name that is not mapped', leaf({ commonName: 'x' }), /^HTTP\/1\.1 403 /, 'CLUSTER_DENIED']
  ]

  for (const [name, own, status, code] of cases) {
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      const raw = await rawTls(t, { ...tls, ...own, maxVersion })
      raw.write(upgradeRequest())
      await raw.until(() => raw.ended)
      t.match(raw.text, status, `${name}, ${maxVersion}`)
      t.match(raw.text, `\r\nTendril-Error: ${code}\r\n`)
      t.equal(refused.pop(), code)
      raw.socket.end()
      await raw.untilClosed()
    }
  }
  t.same(connections, [])
  while (acceptor.pending > 0) await turns(1)
})

t.test('the refusal reaches a client that is ws', async t => {
  const { tls } = await open(t)

  for (let round = 0; round < 10; round++) {
    const websocket = dial(t, { ...tls, cert: undefined, key: undefined })
    websocket.on('error', () => {})
    const [, response] = await once(websocket, 'unexpected-response')
    t.equal(response.statusCode, 401)
    t.equal(response.headers['tendril-error'], 'CLIENT_NOT_IDENTIFIED')
  }
})

t.test('a request has to ask for the tunnel, in all its parts', async t => {
  const { connections, tls } = await open(t)
  const cases: [name: string, request: string, answer: RegExp][] = [
    [
      'another cluster',
      upgradeRequest({ 'Tendril-Cluster': 'other' }),
      /^HTTP\/1\.1 403 not a client of this cluster: the client says it serves "other", its certificate is for "demo"\r\n/
    ],
    [
      'no cluster',
      upgradeRequest({ 'Tendril-Cluster': undefined }),
      /^HTTP\/1\.1 400 bad request: the header Tendril-Cluster is missing/
    ],
    [
      'a browser',
      upgradeRequest({ Origin: 'https://evil.test' }),
      /^HTTP\/1\.1 403 caller not allowed: .*Origin/
    ],
    [
      'no protocol',
      upgradeRequest({ 'Sec-WebSocket-Protocol': undefined }),
      /^HTTP\/1\.1 400 no common protocol version: .*tendril\.v1/
    ],
    [
      'a newer protocol',
      upgradeRequest({ 'Sec-WebSocket-Protocol': 'tendril.v2, chat' }),
      /^HTTP\/1\.1 400 no common protocol version/
    ],
    ['another path', upgradeRequest({}, 'GET /tunnels HTTP/1.1'), /^HTTP\/1\.1 404 /],
    ['POST', upgradeRequest({}, 'POST /tunnel HTTP/1.1'), /^HTTP\/1\.1 426 .*\r\nUpgrade: websocket\r\n/s],
    ['no upgrade', 'GET /tunnel HTTP/1.1\r\nHost: x\r\n\r\n', /^HTTP\/1\.1 426 /],
    ['a page', 'GET / HTTP/1.1\r\nHost: x\r\n\r\n', /^HTTP\/1\.1 404 /],
    ['two pages at once', 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(2), /^HTTP\/1\.1 404 [^]*tunnel\n$/],
    ['CONNECT', 'CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n', /^HTTP\/1\.1 404 /],
    [
      'an old WebSocket',
      upgradeRequest({ 'Sec-WebSocket-Version': '7' }),
      /^HTTP\/1\.1 400 bad request: .*Sec-WebSocket-Version/
    ],
    [
      'a bad key',
      upgradeRequest({ 'Sec-WebSocket-Key': 'x' }),
      /^HTTP\/1\.1 400 bad request: .*Sec-WebSocket-Key/
    ],
    ['no HTTP', 'hello\r\n\r\n', /^HTTP\/1\.1 400 bad request: this is not an HTTP\/1\.1 request/],
    [
      '10 KiB of head',
      upgradeRequest({ 'X-Pad': 'x'.repeat(10_000) }),
      /^HTTP\/1\.1 431 request header too large: at most 8192 bytes/
    ]
  ]

  for (const [name, request, answer] of cases) {
    const raw = await rawTls(t, tls)
    raw.write(request)
    await raw.until(() => raw.ended)
    t.match(raw.text, answer, name)
    raw.socket.end()
    await raw.untilClosed()
  }
  t.same(connections, [])
})

t.test('10 MB of head are refused and not read for long', async t => {
  const { acceptor, tls } = await open(t)
  const raw = await rawTls(t, tls)

  raw.write('GET /tunnel HTTP/1.1\r\n')
  const chunk = Buffer.alloc(1_000_000, 'X-Pad: yyyyyyyyyy\r\n')
  for (let sent = 0; sent < 10; sent++) raw.write(chunk)
  await raw.untilText('\r\n\r\n')

  t.match(raw.text, /^HTTP\/1\.1 431 /)
  raw.socket.destroy()
  while (acceptor.pending > 0) await turns(1)
})

t.test('a slow request and a slow handshake are bounded, and cost others nothing', async t => {
  const clock = new FakeClock()
  const { acceptor, refused, at, tls } = await open(t, { clock })
  const good = dial(t, tls)
  await once(good, 'open')
  const silent = await rawPlain(t, at)
  const half = await rawPlain(t, at)
  half.write(Buffer.from([0x16, 3, 1, 2, 0, 1]))
  const idle = await rawTls(t, tls)
  const slow = await rawTls(t, tls)
  while (acceptor.pending < 4) await turns(1)
  await turns()

  for (const byte of 'GET /tunn') {
    slow.write(byte)
    await turns(3)
    clock.tick(1_100)
  }
  t.equal(acceptor.pending, 4)
  clock.tick(100)

  await Promise.all([silent, half, idle, slow].map(raw => raw.until(() => raw.ended)))
  t.match(idle.text, /^HTTP\/1\.1 408 request header took too long\r\n/)
  t.match(slow.text, /^HTTP\/1\.1 408 /)
  t.equal(silent.text + half.text, '')
  t.same(refused, ['HEADER_TIMEOUT', 'HEADER_TIMEOUT'])
  slow.write('el HTTP/1.1\r\n\r\n')
  clock.tick(1_000)
  while (acceptor.pending > 0) await turns(1)
  t.equal(good.readyState, WebSocket.OPEN)
  t.equal(clock.pending, 0)
})

t.test('random bytes are no handshake', async t => {
  const { acceptor, at } = await open(t)

  for (const bytes of [
    Buffer.alloc(10_000, 'GET / HTTP/1.1\r\n'),
    Buffer.from('1603010200010001fc0303', 'hex'),
    Buffer.alloc(5_000)
  ]) {
    const raw = await rawPlain(t, at)
    raw.write(bytes)
    raw.socket.end()
    await raw.until(() => raw.ended || raw.closed)
  }
  while (acceptor.pending > 0) await turns(1)
})

t.test('clients beyond the limit are told so', async t => {
  const { acceptor, tls } = await open(t, { maxConnections: 2 })
  const inside = [dial(t, tls), dial(t, tls)]
  await Promise.all(inside.map(websocket => once(websocket, 'open')))

  const third = await rawTls(t, tls)
  await third.write(upgradeRequest()).untilText('\r\n\r\n')
  t.match(third.text, /^HTTP\/1\.1 503 overloaded: at most 2 clients at once\r\n/)
  inside[0]!.terminate()
  while (acceptor.connections > 1) await turns(1)

  await once(dial(t, tls), 'open')
  t.equal(inside[1]!.readyState, WebSocket.OPEN)
})

t.test('a flood of idle connections drops the oldest of them, never who is next', async t => {
  let dropped = 0
  const { acceptor, at, tls } = await open(t, { maxPending: 10, onPendingDropped: () => dropped++ })
  const flood = Array.from({ length: 100 }, () => new Raw(connect({ ...at, allowHalfOpen: true })))
  t.teardown(() => flood.forEach(({ socket }) => socket.destroy()))
  let most = 0
  while (flood.filter(raw => raw.ended || raw.closed).length < 90) {
    most = Math.max(most, acceptor.pending)
    await turns(1)
  }

  await once(dial(t, tls), 'open')

  t.ok(most <= 10, `${most} pending at most`)
  t.ok(dropped >= 90, `${dropped} dropped`)
  t.equal(acceptor.connections, 1)
})

t.test('connections of a cluster beyond its limit are told which, and those of another are not', async t => {
  const names: string[] = []
  const limit = new CountedLimit(2, {
    key: 'clusters[demo].limits.connections',
    counted: 'connections are open'
  })
  const { acceptor, refused, tls, leaf, pki, at } = await open(t, {
    admit: party => {
      names.push(String(party))
      return party === 'demo' ? limit.acquire() : () => {}
    }
  })
  const first = dial(t, tls)
  await once(first, 'open')
  // Nothing is said after the handshake: it counts as well.
  await rawTls(t, tls)
  while (limit.count < 2) await turns(1)

  const third = await rawTls(t, tls)
  await third.write(upgradeRequest()).untilText('\r\n\r\n')
  t.match(
    third.text,
    /^HTTP\/1\.1 503 overloaded: clusters\[demo\]\.limits\.connections: 2 connections are open\r\n/
  )
  t.same(refused, ['OVERLOADED'])
  const other = { ...at, ca: pki.ca, ...leaf({ commonName: 'vpn-shoot-client' }) }
  await once(dial(t, other, { cluster: 'other' }), 'open')
  t.same(names, ['demo', 'demo', 'demo', 'other'])

  first.terminate()
  while (limit.count > 1) await turns(1)
  await once(dial(t, tls), 'open')
  t.equal(acceptor.connections, 2)
})

t.test('with a PROXY header the real address is known, in both versions and any pieces', async t => {
  const { connections, refused, at, tls } = await open(t, { proxyProtocol: 'required' })
  const version2 = Buffer.from(
    '0d0a0d0a000d0a515549540a' + '2111000c' + 'c0000207' + '7f000001' + 'dc0401bb',
    'hex'
  )
  const withExtensions = Buffer.concat([version2, Buffer.alloc(4_096 - version2.length)])
  withExtensions.writeUInt16BE(4_096 - 16, 14)
  const headers = [Buffer.from('PROXY TCP4 192.0.2.7 127.0.0.1 56324 443\r\n'), version2, withExtensions]

  for (const header of headers) {
    for (const pieces of [[header], [header.subarray(0, 9), header.subarray(9)]]) {
      const socket = connect(at)
      for (const piece of pieces) {
        socket.write(piece)
        await turns()
      }
      await once(dial(t, tls, { socket }), 'open')
      t.equal(connections.pop()?.remoteAddress, '192.0.2.7')
    }
  }

  const coalesced = connect(at)
  coalesced.cork()
  coalesced.write(headers[0]!)
  const late = dial(t, tls, { socket: coalesced })
  process.nextTick(() => coalesced.uncork())
  await once(late, 'open')
  t.equal(connections.pop()?.remoteAddress, '192.0.2.7', 'header and hello in one segment')

  const local = connect(at)
  local.write('PROXY UNKNOWN\r\n')
  await once(dial(t, tls, { socket: local }), 'open')
  t.equal(connections.pop()?.remoteAddress, '127.0.0.1')
  t.same(refused, [])
})

t.test('without the PROXY header that is required nobody gets in', async t => {
  const clock = new FakeClock()
  const { acceptor, refused, at, tls } = await open(t, { proxyProtocol: 'required', clock })

  await t.rejects(rawTls(t, tls))
  t.same(refused, ['BAD_REQUEST'])
  const leaver = await rawPlain(t, at)
  leaver.write('PROXY TCP4').socket.end()
  await leaver.untilClosed()
  const silent = await rawPlain(t, at)
  silent.write('PROXY ')
  while (acceptor.pending < 1) await turns(1)
  await turns()
  clock.tick(10_000)
  await silent.until(() => silent.ended)
  while (acceptor.pending > 0) await turns(1)
  t.equal(clock.pending, 0)
})

t.test('new certificates are shown to new clients, those inside live on', async t => {
  const { bundle, tls } = await open(t)
  const old = dial(t, tls)
  await once(old, 'open')
  const next = new Pki('next ca')

  bundle.change(next.server({ commonName: 'renewed' }), next.ca)

  const fresh = await rawTls(t, { ...tls, ca: next.ca, ...next.leaf({ uris: ['tendril://client/demo'] }) })
  t.equal(fresh.socket.getPeerCertificate().subject.CN, 'renewed')
  await fresh.write(upgradeRequest()).untilText('101')
  t.equal(old.readyState, WebSocket.OPEN)
})

t.test('an acceptor that stops accepting keeps its clients; closing ends all, twice is fine', async t => {
  const { acceptor, at, tls } = await open(t)
  const websocket = dial(t, tls)
  await once(websocket, 'open')
  const pending = await rawPlain(t, at)
  while (acceptor.pending < 1) await turns(1)

  acceptor.stopAccepting()
  await t.rejects(rawPlain(t, at), { code: 'ECONNREFUSED' })
  t.equal(websocket.readyState, WebSocket.OPEN)
  await Promise.all([acceptor.close(), acceptor.close()])

  await pending.until(() => pending.ended || pending.closed)
  while (websocket.readyState !== WebSocket.CLOSED) await turns(1)
  t.same([acceptor.connections, acceptor.pending], [0, 0])
})

t.test('a client that is told why hears it behind all that was on its way, though all closes', async t => {
  const { acceptor, connections, tls } = await open(t)
  const websocket = dial(t, tls)
  await once(websocket, 'open')
  let received = 0
  websocket.on('message', data => (received += (data as Buffer).length))
  const [connection] = connections

  for (let count = 0; count < 16; count++) connection?.websocket.send(Buffer.alloc(1 << 20))
  connection?.websocket.close(4034, 'the server stops')
  const closed = acceptor.close()

  t.match(await once(websocket, 'close'), [4034])
  t.equal(received, 16 << 20)
  await closed
})

t.test('one that does not listen is waited for a second', async t => {
  const clock = new FakeClock()
  const { acceptor, connections, tls } = await open(t, { clock })
  const websocket = dial(t, tls)
  await once(websocket, 'open')
  websocket.pause()

  connections[0]?.websocket.close(4034, 'the server stops')
  const closed = acceptor.close()
  await turns()
  clock.tick(CLOSE_GRACE_MS - 1)
  await turns()
  t.equal(acceptor.connections, 1)
  clock.tick(1)

  await closed
  t.equal(acceptor.connections, 0)
  t.equal(clock.pending, 0)
})

t.test('what cannot be listened on is said in a sentence', async t => {
  const { at } = await open(t)

  await t.rejects(open(t, { listen: at }), {
    code: 'LISTEN_FAILED',
    message: `cannot listen on 127.0.0.1:${at.port} (tunnel): the address is in use by another program`
  })
})
