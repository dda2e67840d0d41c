/** The whole path behind a real haproxy that looks at the TLS name and passes everything else on untouched. */
import { connect } from 'node:net'
import { once } from 'node:events'
import t from 'tap'
import { httpGet } from '../support/apiserver.js'
import { requireTool, until } from '../support/child-process.js'
import { haproxy } from '../support/proxies.js'
import { echoTarget, podTarget, sinkTarget, sourceTarget } from '../support/targets.js'
import { twoClustersBehind, NAMES, relayFrom, WEB_GREETING } from './two-clusters.js'
import { digest, echo, inParallel, MIB, upload } from './talk.js'

/** An address of this machine that nothing else connects from. */
const CLIENT_ADDRESS = '127.77.0.7'

t.test('two clusters and a web site share one port: each name reaches its own', async t => {
  if (!requireTool(t, 'haproxy')) return
  const { reach, visit, replicas } = await twoClustersBehind(t, haproxy)
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
  if (!requireTool(t, 'haproxy')) return
  const { clients, replicas, reach } = await twoClustersBehind(t, haproxy, {
    startClients: false,
    askFor: () => NAMES.green
  })
  const [stray, home] = clients

  await home!.start()
  await home!.ready()
  await stray!.start()

  const why = 'the certificate is for cluster \\"blue\\", which is not configured here'
  await until('the client says why', () => stray!.log().includes(why))
  await until('the server says why', () => replicas[1]!.server.log().includes(why))
  t.match(await replicas[1]!.server.metrics(), /tunnel_refusals_total\{code="CLUSTER_DENIED"\} [1-9]/)
  const echoing = await echoTarget(t)
  const stream = await reach('green', echoing.addr)
  t.equal(await echo(stream, 'undisturbed'), 'undisturbed')
  stream.destroy()
})

t.test('100 MiB each way arrive byte for byte', async t => {
  if (!requireTool(t, 'haproxy')) return
  const { reach } = await twoClustersBehind(t, haproxy, { processes: true })
  const source = await sourceTarget(t, 100 * MIB)
  const sink = await sinkTarget(t)

  const down = await reach('blue', source.addr)
  t.strictSame(await digest(down), { bytes: 100 * MIB, sha256: source.sha256 })
  down.end()

  const up = await reach('green', sink.addr)
  await upload(up, 100 * MIB)
  t.strictSame(await sink.received(), { bytes: 100 * MIB, sha256: source.sha256 })
  up.destroy()
})

t.test('1000 streams are open at once, and each hears its own', async t => {
  if (!requireTool(t, 'haproxy')) return
  const COUNT = 1_000
  const { reach, replicas } = await twoClustersBehind(t, haproxy, { processes: true })
  const target = await echoTarget(t)

  const streams = await inParallel(COUNT, 32, () => reach('blue', target.addr))
  await until('the target has seen them all', () => target.open() === COUNT)
  t.match(await replicas[0]!.server.metrics(), `tendril_server_streams{cluster="blue"} ${COUNT}\n`)
  const got = await Promise.all(streams.map((stream, index) => echo(stream, `I am number ${index}`)))

  t.ok(
    got.every((text, index) => text === `I am number ${index}`),
    'nobody hears somebody else'
  )
  for (const stream of streams) stream.end()
  await until('every target connection has ended', () => target.open() === 0)
  for (const stream of streams) stream.destroy()
})

for (const version of ['v1', 'v2'] as const) {
  t.test(`PROXY protocol ${version} carries the client's address through`, async t => {
    if (!requireTool(t, 'haproxy')) return
    const { reach, replicas } = await twoClustersBehind(t, haproxy, {
      proxyProtocol: version,
      entrance: proxy => relayFrom(t, CLIENT_ADDRESS, proxy)
    })
    const pod = await podTarget(t)

    const answer = await httpGet(await reach('green', pod.addr))

    t.equal(answer.status, 200)
    for (const { server } of replicas)
      t.match(server.log(), new RegExp(`"remote":"${CLIENT_ADDRESS}".*client connected`))
  })
}

t.test(
  'without the PROXY header that is required nobody comes in, and who has one is not disturbed',
  async t => {
    if (!requireTool(t, 'haproxy')) return
    const { reach, replicas, tunnels } = await twoClustersBehind(t, haproxy, { proxyProtocol: 'v2' })
    const target = await echoTarget(t)
    const stream = await reach('blue', target.addr)
    const intruder = connect(tunnels.blue)
    intruder.on('error', () => {})

    intruder.write(
      Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03, 0x20, 0x20])
    )

    if (!intruder.closed) await once(intruder, 'close')
    t.match(replicas[0]!.server.log(), /PROXY/)
    t.equal(await echo(stream, 'still here'), 'still here')
    stream.destroy()
  }
)
