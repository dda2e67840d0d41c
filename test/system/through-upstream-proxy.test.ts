/**
 * The client's way in through a gateway like Gardener's: a plaintext CONNECT whose target is thrown away and whose
 * header must match a pattern; TLS to the server runs inside, unopened.
 */
import t, { type Test } from 'tap'
import { httpGet } from '../support/apiserver.js'
import { deploy, type Settings, type Deployment } from '../support/deployment.js'
import { requireTool, until } from '../support/child-process.js'
import { gateway, squid, type Address, type Gateway } from '../support/proxies.js'
import { echoTarget, podTarget, refusedPort, sinkTarget } from '../support/targets.js'
import { digestOf, echo, MIB, upload } from './talk.js'

const PATTERN = /^outbound\|8132\|\|seed-server\.shoot--[a-z0-9-]+\.svc\.cluster\.local$/
const DESTINATION = 'outbound|8132||seed-server.shoot--garden--demo.svc.cluster.local'

type Way = { hop: Gateway; server: Address }

/** A deployment behind the gateway, which alone knows where the server is: clients are given a name that leads nowhere. */
async function behindGateway(
  t: Test,
  { destination = DESTINATION, startClients = true, client = {} }: Partial<Plan> = {}
): Promise<Deployment & { way: Way }> {
  const way = { server: { host: '127.0.0.1', port: await refusedPort() } } as Way
  way.hop = await gateway(t, { pattern: PATTERN, route: () => way.server })
  const deployment = await deploy(t, {
    startClients,
    before: tunnel => (way.server = tunnel),
    shoot: settings => ({
      ...settings,
      servers: [{ url: 'wss://vpn.demo.test:8132' }],
      gateway: { url: way.hop.url, headers: { 'X-Gardener-Destination': destination } },
      ...client
    })
  })
  return { ...deployment, way }
}

type Plan = { destination: string; startClients: boolean; client: Settings }

t.test('the header leads to the server, whose name nobody on the way has to resolve', async t => {
  const { dial, way } = await behindGateway(t)
  const pod = await podTarget(t)
  const sink = await sinkTarget(t)

  const answer = await httpGet(await dial(pod.addr))
  const up = await dial(sink.addr)
  await upload(up, 10 * MIB)

  t.equal(answer.status, 200)
  t.strictSame(await sink.received(), digestOf(10 * MIB))
  t.match(way.hop.heads[0], /^CONNECT vpn\.demo\.test:8132 HTTP\/1\.1\r\n/)
  t.match(way.hop.heads[0], `X-Gardener-Destination: ${DESTINATION}`)
  up.destroy()
})

t.test(
  'a destination that the pattern does not allow is a redirect, which is said and not followed',
  async t => {
    const { clients } = await behindGateway(t, { destination: 'outbound|22||node', startClients: false })

    await clients[0]!.start()

    const why = /proxy refused: gateway http:\/\/127\.0\.0\.1:\d+ answered 301 Moved Permanently/
    await until('the client says why', () => why.test(clients[0]!.log()))
  }
)

t.test('a gateway whose server is away is a 503, and the client comes in once it is back', async t => {
  const { clients, dial, way } = await behindGateway(t, {
    startClients: false,
    client: { reconnect: { maxDelay: '100ms' } }
  })
  const { server } = way
  way.server = { host: '127.0.0.1', port: await refusedPort() }
  const echoing = await echoTarget(t)

  await clients[0]!.start()
  await until('it was refused', () => /answered 503/.test(clients[0]!.log()))
  way.server = server
  await clients[0]!.ready()

  const stream = await dial(echoing.addr)
  t.equal(await echo(stream, 'back'), 'back')
  stream.destroy()
})

t.test('the gateway may itself be behind squid', async t => {
  if (!requireTool(t, 'squid')) return
  const proxy = await squid(t)
  // At SIGTERM it would think for two seconds.
  t.teardown(() => {
    proxy.child.kill('SIGKILL')
  })
  const { dial, server, clients, way } = await behindGateway(t, { client: { proxy: proxy.url } })
  const pod = await podTarget(t)

  const answer = await httpGet(await dial(pod.addr))

  t.equal(answer.status, 200)
  await clients[0]!.stop()
  await server.stop()
  await until('squid has written its log', () =>
    proxy.accessLog().includes(`CONNECT 127.0.0.1:${way.hop.port}`)
  )
})
