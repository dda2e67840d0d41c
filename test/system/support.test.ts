/**
 * The test deployment's own tools, tested without a tunnel: a tool that lies would make every test above it worthless.
 */
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { createServer as createTlsServer, connect as connectTls } from 'node:tls'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { spawnSync } from 'node:child_process'
import t, { type Test } from 'tap'
import { apiserverDial, httpGet } from '../support/apiserver.js'
import { cuttable } from '../support/cuttable.js'
import { delayRelay } from '../support/delay-relay.js'
import { requireTool, until } from '../support/child-process.js'
import { upstreamProxy, haproxy, nginx, squid, type Proxy, type SniRoutes } from '../support/proxies.js'
import {
  bannerTarget,
  blackHole,
  echoTarget,
  podTarget,
  refusedPort,
  replyAfterFinTarget,
  sinkTarget,
  sourceTarget,
  tcpTarget,
  pseudoRandom
} from '../support/targets.js'

/** A front that answers each CONNECT with these writes, one after the other, and keeps what it was asked. */
async function scriptedFront(t: Test, ...writes: (string | Buffer)[]) {
  const asked: string[] = []
  const front = await tcpTarget(t, socket => {
    socket.once('data', request => {
      asked.push(request.toString('latin1'))
      for (const bytes of writes) socket.write(bytes)
    })
    socket.on('end', () => socket.end())
  })
  return { ...front, asked }
}

function certificate(t: Test, name: string) {
  const directory = mkdtempSync(join(tmpdir(), 'tendril-cert-'))
  t.teardown(() => {
    rmSync(directory, { recursive: true })
  })
  const [key, cert] = [join(directory, 'key'), join(directory, 'crt')]
  const made = spawnSync('openssl', [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-keyout',
    key,
    '-out',
    cert,
    '-days',
    '1',
    '-subj',
    `/CN=${name}`,
    '-addext',
    `subjectAltName=DNS:${name},IP:127.0.0.1`
  ])
  if (made.status !== 0) throw new Error(made.stderr.toString())
  return { key: readFileSync(key), cert: readFileSync(cert) }
}

async function read(stream: Duplex): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

t.test('the dialer asks in exactly the bytes of kube-apiserver', async t => {
  const front = await scriptedFront(t, 'HTTP/1.1 200 Connection established\r\n\r\n')

  const stream = await apiserverDial({ front, addr: '[2001:db8::5]:10250' })

  t.strictSame(front.asked, ['CONNECT [2001:db8::5]:10250 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n'])
  stream.destroy()
})

t.test('the tunnelled connection serves the next listener, an HTTP client for example', async t => {
  const front = await tcpTarget(t, socket => {
    socket.once('data', () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n')
      socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello'))
    })
  })

  const answer = await httpGet(await apiserverDial({ front, addr: 'pod:80' }))

  t.equal(answer.body.toString(), 'hello')
})

t.test('the dialer accepts exactly 200 and nothing else, and repeats the reason phrase', async t => {
  const cases: [answer: string, message: RegExp][] = [
    [
      'HTTP/1.1 503 no client connected for cluster demo\r\n\r\n',
      /^proxy error from 127\.0\.0\.1:\d+ while dialing 10\.0\.0\.5:10250, code 503: 503 no client connected for cluster demo$/
    ],
    ['HTTP/1.1 201 Created\r\n\r\n', /code 201: 201 Created$/],
    ['HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n', /code 100: 100 Continue$/],
    ['HTTP/1.1 200 OK\r\nno colon here\r\n\r\n', /malformed MIME header line/],
    ['SSH-2.0-x\r\n\r\n', /malformed HTTP response/],
    ['HTTP/1.1 200 OK\r\n\r\nx', /^unexpected 1 bytes of buffered data from CONNECT proxy/],
    [`HTTP/1.1 200 OK\r\n\r\n${'x'.repeat(9000)}`, /^unexpected 4096 bytes of buffered data/]
  ]
  for (const [answer, message] of cases) {
    const front = await scriptedFront(t, answer)

    await t.rejects(apiserverDial({ front, addr: '10.0.0.5:10250' }), { message })
  }
})

t.test(
  'over TLS one record is one read: bytes in the next record are not buffered, bytes in the same are',
  async t => {
    const { key, cert } = certificate(t, 'front.test')
    let answers: string[] = []
    const server = createTlsServer({ key, cert }, socket => {
      socket.on('error', () => {})
      socket.once('data', () => {
        for (const bytes of answers) socket.write(bytes)
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const front = { host: '127.0.0.1', port: (server.address() as AddressInfo).port }

    answers = ['HTTP/1.1 200 OK\r\n\r\n', 'early']
    const stream = await apiserverDial({ front, addr: 'x:1', tls: { ca: cert, servername: 'front.test' } })
    const [bytes] = (await once(stream.resume(), 'data')) as [Buffer]
    t.equal(bytes.toString(), 'early')
    stream.destroy()
    answers = ['HTTP/1.1 200 OK\r\n\r\nearly']
    await t.rejects(apiserverDial({ front, addr: 'x:1', tls: { ca: cert } }), {
      message: /unexpected 5 bytes/
    })
    await t.rejects(apiserverDial({ front, addr: 'x:1', tls: { ca: cert, servername: 'other.test' } }), {
      code: 'ERR_TLS_CERT_ALTNAME_INVALID'
    })

    server.close()
  }
)

t.test('the dialer leaves when it is told to, and hears of a front that hangs up', async t => {
  const silent = await tcpTarget(t, () => {})
  const rude = await tcpTarget(t, socket => socket.destroy())

  const caller = new AbortController()
  const dial = apiserverDial({ front: silent, addr: 'x:1', signal: caller.signal })
  caller.abort()
  await t.rejects(dial, { message: 'context canceled' })
  await t.rejects(apiserverDial({ front: rude, addr: 'x:1' }), { message: /EOF|ECONNRESET/ })
  await t.rejects(apiserverDial({ front: { host: '127.0.0.1', port: await refusedPort() }, addr: 'x:1' }), {
    code: 'ECONNREFUSED'
  })
})

t.test('targets do what their names say', async t => {
  const dial = (port: number): Socket => connect({ host: '127.0.0.1', port, allowHalfOpen: true })

  const pod = await podTarget(t)
  const answer = await httpGet(dial(pod.port), { path: '/x' })
  t.equal(answer.body.toString(), 'hello from the pod: GET /x\n')

  const echo = dial((await echoTarget(t)).port)
  echo.end('again')
  t.equal((await read(echo)).toString(), 'again')

  const banner = dial((await bannerTarget(t, 'hi\n')).port)
  banner.end()
  t.equal((await read(banner)).toString(), 'hi\n')

  const reply = dial((await replyAfterFinTarget(t)).port)
  reply.end('100')
  t.equal((await read(reply)).toString(), 'got 100')

  const sink = await sinkTarget(t)
  const upload = dial(sink.port)
  for (const chunk of pseudoRandom(300_000)) upload.write(chunk)
  upload.end()
  const source = await sourceTarget(t, 300_000)
  t.strictSame(await sink.received(), { bytes: 300_000, sha256: source.sha256 })
  upload.destroy()

  const download = dial(source.port)
  t.equal((await read(download)).length, 300_000)

  const hole = await blackHole(t)
  const lost = dial(hole.port)
  lost.on('connect', () => t.fail('connected'))
  const found = dial((await echoTarget(t)).port)
  found.end('here')
  t.equal((await read(found)).toString(), 'here', 'who connects later elsewhere is served meanwhile')
  t.ok(lost.connecting)
  lost.destroy()
})

t.test('the delaying relay delays each way, in order, with FIN', async t => {
  const echo = await echoTarget(t)
  const relay = await delayRelay(t, { to: echo, delayMs: 40 })
  const socket = connect({ host: relay.host, port: relay.port, allowHalfOpen: true })
  await once(socket, 'connect')
  const startedAt = performance.now()

  for (const chunk of pseudoRandom(1_000_000)) socket.write(chunk)
  socket.end()
  const back = await read(socket)

  const tookMs = performance.now() - startedAt
  t.ok(back.equals(Buffer.concat([...pseudoRandom(1_000_000)])))
  t.ok(tookMs >= 80, `took ${tookMs} ms`)
})

t.test('the delaying relay stops reading at its limit', async t => {
  const stalled = await tcpTarget(t, socket => socket.pause())
  const limitBytes = 256 * 1024
  const relay = await delayRelay(t, { to: stalled, delayMs: 60_000, limitBytes })
  const socket = connect({ host: relay.host, port: relay.port })
  socket.on('error', () => {})

  // More than the relay's limit and the kernel's buffers hold.
  socket.write(Buffer.alloc(64 * 1024 * 1024))
  await until('the relay is full', () => relay.bytesHeld() >= limitBytes)
  const other = connect({ host: relay.host, port: relay.port })
  await once(other, 'connect')

  t.ok(relay.bytesHeld() < 2 * limitBytes, `${relay.bytesHeld()} bytes held`)
  t.ok(socket.writableLength > 32 * 1024 * 1024, 'the writer is stopped')
  socket.destroy()
  other.destroy()
})

t.test('the cuttable relay cuts, freezes, thaws, refuses and listens again', async t => {
  const echo = await echoTarget(t)
  const line = await cuttable(t, echo)
  const open = async () => {
    const socket = connect({ host: line.host, port: line.port })
    socket.on('error', () => {})
    await once(socket, 'connect')
    return socket
  }
  const ping = async (socket: Socket, text: string) => {
    socket.write(text)
    const [bytes] = (await once(socket, 'data')) as [Buffer]
    return bytes.toString()
  }

  const first = await open()
  t.equal(await ping(first, 'one'), 'one')
  t.equal(line.up, 3)
  t.equal(line.down, 3)

  line.freeze({ newOnes: false })
  const echoed = once(first, 'data')
  let got = false
  void echoed.then(() => (got = true))
  first.write('two')
  const second = await open()
  for (const text of ['three', 'four']) t.equal(await ping(second, text), text, 'new connections live')
  t.notOk(got, 'the frozen one is silent meanwhile')
  line.thaw()
  t.equal(((await echoed) as [Buffer])[0].toString(), 'two', 'what waited arrives')

  line.cut()
  await until('both ends have heard', () => first.closed && second.closed)
  t.match(first.errored, { code: 'ECONNRESET' })
  t.match(second.errored, { code: 'ECONNRESET' })
  await until('the target has lost its connections', () => echo.open() === 0)

  await line.refuse()
  const refused = connect({ host: line.host, port: line.port })
  const [error] = (await once(refused, 'error')) as [NodeJS.ErrnoException]
  t.equal(error.code, 'ECONNREFUSED')
  await line.listen()
  const third = await open()
  t.equal(await ping(third, 'four'), 'four')
  third.destroy()
})

/** Two TLS servers behind one port: each name reaches its own, a stranger nobody. */
async function choosesBySni(t: Test, proxy: (t: Test, routes: SniRoutes) => Promise<Proxy>) {
  const { key, cert } = certificate(t, 'any.test')
  const backend = async (answer: string) => {
    const server = createTlsServer({ key, cert }, socket => {
      socket.on('error', () => {})
      socket.end(answer)
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.teardown(() => {
      server.close()
    })
    return { host: '127.0.0.1', port: (server.address() as AddressInfo).port }
  }
  const { host, port } = await proxy(t, {
    routes: { 'a.test': await backend('A'), 'b.test': await backend('B') }
  })
  const ask = (servername: string) => connectTls({ host, port, servername, rejectUnauthorized: false })

  t.equal((await read(ask('a.test'))).toString(), 'A')
  t.equal((await read(ask('b.test'))).toString(), 'B')
  // A stranger hears an end or a reset, and not one byte.
  t.equal((await read(ask('c.test')).catch(() => Buffer.alloc(0))).length, 0)
}

t.test('haproxy chooses by SNI', async t => {
  if (!requireTool(t, 'haproxy', 'openssl')) return
  await choosesBySni(t, haproxy)
})

t.test('nginx chooses by SNI', async t => {
  if (!requireTool(t, 'nginx', 'openssl')) return
  await choosesBySni(t, nginx)
})

t.test('haproxy and nginx can send the PROXY protocol', async t => {
  if (!requireTool(t, 'haproxy', 'nginx', 'openssl')) return
  const heads: Buffer[] = []
  const server = createServer(socket => {
    socket.on('error', () => {})
    socket.once('data', bytes => {
      heads.push(bytes)
      socket.destroy()
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const to = { host: '127.0.0.1', port: (server.address() as AddressInfo).port }
  for (const { host, port } of [
    await haproxy(t, { routes: { 'a.test': to }, proxyProtocol: 'v2' }),
    await nginx(t, { routes: { 'a.test': to }, proxyProtocol: 'v1' })
  ]) {
    const socket = connectTls({ host, port, servername: 'a.test' })
    socket.on('error', () => {})
    await until('the target has hung up', () => socket.closed)
  }

  t.equal(heads[0]?.subarray(0, 12).toString('hex'), '0d0a0d0a000d0a515549540a')
  t.match(heads[1]?.toString('latin1'), /^PROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 \d+ \d+\r\n/)
  server.close()
})

async function connectLine(proxy: { host: string; port: number }, head: string): Promise<string> {
  const socket = connect(proxy)
  socket.on('error', () => {})
  socket.write(head)
  const [bytes] = (await once(socket, 'data')) as [Buffer]
  socket.destroy()
  return bytes.toString('latin1').split('\r\n')[0]!
}

t.test('squid asks for a password and keeps to its ports', async t => {
  if (!requireTool(t, 'squid', 'openssl')) return
  const echo = await echoTarget(t)
  const other = await echoTarget(t)
  const proxy = await squid(t, { auth: { user: 'me', password: 's3cret' }, allowedPorts: [echo.port] })
  const authorization = `Proxy-Authorization: Basic ${Buffer.from('me:s3cret').toString('base64')}\r\n`

  t.match(await connectLine(proxy, `CONNECT ${echo.addr} HTTP/1.1\r\n\r\n`), /^HTTP\/1\.1 407 /)
  t.match(
    await connectLine(proxy, `CONNECT ${echo.addr} HTTP/1.1\r\n${authorization}\r\n`),
    /^HTTP\/1\.1 200 /
  )
  t.match(
    await connectLine(proxy, `CONNECT ${other.addr} HTTP/1.1\r\n${authorization}\r\n`),
    /^HTTP\/1\.1 403 /
  )
  await until('squid has written its log', () => /TCP_TUNNEL\/200/.test(proxy.accessLog()))
})

t.test('the upstream proxy throws the target away and routes by its header', async t => {
  const echo = await echoTarget(t)
  const hop = await upstreamProxy(t, {
    pattern: /^outbound\|1194\|\|vpn-seed-server\..*\.svc\.cluster\.local$/,
    route: () => echo
  })
  const head = (value: string) =>
    `CONNECT nobody.test:1194 HTTP/1.0\r\nX-Gardener-Destination: ${value}\r\n\r\n`

  t.match(
    await connectLine(hop, head('outbound|1194||vpn-seed-server.shoot--a.svc.cluster.local')),
    /^HTTP\/1\.1 200 /
  )
  t.match(await connectLine(hop, head('outbound|22||else')), /^HTTP\/1\.1 301 /)
})
