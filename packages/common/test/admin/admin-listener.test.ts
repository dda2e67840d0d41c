import { once } from 'node:events'
import { type Socket, connect } from 'node:net'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import {
  type Admin,
  ADMIN_HEADER_LIMIT_BYTES,
  ADMIN_MAX_CONNECTIONS_PER_SOURCE,
  type AdminOptions,
  createAdmin,
  type Readiness
} from '../../src/admin/admin-listener.js'
import { createLog } from '../../src/log.js'
import { createMetrics } from '../../src/metrics.js'

async function admin(
  t: Test,
  ready: () => Readiness = () => ({ ok: true, reasons: ['all is well'] }),
  limits: Partial<AdminOptions> = {}
): Promise<Admin & { url: string }> {
  const { registry: metrics } = createMetrics({ program: 'x', version: '0', processMetrics: false })
  const log = createLog({ level: 'silent' })
  const opened = await createAdmin({
    program: 'x',
    listen: { host: '127.0.0.1', port: 0 },
    ready,
    metrics,
    log,
    ...limits
  })
  t.teardown(() => opened.close())
  return { ...opened, url: `http://127.0.0.1:${opened.address.port}` }
}

/** Sends bytes as they are and returns everything that came back until the end. */
async function raw(port: number, bytes: string): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  socket.write(bytes)
  return text(socket)
}

t.test('alive, and ready with reasons when asked or when not', async t => {
  let state: Readiness = { ok: true, reasons: ['cluster demo: 1 client connected'] }
  const { url } = await admin(t, () => state)

  const alive = await fetch(`${url}/livez`)
  t.equal(alive.status, 200)
  t.equal(await alive.text(), 'ok\n')
  t.equal(await (await fetch(`${url}/readyz`)).text(), 'ok\n')
  t.equal(await (await fetch(`${url}/readyz?verbose`)).text(), 'ok\ncluster demo: 1 client connected\n')

  state = { ok: false, reasons: ['cluster demo: no client connected'] }
  const unready = await fetch(`${url}/readyz`)
  t.equal(unready.status, 503)
  t.equal(await unready.text(), 'not ready\ncluster demo: no client connected\n')
  t.equal((await fetch(`${url}/livez`)).status, 200)
})

t.test('metrics come as Prometheus reads them, and / leads to everything', async t => {
  const { url } = await admin(t)

  const metrics = await fetch(`${url}/metrics`)
  t.match(metrics.headers.get('content-type'), /^text\/plain; version=0\.0\.4/)
  t.match(await metrics.text(), /tendril_build_info/)
  t.equal(metrics.headers.get('cache-control'), 'no-store')
  const index = await (await fetch(url)).text()
  for (const path of ['/livez', '/readyz', '/metrics']) t.match(index, `href="${path}"`)
})

t.test('it is only read: other methods and bodies are refused', async t => {
  const { url, address } = await admin(t)

  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH']) {
    for (const path of ['/livez', '/nowhere']) {
      const answer = await fetch(url + path, { method })
      t.equal(answer.status, 405, `${method} ${path}`)
      t.equal(answer.headers.get('allow'), 'GET, HEAD')
    }
  }
  const withBody = await fetch(`${url}/livez`, { method: 'POST', body: 'x'.repeat(1_000_000) }).catch(
    () => undefined
  )
  t.ok(withBody === undefined || withBody.status === 405)
  t.match(
    await raw(address.port, 'GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello'),
    /^HTTP\/1\.1 413 /
  )
  t.equal((await fetch(`${url}/livez`, { method: 'HEAD' })).status, 200)
  t.match(await raw(address.port, 'CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n'), /^(HTTP\/1\.1 4|$)/)
})

t.test('what is not there says what is', async t => {
  const { url } = await admin(t)

  const answer = await fetch(`${url}/healthz`)

  t.equal(answer.status, 404)
  t.match(await answer.text(), /\/livez, \/readyz, \/metrics/)
})

t.test('a header as large as the limit allows is read, a larger one is refused', async t => {
  const { address } = await admin(t)
  const request = (bytes: number): string =>
    `GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: ${'x'.repeat(bytes)}\r\n\r\n`

  t.match(await raw(address.port, request(ADMIN_HEADER_LIMIT_BYTES / 2)), /^HTTP\/1\.1 200 /)
  t.match(await raw(address.port, request(ADMIN_HEADER_LIMIT_BYTES)), /^HTTP\/1\.1 431 /)
})

t.test('who begins a request and never ends it is sent away, and others are served meanwhile', async t => {
  const { url, address } = await admin(t, undefined, { headerTimeoutMs: 50 })

  const slow = raw(address.port, 'GET /livez HTTP/1.1\r\nHost: x\r\n')
  t.equal((await fetch(`${url}/livez`)).status, 200)

  t.match(await slow, /^HTTP\/1\.1 408 /)
})

/** Connections that have asked once and stay open. */
async function hold(t: Test, port: number, count: number): Promise<Socket[]> {
  const held: Socket[] = []
  for (let at = 0; at < count; at++) {
    const socket = connect(port, '127.0.0.1').on('error', () => {})
    t.teardown(() => socket.destroy())
    socket.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n')
    await once(socket, 'data')
    held.push(socket)
  }
  return held
}

t.test(
  'a thousand idle connections of one address: the newest is answered, the oldest are closed',
  async t => {
    const { url, address } = await admin(t)

    const held = await hold(t, address.port, 1_000)
    t.equal((await fetch(`${url}/livez`)).status, 200)

    const keptFrom = held.length - (ADMIN_MAX_CONNECTIONS_PER_SOURCE - 1)
    for (const socket of held.slice(0, keptFrom)) if (!socket.closed) await once(socket, 'close')
    t.ok(
      held.slice(keptFrom).every(({ closed }) => !closed),
      'no more than needed'
    )
  }
)

t.test('a thousand that said nothing do not hold it up, either', async t => {
  const { url, address } = await admin(t)
  const silent = [...Array(1_000)].map(() => connect(address.port, '127.0.0.1').on('error', () => {}))
  t.teardown(() => silent.forEach(socket => socket.destroy()))

  t.equal((await fetch(`${url}/livez`)).status, 200)
})

t.test(
  'at the limit all are served, one more closes an idle one and none that is being answered',
  async t => {
    let answerNow = (): void => {}
    const answering = new Promise<Readiness>(resolve => {
      answerNow = () => resolve({ ok: true, reasons: [] })
    })
    let asked = (): void => {}
    const isAsked = new Promise<void>(resolve => (asked = resolve))
    const ready = (): Promise<Readiness> => {
      asked()
      return answering
    }
    const { address } = await admin(t, ready as never, { maxConnections: 3, maxConnectionsPerSource: 2 })

    const busy = connect(address.port, '127.0.0.1')
    busy.write('GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n')
    await isAsked
    const [idle] = await hold(t, address.port, 1)
    t.notOk(idle!.readableEnded, 'two')
    const gone = once(idle!, 'close')
    const [next] = await hold(t, address.port, 1)
    await gone
    answerNow()
    t.match(String((await once(busy, 'data'))[0]), /^HTTP\/1\.1 200 /)
    t.notOk(next!.destroyed)
    busy.destroy()
  }
)

t.test('a name that a page could have is answered 421, with the key that allows it', async t => {
  const { address } = await admin(t, undefined, { allowedHosts: ['*.svc'] })
  const ask = (host: string): Promise<string> =>
    raw(address.port, `GET /metrics HTTP/1.1\r\n${host}Connection: close\r\n\r\n`)

  t.match(await ask('Host: evil.example\r\n'), /^HTTP\/1\.1 421 [^]*add the name to admin\.allowedHosts/)
  t.match(await ask('Host: tendril.kube-system.svc:8095\r\n'), /^HTTP\/1\.1 200 /)
  t.match(await raw(address.port, 'GET /livez HTTP/1.0\r\n\r\n'), /^HTTP\/1\.1 200 /, 'no Host in HTTP/1.0')
  t.match(await ask(''), /^HTTP\/1\.1 400 /, 'no Host in HTTP/1.1')
})

t.test('a failing reader of metrics is an error for the log, not for the world', async t => {
  const lines: string[] = []
  const log = createLog({ destination: { write: line => void lines.push(line) } })
  const metrics = { contentType: 'text/plain', metrics: () => Promise.reject(new Error('secret path')) }
  const listen = { host: '127.0.0.1', port: 0 }
  const opened = await createAdmin({
    program: 'x',
    listen,
    ready: () => ({ ok: true, reasons: [] }),
    metrics,
    log
  })
  t.teardown(() => opened.close())

  const answer = await fetch(`http://127.0.0.1:${opened.address.port}/metrics`)

  t.equal(answer.status, 500)
  t.notMatch(await answer.text(), /secret/)
  t.match(lines.at(-1), /secret path/)
})

t.test('closing does not wait for connections that are kept open', async t => {
  const { address, close } = await admin(t)
  const socket = connect(address.port, '127.0.0.1')
  socket.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n')
  await new Promise(resolve => socket.once('data', resolve))
  const ended = new Promise(resolve => socket.once('close', resolve))

  await close()

  await ended
  await t.resolves(close(), 'twice is fine')
})

t.test('an address that is taken is named, with what listens there', async t => {
  const { address } = await admin(t)

  await t.rejects(
    createAdmin({
      program: 'x',
      listen: address,
      ready: () => ({ ok: true, reasons: [] }),
      metrics: createMetrics({ program: 'x', version: '0', processMetrics: false }).registry,
      log: createLog({ level: 'silent' })
    }),
    {
      code: 'LISTEN_FAILED',
      message: `cannot listen on 127.0.0.1:${address.port} (admin): the address is in use by another program`
    }
  )
})

t.test('without a host it listens everywhere', async t => {
  const { registry: metrics } = createMetrics({ program: 'x', version: '0', processMetrics: false })
  const log = createLog({ level: 'silent' })
  const opened = await createAdmin({
    program: 'x',
    listen: { host: '', port: 0 },
    ready: () => ({ ok: true, reasons: [] }),
    metrics,
    log
  })
  t.teardown(() => opened.close())

  t.equal((await fetch(`http://127.0.0.1:${opened.address.port}/livez`)).status, 200)
})
