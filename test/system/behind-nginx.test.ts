/** The whole path behind a real nginx with `ssl_preread`: what haproxy is trusted with, the other one must do as well. */
import t from 'tap'
import { httpGet } from '../support/apiserver.js'
import { requireTool, until } from '../support/child-process.js'
import { nginx } from '../support/proxies.js'
import { echoTarget, podTarget, sinkTarget, sourceTarget } from '../support/targets.js'
import { twoClustersBehind, NAMES, relayFrom, WEB_GREETING } from './two-clusters.js'
import { digest, echo, inParallel, MIB, upload } from './talk.js'

/** An address of this machine that nothing else connects from. */
const CLIENT_ADDRESS = '127.77.0.8'

t.test('two clusters and a web site share one port: each name reaches its own', async t => {
  if (!requireTool(t, 'nginx')) return
  const { reach, visit, replicas } = await twoClustersBehind(t, nginx)
  const pod = await podTarget(t)

  for (const cluster of ['blue', 'green'] as const) {
    const answer = await httpGet(await reach(cluster, pod.addr))
    t.equal(answer.body.toString(), 'hello from the pod: GET /\n')
  }
  t.equal(await visit(NAMES.web), WEB_GREETING)
  t.equal(await visit('nobody.test'), '', 'a name that nobody has is closed')

  const [blue, green] = replicas
  t.match(await blue!.server.metrics(), /tendril_server_dials_total\{cluster="blue",code="OK"\} 1\n/)
  t.match(await green!.server.metrics(), /tendril_server_dials_total\{cluster="green",code="OK"\} 1\n/)
})

t.test('a client that asks for the name of another cluster is refused, and told why', async t => {
  if (!requireTool(t, 'nginx')) return
  const { clients } = await twoClustersBehind(t, nginx, { startClients: false, askFor: () => NAMES.green })
  const [stray] = clients

  await stray!.start()

  const why = 'the certificate is for cluster \\"blue\\", which is not configured here'
  await until('the client says why', () => stray!.log().includes(why))
})

t.test('100 MiB each way arrive byte for byte', async t => {
  if (!requireTool(t, 'nginx')) return
  const { reach } = await twoClustersBehind(t, nginx, { processes: true })
  const source = await sourceTarget(t, 100 * MIB)
  const sink = await sinkTarget(t)

  const down = await reach('green', source.addr)
  t.strictSame(await digest(down), { bytes: 100 * MIB, sha256: source.sha256 })
  down.end()

  const up = await reach('blue', sink.addr)
  await upload(up, 100 * MIB)
  t.strictSame(await sink.received(), { bytes: 100 * MIB, sha256: source.sha256 })
  up.destroy()
})

t.test('200 streams are open at once, and each hears its own', async t => {
  if (!requireTool(t, 'nginx')) return
  const COUNT = 200
  const { reach } = await twoClustersBehind(t, nginx, { processes: true })
  const target = await echoTarget(t)

  const streams = await inParallel(COUNT, 32, () => reach('green', target.addr))
  await until('the target has seen them all', () => target.open() === COUNT)
  const got = await Promise.all(streams.map((stream, index) => echo(stream, `I am number ${index}`)))

  t.ok(
    got.every((text, index) => text === `I am number ${index}`),
    'nobody hears somebody else'
  )
  for (const stream of streams) stream.destroy()
  await until('every target connection has ended', () => target.open() === 0)
})

t.test("PROXY protocol v1, all that nginx speaks, carries the client's address through", async t => {
  if (!requireTool(t, 'nginx')) return
  const { reach, replicas } = await twoClustersBehind(t, nginx, {
    proxyProtocol: 'v1',
    entrance: proxy => relayFrom(t, CLIENT_ADDRESS, proxy)
  })
  const pod = await podTarget(t)

  const answer = await httpGet(await reach('green', pod.addr))

  t.equal(answer.status, 200)
  for (const { server } of replicas)
    t.match(server.log(), new RegExp(`"remote":"${CLIENT_ADDRESS}".*client connected`))
})
