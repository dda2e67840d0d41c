import { TunnelError } from '@tendril/common'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import t from 'tap'
import type { WebSocket } from 'ws'
import { connectServer } from '../../src/transport/client-connect.js'
import type { ConnectOptions, ServerAddress } from '../../src/transport/client-connect.js'
import { authority } from '../support/test-authority.js'
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import { listen, proxyServer, tunnelServer } from '../support/servers.js'
import type { Listener } from '../support/servers.js'

const { ca, leaf } = authority()
const serverTls = { ...leaf(['vpn.demo.test', '127.0.0.1'], { uris: ['tendril://server'] }), ca }
const client = { ...leaf([], { uris: ['tendril://client/demo'] }), ca }

/** Connects as `vpn.demo.test` to a listener, directly unless told otherwise. */
function dial(
  { host, port }: { host: string; port: number },
  options: Partial<ConnectOptions> & Partial<ServerAddress> = {}
) {
  const { url = 'wss://vpn.demo.test', ...rest } = options
  return connectServer(
    { url, address: host.includes(':') ? `[${host}]:${port}` : `${host}:${port}` },
    { tls: client, proxy: 'none', signal: new AbortController().signal, ...rest }
  )
}

async function closed(websocket: WebSocket): Promise<void> {
  websocket.close()
  await once(websocket, 'close')
}

/** The connection works both ways, and the server's first word was not lost. */
async function speak(websocket: WebSocket): Promise<string> {
  const [hello] = (await once(websocket, 'message')) as [Buffer]
  websocket.send('ping')
  const [echo] = (await once(websocket, 'message')) as [Buffer]
  return `${String(hello)} ${String(echo)}`
}

const refused = (promise: Promise<unknown>): Promise<TunnelError> =>
  promise.then(
    () => {
      throw new Error('it connected')
    },
    (error: unknown) => {
      if (!(error instanceof TunnelError)) throw error
      return error
    }
  )

t.test('directly, at another address, with the name of the URL asked for and checked', async t => {
  for (const host of ['127.0.0.1', '::1']) {
    const server = await tunnelServer(t, serverTls, { host })

    const { websocket } = await dial(server, { headers: { 'Tendril-Cluster': 'demo' } })

    t.equal(await speak(websocket), 'hello ping')
    t.match(server.requests[0], {
      path: '/tunnel',
      serverName: 'vpn.demo.test',
      headers: { host: 'vpn.demo.test', 'tendril-cluster': 'demo', 'sec-websocket-protocol': 'tendril.v1' }
    })
    await closed(websocket)
    await server.deserted()
  }
})

t.test('the path, the port and the server name may be others', async t => {
  const server = await tunnelServer(t, serverTls)
  const { signal } = new AbortController()

  const { websocket } = await connectServer(
    { url: `wss://127.0.0.1:${server.port}/other`, serverName: 'vpn.demo.test' },
    { tls: client, proxy: 'none', signal }
  )
  await closed(websocket)
  const byAddress = await connectServer(
    { url: `wss://127.0.0.1:${server.port}` },
    { tls: client, proxy: 'none', signal }
  )
  await closed(byAddress.websocket)

  t.match(server.requests, [
    { path: '/other', serverName: 'vpn.demo.test' },
    { path: '/tunnel', serverName: false }
  ])
})

t.test('a name is resolved anew at every attempt', async t => {
  const server = await tunnelServer(t, serverTls)
  let asked = 0
  const resolve = async () => (++asked, ['127.0.0.1'])
  for (const count of [1, 2]) {
    const { websocket } = await connectServer(
      { url: `wss://vpn.demo.test:${server.port}` },
      { tls: client, proxy: 'none', signal: new AbortController().signal, resolve }
    )
    await closed(websocket)
    t.equal(asked, count)
  }
})

t.test('without TLS on loopback', async t => {
  const server = await tunnelServer(t, undefined)
  const { signal } = new AbortController()
  const { websocket } = await connectServer(
    { url: `ws://127.0.0.1:${server.port}` },
    { proxy: 'none', signal }
  )

  t.equal(await speak(websocket), 'hello ping')
  await closed(websocket)
})

t.test('through proxies and upstream proxies, alone and in each other', async t => {
  const hopTls = leaf(['localhost', '127.0.0.1'])
  const server = await tunnelServer(t, serverTls)
  const target = { host: server.host, port: server.port }
  const seen = (head = '') => head.split('\r\n')
  const common = { hopCa: ca, headers: {} }

  const http = await proxyServer(t)
  const plain = await dial(target, {
    ...common,
    proxy: `http://us%40er:p%3Ass%2Fword@127.0.0.1:${http.port}`
  })
  t.equal(await speak(plain.websocket), 'hello ping')
  t.equal(seen(http.heads[0])[0], `CONNECT 127.0.0.1:${server.port} HTTP/1.1`)
  const basic = Buffer.from('us@er:p:ss/word').toString('base64')
  t.ok(seen(http.heads[0]).includes(`Proxy-Authorization: Basic ${basic}`))
  await closed(plain.websocket)
  await http.deserted()

  const https = await proxyServer(t, { tls: hopTls })
  const tlsInTls = await dial(target, {
    ...common,
    proxy: `https://127.0.0.1:${https.port}`,
    proxyAuthorization: 'Bearer x'
  })
  t.equal(await speak(tlsInTls.websocket), 'hello ping')
  t.ok(seen(https.heads[0]).includes('Proxy-Authorization: Bearer x'))
  await closed(tlsInTls.websocket)
  await https.deserted()

  const env = await dial(target, {
    ...common,
    proxy: 'env',
    env: { HTTPS_PROXY: `127.0.0.1:${http.port}`, NO_PROXY: 'other' }
  })
  t.equal(http.heads.length, 1, 'loopback is reached directly')
  await closed(env.websocket)

  const destination = 'outbound|443||vpn-seed-server.shoot--demo.svc.cluster.local'
  const upstreamOptions = {
    refuse: (head: string) =>
      head.includes(`\r\nX-Gardener-Destination: ${destination}\r\n`)
        ? undefined
        : 'HTTP/1.1 301 Moved\r\n\r\n'
  }
  for (const tls of [undefined, hopTls]) {
    const upstreamProxy = await proxyServer(t, { ...upstreamOptions, ...(tls && { tls }), to: target })
    const url = `${tls ? 'https' : 'http'}://127.0.0.1:${upstreamProxy.port}`
    const headers = { 'X-Gardener-Destination': destination }
    for (const proxy of ['none', `http://127.0.0.1:${http.port}`]) {
      const { websocket } = await dial(
        { host: '192.0.2.1', port: 443 },
        { ...common, proxy, upstreamProxy: { url, headers } }
      )
      t.equal(await speak(websocket), 'hello ping', `${url} behind ${proxy}`)
      await closed(websocket)
    }
    t.equal(seen(http.heads.at(-1))[0], `CONNECT 127.0.0.1:${upstreamProxy.port} HTTP/1.1`)
    t.equal(seen(upstreamProxy.heads[0])[0], 'CONNECT 192.0.2.1:443 HTTP/1.1')
    t.notOk(upstreamProxy.heads[0]?.includes('Proxy-Authorization'))
    t.match(await refused(dial(target, { ...common, upstreamProxy: { url } })), {
      code: 'PROXY_REFUSED',
      detail: `upstream proxy ${url} answered 301 Moved`
    })
    await upstreamProxy.deserted()
  }
  await server.deserted()
})

t.test('a proxy that refuses is quoted, its password is not, and nothing stays open', async t => {
  const table: [string, RegExp][] = [
    [
      'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n',
      /answered 407 Proxy Authentication Required, which asks for credentials/
    ],
    ['HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nsorry', /answered 403 Forbidden$/],
    ['HTTP/1.0 502 Bad Gateway\r\n\r\n', /answered 502 Bad Gateway$/],
    ['HTTP/1.1 503\r\n\r\n', /answered 503$/],
    ['', /closed the connection without an answer$/],
    ['SSH-2.0-OpenSSH_9.2\r\n\r\n', /did not answer in HTTP$/],
    [`HTTP/1.1 200 OK\r\n${'X: y\r\n'.repeat(10_000)}`, /more than 16384 bytes of header$/],
    [`HTTP/1.1 200 ${'x'.repeat(1 << 20)}`, /more than 16384 bytes of header$|did not answer in HTTP$/]
  ]
  for (const [answer, detail] of table) {
    const proxy = await proxyServer(t, { refuse: () => answer })
    const error = await refused(
      dial({ host: '192.0.2.1', port: 443 }, { proxy: `http://user:secret@127.0.0.1:${proxy.port}` })
    )
    t.match(error, { code: 'PROXY_REFUSED', detail }, answer.slice(0, 40))
    t.notMatch(error.message, 'secret')
    t.ok(error.detail?.startsWith(`proxy http://127.0.0.1:${proxy.port}`))
    await proxy.deserted()
  }
})

t.test('a proxy that floods us with header is left at once', async t => {
  let sent = 0
  const proxy = await listen(t, socket => {
    socket.write('HTTP/1.1 200 OK\r\n')
    const flood = (): void => {
      while (sent < 10 << 20 && !socket.destroyed) {
        sent += 65_536
        if (!socket.write(`X-${sent}: ${'x'.repeat(65_520)}\r\n`)) return
      }
    }
    socket.on('drain', flood)
    flood()
  })

  const error = await refused(
    dial({ host: '192.0.2.1', port: 443 }, { proxy: `http://127.0.0.1:${proxy.port}` })
  )

  t.match(error, { code: 'PROXY_REFUSED', detail: /more than 16384 bytes/ })
  await proxy.deserted()
  t.ok(sent < 10 << 20)
})

t.test('bytes a proxy sends behind its header are not lost', async t => {
  const server = await tunnelServer(t, undefined)
  let answers = 0
  const proxy = await listen(t, socket => {
    socket.once('data', () => {
      answers++
      socket.write(
        'HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 403 Forbidden\r\nTendril-Error: CLUSTER_DENIED\r\nContent-Length: 0\r\n\r\n'
      )
    })
  })
  const { signal } = new AbortController()

  const error = await refused(
    connectServer(
      { url: `ws://127.0.0.1:${server.port}` },
      { proxy: `http://127.0.0.1:${proxy.port}`, signal }
    )
  )

  t.equal(error.code, 'CLUSTER_DENIED')
  t.equal(answers, 1)
  await proxy.deserted()
})

t.test('who never answers is named when the time is up, at every stage, and nothing stays open', async t => {
  const silent = await listen(t, socket => socket.resume())
  const at = ({ port }: Listener) => `127.0.0.1:${port}`
  /** Connects, waits until the listener has heard something for the nth time, lets the time pass. */
  const outOfTime = async (
    listener: Listener,
    received: number,
    options: Partial<ConnectOptions>,
    to = listener
  ) => {
    const clock = new FakeClock()
    const failure = refused(dial(to, { ...options, clock, timeoutMs: 5_000 }))
    for (let i = 0; i < received; i++) await once(listener.events, 'heard')
    clock.tick(4_999)
    await new Promise(setImmediate)
    clock.tick(1)
    const error = await failure
    await listener.deserted()
    t.equal(clock.pending, 0)
    return error
  }
  const unreachable = (waitingFor: string) => ({
    code: 'SERVER_UNREACHABLE',
    detail: `no answer within 5000 ms from ${waitingFor}`
  })
  const refusedBy = (waitingFor: string) => ({
    code: 'PROXY_REFUSED',
    detail: `no answer within 5000 ms from ${waitingFor}`
  })

  t.match(await outOfTime(silent, 1, {}), unreachable(`${at(silent)} (TLS handshake as vpn.demo.test)`))
  for (const scheme of ['http', 'https']) {
    const url = `${scheme}://${at(silent)}`
    t.match(await outOfTime(silent, 1, { proxy: url }), refusedBy(`proxy ${url}`))
    t.match(await outOfTime(silent, 1, { upstreamProxy: { url } }), refusedBy(`upstream proxy ${url}`))
  }
  const silentTls = await listen(t, socket => socket.resume(), { tls: serverTls })
  t.match(await outOfTime(silentTls, 1, {}), unreachable(`${at(silentTls)} (WebSocket upgrade)`))
  const half = await listen(t, socket => socket.resume().write('HTTP/1.1 200 OK\r\nX-'))
  t.match(await outOfTime(half, 1, { proxy: `http://${at(half)}` }), refusedBy(`proxy http://${at(half)}`))
  const stalled = await listen(t, socket =>
    socket.once('data', () => socket.write('HTTP/1.1 200 OK\r\n\r\n'))
  )
  t.match(
    await outOfTime(stalled, 2, { proxy: `http://${at(stalled)}` }),
    unreachable(`${at(stalled)} (TLS handshake as vpn.demo.test)`)
  )
})

t.test('an abort ends an attempt at once, at every stage', async t => {
  const silent = await listen(t, socket => socket.resume())
  const silentTls = await listen(t, socket => socket.resume(), { tls: serverTls })
  const via = `http://127.0.0.1:${silent.port}`
  const ways: [Listener, Partial<ConnectOptions>][] = [
    [silent, {}],
    [silentTls, {}],
    [silent, { proxy: via }],
    [silent, { upstreamProxy: { url: via } }]
  ]
  for (const [listener, options] of ways) {
    const controller = new AbortController()
    const failure = refused(dial(listener, { ...options, signal: controller.signal }))
    while (listener.sockets.size === 0) await new Promise(setImmediate)
    controller.abort()
    t.equal((await failure).code, 'CLOSED')
    await listener.deserted()
  }
  t.equal((await refused(dial(silent, { signal: AbortSignal.abort() }))).code, 'CLOSED')
  await silent.deserted()
})

t.test('what is wrong with the server is said in a sentence', async t => {
  const untrusted = authority('another ca')
  const long = new Date(Date.now() - 400 * 24 * 3_600_000)
  const table: [object, RegExp, string?][] = [
    [
      leaf(['other.test'], { uris: ['tendril://server'] }),
      /vpn\.demo\.test: its certificate is for other names \(DNS:other\.test.*\)$/
    ],
    [leaf([]), /its certificate is for other names/],
    [
      leaf(['vpn.demo.test'], { now: long }),
      /its certificate, or that of an authority above it, has expired$/
    ],
    [leaf(['vpn.demo.test'], { now: new Date(Date.now() + 3_600_000) }), /its certificate is not valid yet/],
    [untrusted.leaf(['vpn.demo.test']), /comes from an authority that is not in our ca file$/],
    [leaf(['vpn.demo.test'], { usages: ['clientAuth'] }), /is not meant for servers$/],
    [
      leaf(['vpn.demo.test'], { uris: ['tendril://client/demo'] }),
      /is the certificate of a client, not of a server/
    ],
    [
      leaf(['vpn.demo.test'], { uris: ['tendril://caller/kube-apiserver'] }),
      /is the certificate of a caller, not of a server/
    ]
  ]
  for (const [tls, detail] of table) {
    const server = await tunnelServer(t, { ...tls, ca })
    t.match(await refused(dial(server)), { code: 'SERVER_NOT_IDENTIFIED', detail }, String(detail))
    await server.deserted()
    t.same(server.requests, [], 'nothing was said to it')
  }

  const garbage = await listen(t, socket => socket.end('220 smtp.test ESMTP\r\n'))
  t.match(await refused(dial(garbage)), {
    code: 'SERVER_UNREACHABLE',
    detail: /does not speak TLS|closed the connection/
  })
  const shut = await listen(t, socket => socket.destroy())
  t.match(await refused(dial(shut)), {
    code: 'SERVER_UNREACHABLE',
    detail: /closed the connection during the TLS handshake/
  })
  await refused(dial({ host: '127.0.0.1', port: 1 })).then(error =>
    t.match(error, { code: 'SERVER_UNREACHABLE', detail: /127\.0\.0\.1:1: 127\.0\.0\.1: ECONNREFUSED/ })
  )
  const noName = connectServer(
    { url: 'wss://vpn.invalid' },
    { proxy: 'none', signal: new AbortController().signal }
  )
  t.match(await refused(noName), { code: 'SERVER_UNREACHABLE' })
})

t.test('a hop that is not who it says is the hop’s failure', async t => {
  const proxy = await proxyServer(t, { tls: leaf(['other.test']) })

  const error = await refused(
    dial({ host: '192.0.2.1', port: 443 }, { proxy: `https://127.0.0.1:${proxy.port}`, hopCa: ca })
  )

  t.match(error, { code: 'PROXY_REFUSED', detail: /^proxy https:.*its certificate is for other names/ })
  await proxy.deserted()
})

t.test('a hop that nobody vouches for is told with the store that would have to', async t => {
  const proxy = await proxyServer(t, { tls: leaf(['127.0.0.1']) })
  const url = `https://127.0.0.1:${proxy.port}`
  const unreached = { host: '192.0.2.1', port: 443 }
  const builtIn = /from an authority that is not among those built into Node \(proxyCa or NODE_EXTRA_CA_CERTS/
  const others = authority('another ca').ca

  for (const hop of [{ proxy: url }, { upstreamProxy: { url } }]) {
    t.match(await refused(dial(unreached, hop)), { code: 'PROXY_REFUSED', detail: builtIn })
    t.match(await refused(dial(unreached, { ...hop, hopCa: others })), {
      code: 'PROXY_REFUSED',
      detail: /from an authority that is not in proxyCa$/
    })
  }
  await proxy.deserted()
})

t.test('a refusal of the server keeps its code and its sentence', async t => {
  const table: [string, object][] = [
    [
      '401 client not identified: certificate of "x" expired',
      { code: 'CLIENT_NOT_IDENTIFIED', detail: 'vpn.demo.test answered 401: certificate of "x" expired' }
    ],
    [
      '403 not a client of this cluster: no',
      { code: 'CLUSTER_DENIED', detail: 'vpn.demo.test answered 403: no' }
    ],
    ['404 Not Found', { code: 'UNKNOWN_CLUSTER', detail: 'vpn.demo.test answered 404: Not Found' }],
    ['503 draining\r\nTendril-Error: DRAINING', { code: 'DRAINING', detail: 'vpn.demo.test answered 503' }],
    ['503 Service Unavailable', { code: 'OVERLOADED' }],
    ['502 x\r\nTendril-Error: VERSION_MISMATCH', { code: 'VERSION_MISMATCH' }],
    ['403 x\r\nTendril-Error: NO_SUCH_CODE', { code: 'CLUSTER_DENIED' }],
    ['403 x\r\nTendril-Error: toString', { code: 'CLUSTER_DENIED' }],
    ['200 OK', { code: 'PROTOCOL_ERROR', detail: /answered 200 OK, it is no tunnel server/ }],
    ['301 Moved\r\nLocation: http://127.0.0.1:1/', { code: 'PROTOCOL_ERROR' }],
    [
      '101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x',
      { code: 'PROTOCOL_ERROR' }
    ],
    [`200 OK\r\nX: ${'x'.repeat(20_000)}`, { code: 'PROTOCOL_ERROR', detail: /too large a header/ }]
  ]
  for (const [answer, expected] of table) {
    const server = await tunnelServer(t, serverTls, {
      refuse: `HTTP/1.1 ${answer}\r\nContent-Length: 0\r\n\r\n`
    })
    t.match(await refused(dial(server)), expected, answer.slice(0, 40))
    await server.deserted()
  }
  for (const [answer, expected] of [
    ['', { code: 'SERVER_UNREACHABLE' }],
    ['garbage\r\n\r\n', { code: 'PROTOCOL_ERROR' }]
  ] as const) {
    const server = await tunnelServer(t, serverTls, { refuse: answer })
    t.match(await refused(dial(server)), expected, answer)
    await server.deserted()
  }
})

t.test('a server that insists on another client certificate says so', async t => {
  const server = await tunnelServer(t, { ...serverTls, requestCert: true, rejectUnauthorized: true })
  t.match(await refused(dial(server, { tls: { ca } })), { code: /CLIENT_NOT_IDENTIFIED|SERVER_UNREACHABLE/ })
  await server.deserted()

  const old = await tunnelServer(t, { ...serverTls, maxVersion: 'TLSv1.2' })
  const { websocket } = await dial(old)
  t.equal(await speak(websocket), 'hello ping', 'TLS 1.2 will do')
  await closed(websocket)
})

t.test('a server address that cannot be read is a configuration error', async t => {
  const wrong = connectServer(
    { url: 'wss://vpn.demo.test', address: 'nonsense' },
    { signal: new AbortController().signal }
  )
  t.match(await refused(wrong), { code: 'BAD_CONFIG', detail: /the server's address "nonsense"/ })
})

t.test('an attempt that fails between two steps leaves no socket open, whatever throws', async t => {
  const server = await tunnelServer(t, serverTls)
  const proxy = await proxyServer(t, { to: server })
  const tlsProxy = await proxyServer(t, { tls: leaf(['127.0.0.1']), to: server })
  const at = ({ port }: Listener) => `127.0.0.1:${port}`
  const beyond = 'X \u{1F600}'
  const noPem = '-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----'
  const table: [string, Listener, Partial<ConnectOptions>, string][] = [
    ['a raw % in a password', proxy, { proxy: `http://user:50%@${at(proxy)}` }, 'BAD_CONFIG'],
    [
      'a raw % in the environment',
      proxy,
      { proxy: 'env', env: { ALL_PROXY: `u:%zz@${at(proxy)}` } },
      'BAD_CONFIG'
    ],
    [
      'a credential that is no header',
      proxy,
      { proxy: `http://${at(proxy)}`, proxyAuthorization: beyond },
      'BAD_CONFIG'
    ],
    [
      'a line break in one',
      proxy,
      { proxy: `http://${at(proxy)}`, proxyAuthorization: 'a\r\nb' },
      'BAD_CONFIG'
    ],
    [
      'a header of the upstream proxy',
      proxy,
      { upstreamProxy: { url: `http://${at(proxy)}`, headers: { X: beyond } } },
      'BAD_CONFIG'
    ],
    [
      'an authority of the proxy',
      tlsProxy,
      { proxy: `https://${at(tlsProxy)}`, hopCa: noPem },
      'PROXY_REFUSED'
    ],
    ['a certificate of ours', server, { tls: { cert: noPem, key: noPem } }, 'SERVER_UNREACHABLE'],
    [
      'the same behind a proxy',
      proxy,
      { proxy: `http://${at(proxy)}`, tls: { cert: noPem, key: noPem } },
      'SERVER_UNREACHABLE'
    ],
    ['a header of the upgrade', server, { headers: { X: beyond } }, 'SERVER_UNREACHABLE'],
    [
      'the same behind a proxy',
      proxy,
      { proxy: `http://${at(proxy)}`, headers: { X: beyond } },
      'SERVER_UNREACHABLE'
    ]
  ]
  const descriptors = async (): Promise<number> => {
    for (const listener of [server, proxy, tlsProxy]) await listener.deserted()
    await new Promise(setImmediate)
    return readdirSync('/proc/self/fd').length
  }
  for (const [what, first, options, code] of table) {
    const before = await descriptors()
    for (let attempt = 0; attempt < 5; attempt++) {
      // One that leads on to the server must not go there directly.
      const to =
        options.proxy === undefined && !options.upstreamProxy ? first : { host: '192.0.2.1', port: 443 }
      const error = await refused(dial(to, options))
      t.equal(error.code, code, `${what}: ${error.message}`)
    }
    t.equal(await descriptors(), before, `${what}: nothing is left open`)
  }
})

t.test('fields of a proxy’s answer that mean nothing in a CONNECT do not decide', async t => {
  const server = await tunnelServer(t, serverTls)
  const heads = [
    'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n',
    '\r\nHTTP/1.0 200 OK\nX: y\n folded\n\n'
  ]
  for (const head of heads) {
    const proxy = await proxyServer(t, { to: server, accept: head })
    const { websocket } = await dial(
      { host: '192.0.2.1', port: 443 },
      { proxy: `http://127.0.0.1:${proxy.port}` }
    )
    t.equal(await speak(websocket), 'hello ping', JSON.stringify(head))
    await closed(websocket)
    await proxy.deserted()
  }
})
