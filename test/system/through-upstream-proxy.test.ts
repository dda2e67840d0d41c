/**
 * A client that connects through an upstream proxy like Gardener's Istio gateway: the target of its plaintext CONNECT is
 * ignored, a header must match a pattern, and TLS to the server runs inside, unopened.
 */
import t, { type Test } from 'tap'
import { httpGet } from '../support/apiserver.js'
import { deploy, type Settings, type Deployment } from '../support/deployment.js'
import { requireTool, until } from '../support/child-process.js'
import { squid, type Address, upstreamProxy, type UpstreamProxy } from '../support/proxies.js'
import { echoTarget, podTarget, refusedPort, sinkTarget } from '../support/targets.js'
import { digestOf, echo, MIB, upload } from './talk.js'

const PATTERN = /^outbound\|8132\|\|seed-server\.shoot--[a-z0-9-]+\.svc\.cluster\.local$/
const DESTINATION = 'outbound|8132||seed-server.shoot--garden--demo.svc.cluster.local'

type Path = { hop: UpstreamProxy; server: Address }

/** A deployment behind the upstream proxy. Only the proxy has the server's address: the name that clients have does not resolve. */
async function behindUpstreamProxy(
  t: Test,
  { destination = DESTINATION, startClients = true, client = {} }: Partial<Plan> = {}
): Promise<Deployment & { path: Path }> {
  const path = { server: { host: '127.0.0.1', port: await refusedPort() } } as Path
  path.hop = await upstreamProxy(t, { pattern: PATTERN, route: () => path.server })
  const deployment = await deploy(t, {
    startClients,
    before: tunnel => (path.server = tunnel),
    shoot: settings => ({
      ...settings,
      servers: [{ url: 'wss://vpn.demo.test:8132' }],
      upstreamProxy: { url: path.hop.url, headers: { 'X-Gardener-Destination': destination } },
      ...client
    })
  })
  return { ...deployment, path }
}

type Plan = { destination: string; startClients: boolean; client: Settings }

t.test('the header leads to the server, whose name nobody on the way has to resolve', async t => {
  const { dial, path } = await behindUpstreamProxy(t)
  const pod = await podTarget(t)
  const sink = await sinkTarget(t)

  const answer = await httpGet(await dial(pod.addr))
  const up = await dial(sink.addr)
  await upload(up, 10 * MIB)

  t.equal(answer.status, 200)
  t.strictSame(await sink.received(), digestOf(10 * MIB))
  t.match(path.hop.heads[0], /^CONNECT vpn\.demo\.test:8132 HTTP\/1\.1\r\n/)
  t.match(path.hop.heads[0], `X-Gardener-Destination: ${DESTINATION}`)
  up.destroy()
})

t.test(
  'a destination that the pattern does not allow is a redirect, which is said and not followed',
  async t => {
    const { clients } = await behindUpstreamProxy(t, {
      destination: 'outbound|22||node',
      startClients: false
    })

    await clients[0]!.start()

    const why = /proxy refused: upstream proxy http:\/\/127\.0\.0\.1:\d+ answered 301 Moved Permanently/
    await until('the client says why', () => why.test(clients[0]!.log()))
  }
)

t.test(
  'an upstream proxy whose server is away is a 503, and the client comes in once it is back',
  async t => {
    const { clients, dial, path } = await behindUpstreamProxy(t, {
      startClients: false,
      client: { reconnect: { maxDelay: '100ms' } }
    })
    const { server } = path
    path.server = { host: '127.0.0.1', port: await refusedPort() }
    const echoing = await echoTarget(t)

    await clients[0]!.start()
    await until('it was refused', () => /answered 503/.test(clients[0]!.log()))
    path.server = server
    await clients[0]!.ready()

    const stream = await dial(echoing.addr)
    t.equal(await echo(stream, 'back'), 'back')
    stream.destroy()
  }
)

t.test('the upstream proxy may itself be behind squid', async t => {
  if (!requireTool(t, 'squid')) return
  const proxy = await squid(t)
  // At SIGTERM it would think for two seconds.
  t.teardown(() => {
    proxy.child.kill('SIGKILL')
  })
  const { dial, server, clients, path } = await behindUpstreamProxy(t, { client: { proxy: proxy.url } })
  const pod = await podTarget(t)

  const answer = await httpGet(await dial(pod.addr))

  t.equal(answer.status, 200)
  await clients[0]!.stop()
  await server.stop()
  await until('squid has written its log', () =>
    proxy.accessLog().includes(`CONNECT 127.0.0.1:${path.hop.port}`)
  )
})
