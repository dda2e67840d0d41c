/** The client's way out through a proxy that is itself reached over TLS, with a certificate of its own authority. */
import { X509Certificate, createPrivateKey, createPublicKey } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer, type IncomingMessage } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { dirname, join } from 'node:path'
import { createServer } from 'node:tls'
import t, { type Test } from 'tap'
import { createAuthority } from '@tendril/common/identity/certificate'
import { writePki } from '@tendril/seed-server/identity/authority'
import { httpGet } from '../support/apiserver.js'
import { ask } from '../support/ask.js'
import { deploy } from '../support/deployment.js'
import { until } from '../support/child-process.js'
import { podTarget } from '../support/targets.js'

/** A CONNECT proxy behind TLS. `ca`: the file of the only authority that vouches for it. */
async function tlsProxy(t: Test): Promise<{ url: string; ca: string; connects: string[] }> {
  const dir = t.testdir({})
  await writePki({ dir: `${dir}/proxy`, hosts: ['127.0.0.1'], clusters: ['none'] })
  const file = (name: string) => `${dir}/proxy/${name}`

  const connects: string[] = []
  const http = createHttpServer().on('connect', ({ url = '' }: IncomingMessage, socket: Socket) => {
    connects.push(url)
    const { hostname, port } = new URL(`tcp://${url}`)
    const far = connect({ host: hostname, port: Number(port) }, () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
      socket.pipe(far).pipe(socket)
    })
    for (const [one, other] of [
      [socket, far],
      [far, socket]
    ] as const)
      one.on('error', () => {}).once('close', () => other.destroy())
  })
  const server = createServer(
    { cert: readFileSync(file('server.crt')), key: readFileSync(file('server.key')) },
    socket => http.emit('connection', socket)
  )
  server.on('tlsClientError', () => {})
  t.teardown(() => server.close())
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`, ca: file('ca.crt'), connects }
}

t.test('proxyCa names the authority of an https proxy, and a pod is reached through it', async t => {
  const proxy = await tlsProxy(t)
  const { dial, tunnel } = await deploy(t, {
    shoot: settings => ({ ...settings, proxy: proxy.url, proxyCa: proxy.ca })
  })
  const pod = await podTarget(t)

  const answer = await httpGet(await dial(pod.addr))

  t.equal(answer.status, 200)
  t.same(proxy.connects, [`127.0.0.1:${tunnel.port}`])
})

t.test(
  'without it, or with that of the tunnel, the client says which store does not vouch for it',
  async t => {
    const proxy = await tlsProxy(t)
    for (const [what, why] of [
      ['none', /not among those built into Node \(proxyCa or NODE_EXTRA_CA_CERTS names others\)/],
      ['tunnel', /not in proxyCa/]
    ] as const) {
      await t.test(what, async t => {
        const { clients } = await deploy(t, {
          startClients: false,
          shoot: settings => ({
            ...settings,
            proxy: proxy.url,
            ...(what === 'tunnel' && { proxyCa: (settings['tls'] as { ca: string }).ca })
          })
        })

        await clients[0]!.start()

        await until(`the client says ${String(why)}`, () => why.test(clients[0]!.log()))
        const { status, body } = await ask(`${clients[0]!.admin}/readyz`)
        t.equal(status, 503)
        t.match(body, why)
        t.notMatch(body, /tls\.ca|our ca file/)
      })
    }
    t.same(proxy.connects, [], 'nothing was asked of it')
  }
)

/** A file of the same directory: the proxy's authority as it was before it was renewed, expired, with others behind it. */
function expiredBefore(ca: string, others: string): string {
  const { subject } = new X509Certificate(readFileSync(ca))
  const privateKey = createPrivateKey(readFileSync(ca.replace(/crt$/, 'key')))
  const old = createAuthority({
    commonName: subject.replace('CN=', ''),
    keys: { privateKey, publicKey: createPublicKey(privateKey) },
    now: new Date('2026-01-01T00:00:00Z'),
    validityDays: 1
  })
  const path = join(dirname(ca), 'proxy-ca.crt')
  writeFileSync(path, old + others)
  return path
}

t.test(
  'an expired authority in proxyCa is left out and named, and does not block the renewed one',
  async t => {
    const proxy = await tlsProxy(t)
    const proxyCa = expiredBefore(proxy.ca, readFileSync(proxy.ca, 'utf8'))
    const { dial, clients } = await deploy(t, {
      shoot: settings => ({ ...settings, proxy: proxy.url, proxyCa })
    })
    const pod = await podTarget(t)

    t.equal((await httpGet(await dial(pod.addr))).status, 200)

    const named = clients[0]!
      .log()
      .match(/in [^"]*proxy-ca\.crt expired on 2026-01-02T00:00:00Z and is not used/g)
    t.equal(named?.length, 1, 'once, however many attempts are made')
  }
)

t.test('a proxyCa whose authorities have all expired ends the start', async t => {
  const proxy = await tlsProxy(t)
  const proxyCa = expiredBefore(proxy.ca, '')
  const { clients } = await deploy(t, {
    startClients: false,
    shoot: settings => ({ ...settings, proxy: proxy.url, proxyCa })
  })

  await t.rejects(clients[0]!.start(), {
    code: 'BAD_IDENTITY',
    message: /every authority in .*proxy-ca\.crt has expired/
  })
})

t.test('a proxyCa that cannot be read ends the start with the name of the file', async t => {
  const { clients } = await deploy(t, {
    startClients: false,
    shoot: settings => ({ ...settings, proxyCa: '/does/not/exist.crt' })
  })

  await t.rejects(clients[0]!.start(), {
    code: 'BAD_IDENTITY',
    message: /\/does\/not\/exist\.crt does not exist/
  })
})

t.test('a SOCKS proxy in ALL_PROXY is ignored with one warning, and the resolver is announced', async t => {
  const before = process.env['ALL_PROXY']
  t.teardown(() => {
    if (before === undefined) delete process.env['ALL_PROXY']
    else process.env['ALL_PROXY'] = before
  })
  process.env['ALL_PROXY'] = 'socks5://user:s3cret@127.0.0.1:1'

  const { clients, server } = await deploy(t, { shoot: settings => ({ ...settings, proxy: 'env' }) })

  const lines = (log: string, event: string) =>
    log.split('\n').flatMap(line => {
      const fields = line.startsWith('{') ? (JSON.parse(line) as Record<string, unknown>) : {}
      return fields['event'] === event ? [fields] : []
    })
  t.match(lines(clients[0]!.log(), 'proxy.ignored'), [{ level: 'warn', variable: 'ALL_PROXY' }])
  t.notMatch(clients[0]!.log(), 's3cret')
  for (const { log } of [clients[0]!, server]) {
    const [chosen, ...more] = lines(log(), 'resolver.chosen')
    t.match(chosen, { resolver: /own|system/, reasons: [/./] })
    t.same(more, [])
  }
})
