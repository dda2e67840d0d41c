/**
 * Several servers of one cluster: what a caller meets at a server without clients, when a server goes, and who is let in
 * as a server. Clients are told apart by where they may connect to; the servers know each other by a static list.
 */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { figure, took } from '../chaos/traffic.js'
import { httpGet } from '../support/apiserver.js'
import { delayRelay } from '../support/delay-relay.js'
import { deploy, type Settings, type Deployment } from '../support/deployment.js'
import { until } from '../support/child-process.js'
import { blackHole, echoTarget, podTarget, refusedPort } from '../support/targets.js'

/** A client that knows only some of the servers. */
const onlyAt =
  (...indices: number[]) =>
  (settings: Settings): Settings => ({
    ...settings,
    servers: (settings['servers'] as Settings[]).filter((_, index) => indices.includes(index))
  })

const quick = (settings: Settings): Settings => ({ ...settings, drainTimeout: '5s' })

async function get(deployment: Deployment, addr: string, at: number, cluster?: string): Promise<number> {
  const answer = await httpGet(await deployment.dial(addr, { at, ...(cluster && { cluster }) }))
  return answer.status
}

/** All servers see `count` peers. */
async function acquainted({ replicas }: Deployment, count: number, at = replicas.map((_, index) => index)) {
  for (const index of at) await peersAre(replicas[index]!, count)
}

function peersAre({ server }: Deployment['replicas'][number], count: number): Promise<void> {
  return until(`${server.name} has ${count} peers`, async () =>
    (await server.metrics()).includes(`tendril_server_peers ${count}\n`)
  )
}

/** The members that a client heard of last. */
function membersKnown(deployment: Deployment): number | undefined {
  const lines = deployment.clients[0]!.log().trim().split('\n')
  const reported = lines.map(line => JSON.parse(line) as { msg: string; members?: number })
  return reported.findLast(({ msg }) => msg === 'servers announced')?.members
}

t.test('a CONNECT at a server without clients is passed on to one that has some', async t => {
  const deployment = await deploy(t, { servers: 3, shoot: onlyAt(2), seed: quick })
  const pod = await podTarget(t)
  await acquainted(deployment, 2)

  t.equal(await get(deployment, pod.addr, 0), 200)
  t.equal(await get(deployment, pod.addr, 1), 200)
  t.equal(await get(deployment, pod.addr, 2), 200)

  const metrics = await deployment.replicas[0]!.server.metrics()
  t.match(metrics, /tendril_server_forwarded_dials_total\{cluster="demo",code="OK"\} 1/)
})

t.test('passed on, a target is refused, waited for and echoed as at home', async t => {
  const deployment = await deploy(t, { servers: 2, shoot: onlyAt(1), seed: quick })
  await acquainted(deployment, 1)
  const echo = await echoTarget(t)
  const nobody = await refusedPort()
  const hole = await blackHole(t)

  await t.rejects(deployment.dial(`127.0.0.1:${nobody}`), { message: /502 connection refused/ })
  await t.rejects(deployment.dial(hole.addr), { message: /504 dial timed out/ })
  const stream = await deployment.dial(echo.addr)
  stream.end('half-closed')
  const bytes = await once(stream, 'data')

  t.equal(String(bytes[0]), 'half-closed')
})

t.test('without a client anywhere the answer is 503 at once, and the dial goes round nowhere', async t => {
  const deployment = await deploy(t, { servers: 3, startClients: false, seed: quick })
  await acquainted(deployment, 2)

  await t.rejects(deployment.dial('127.0.0.1:1'), { message: /503 no client connected for cluster demo/ })

  for (const [index, { server }] of deployment.replicas.entries()) {
    const asked = /forwarded_dials_total\{cluster="demo",code="NO_CLIENT"\} (\d+)/.exec(
      await server.metrics()
    )?.[1]
    t.equal(asked, index === 0 ? '2' : undefined, 'only the first asks, each other once')
  }
})

t.test('a server that is killed: what arrives at the others is served at once', async t => {
  const deployment = await deploy(t, { servers: 3, processes: true, seed: quick })
  const pod = await podTarget(t)
  await acquainted(deployment, 2)
  for (const at of [0, 1, 2]) t.equal(await get(deployment, pod.addr, at), 200)

  await deployment.replicas[2]!.server.kill('SIGKILL')
  const firstMs = await took(async () => {
    for (const at of [0, 1]) t.equal(await get(deployment, pod.addr, at), 200)
  })
  figure(t, 'a server of 3 killed: a request at each of the others, ms', firstMs)
  await acquainted(deployment, 1, [0, 1])
  await until('the client heard of it', () => membersKnown(deployment) === 2)
})

t.test(
  'a client that is killed: dials under way and after it go to the other, no caller hears of it',
  async t => {
    const deployment = await deploy(t, {
      clients: 2,
      processes: true,
      shoot: (settings, _cluster, index) => ({ ...settings, name: `client-${index}` })
    })
    const pod = await podTarget(t)
    await until('both are here', async () =>
      (await deployment.server.metrics()).includes('server_clients{cluster="demo"} 2\n')
    )
    const statuses: Promise<number>[] = []
    const calling = setInterval(() => statuses.push(get(deployment, pod.addr, 0).catch(() => 0)), 20)
    t.teardown(() => clearInterval(calling))

    await until('some have called', () => statuses.length > 10)
    await deployment.clients[0]!.kill('SIGKILL')
    const before = statuses.length
    await until('some more have called', () => statuses.length > before + 30)
    clearInterval(calling)

    // A request whose stream the killed client had opened is lost with it; no dial is.
    const answers = await Promise.all(statuses)
    const lost = answers.filter(status => status !== 200).length
    t.ok(lost <= 2, `${lost} of ${answers.length} requests were lost`)
    const refused = /connects_total\{front="demo",cluster="demo",code="(?!OK)/
    t.notMatch(await deployment.server.metrics(), refused, 'every CONNECT was answered 200')
  }
)

t.test('one server is replaced: callers at the other notice nothing, nor those who come early', async t => {
  const deployment = await deploy(t, { servers: 2, seed: quick })
  const pod = await podTarget(t)
  await acquainted(deployment, 1)
  const [first] = deployment.replicas
  t.equal(await get(deployment, pod.addr, 0), 200)

  await first!.server.stop()
  t.equal(await get(deployment, pod.addr, 1), 200)
  await first!.server.start()

  // Back, and perhaps without the client as yet.
  await peersAre(first!, 1)
  t.equal(await get(deployment, pod.addr, 0), 200)
})

t.test('fronts open when peers have been reached: the first caller of a server is served', async t => {
  const first = { host: '127.0.0.1', port: 0 }
  // To connect over it takes far longer than a server takes to open its fronts.
  const slow = await delayRelay(t, { to: first, delayMs: 50 })
  const deployment = await deploy(t, {
    servers: 2,
    shoot: onlyAt(0),
    seed: (settings, index) => {
      if (index > 0) return quick({ ...settings, peers: { static: [`${slow.host}:${slow.port}`] } })
      first.port = Number(/\d+$/.exec((settings['tunnel'] as { listen: string }).listen)?.[0])
      return quick(settings)
    }
  })
  const pod = await podTarget(t)
  const [, second] = deployment.replicas
  await second!.server.stop()

  await second!.server.start()

  t.equal(await get(deployment, pod.addr, 1), 200)
})

t.test('clients are told who the members are: when one drains, and when one comes', async t => {
  const deployment = await deploy(t, {
    servers: 3,
    processes: true,
    seed: settings => ({ ...settings, drainTimeout: '1h' })
  })
  await acquainted(deployment, 2)
  await until('three members', () => membersKnown(deployment) === 3)
  const [, , last] = deployment.replicas
  const echo = await echoTarget(t)
  // An open stream keeps the drain from being over at once.
  const stream = await deployment.dial(echo.addr, { at: 2 })

  const stopping = last!.server.stop()
  await until('two members', () => membersKnown(deployment) === 2)
  stream.write('still here')
  t.equal(String((await once(stream, 'data'))[0]), 'still here', 'long before the drain is over')
  stream.destroy()
  await stopping

  await last!.server.start()
  await until('three members again', () => membersKnown(deployment) === 3)
  const pod = await podTarget(t)
  t.equal(await get(deployment, pod.addr, 2), 200)
})

t.test('a cluster that one server does not know is served by those who do', async t => {
  const deployment = await deploy(t, {
    servers: 2,
    clusters: ['old', 'new'],
    shoot: (settings, cluster) => (cluster === 'new' ? onlyAt(1)(settings) : settings),
    seed: (settings, index) =>
      index === 1
        ? quick(settings)
        : {
            ...quick(settings),
            clusters: [{ name: 'old' }],
            fronts: (settings['fronts'] as Settings[]).filter(({ cluster }) => cluster === 'old')
          }
  })
  const pod = await podTarget(t)
  await acquainted(deployment, 1)

  t.equal(await get(deployment, pod.addr, 0, 'old'), 200)
  t.equal(await get(deployment, pod.addr, 1, 'new'), 200)
})

t.test('only servers come in as peers, and only as peers', async t => {
  const deployment = await deploy(t, { servers: 2, seed: quick })
  const ask = (who: string, cluster: string) => refusal(t, deployment, who, cluster)

  t.match(await ask('client-demo', '*'), { status: 403, code: 'CLUSTER_DENIED' })
  t.match(await ask('server', 'demo'), { status: 403, code: 'CLUSTER_DENIED' })
  t.match(await ask('kube-apiserver', '*'), { status: 403, code: 'CLUSTER_DENIED' })
  t.match(await ask('server', '*'), { status: 101 })
})

t.test(
  'a server that has no peers by configuration lets none in, and tells clients of no members',
  async t => {
    const deployment = await deploy(t, { seed: quick })

    t.match(await refusal(t, deployment, 'server', '*'), { status: 403, code: 'CLUSTER_DENIED' })
    t.equal(membersKnown(deployment), undefined)
  }
)

/** How a server answers an upgrade with one of the certificates of its PKI. */
function refusal(
  t: Test,
  { pki, tunnel }: Deployment,
  who: string,
  cluster: string
): Promise<{ status: number | undefined; code?: string | undefined }> {
  const websocket = new WebSocket(`wss://127.0.0.1:${tunnel.port}/tunnel`, 'tendril.v1', {
    ca: readFileSync(pki('ca.crt')),
    cert: readFileSync(pki(`${who}.crt`)),
    key: readFileSync(pki(`${who}.key`)),
    headers: { 'Tendril-Cluster': cluster }
  })
  websocket.on('error', () => {})
  t.teardown(() => websocket.terminate())
  return new Promise(resolve => {
    websocket.once('open', () => resolve({ status: 101 }))
    websocket.once('unexpected-response', (_request, response) => {
      const code = response.headers['tendril-error']
      resolve({ status: response.statusCode, code: typeof code === 'string' ? code : undefined })
      response.destroy()
    })
  })
}
