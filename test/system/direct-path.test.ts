/**
 * The plain way through a whole deployment, without anything between client and server: in this process, and as the
 * installed programs. What lies between is the matter of other files here.
 */
import { once } from 'node:events'
import { createServer } from 'node:net'
import t from 'tap'
import { httpGet } from '../support/apiserver.js'
import { deploy, type Settings } from '../support/deployment.js'
import { openResources } from '../support/leaks.js'
import { bannerTarget, podTarget, refusedPort } from '../support/targets.js'

for (const processes of [false, true]) {
  const where = processes ? 'as processes' : 'in this process'

  t.test(`${where}: kube-apiserver reaches a pod`, async t => {
    const { dial } = await deploy(t, { processes })
    const pod = await podTarget(t)

    const answer = await httpGet(await dial(pod.addr), { path: '/healthz' })

    t.equal(answer.status, 200)
    t.equal(answer.body.toString(), 'hello from the pod: GET /healthz\n')
  })

  t.test(`${where}: a refused target is said in the status line`, async t => {
    const { dial } = await deploy(t, { processes })
    const port = await refusedPort()

    await t.rejects(dial(`127.0.0.1:${port}`), { message: /code 502: 502 connection refused/ })
  })
}

/**
 * Without TLS records only time keeps header and bytes apart, and here the caller shares its event loop with everybody
 * else: it may be late to read by more than the default of 10 ms.
 */
const patient = (settings: Settings): Settings => ({
  ...settings,
  fronts: (settings['fronts'] as Settings[]).map(front => ({ ...front, firstByteDelay: '250ms' }))
})

for (const front of ['tls', 'plain', 'unix'] as const) {
  t.test(`a ${front} front hands over server-first bytes behind its 200`, async t => {
    const { dial } = await deploy(t, { front, seed: patient })
    const banner = await bannerTarget(t, 'SSH-2.0-pod\r\n')

    const stream = await dial(banner.addr)

    const bytes = await new Promise<Buffer>(resolve => stream.once('data', resolve))
    t.equal(bytes.toString(), 'SSH-2.0-pod\r\n')
    stream.destroy()
  })
}

t.test('two clusters, each reached through its own front', async t => {
  const { dial, server } = await deploy(t, { clusters: ['blue', 'green'] })
  const pod = await podTarget(t)

  for (const cluster of ['blue', 'green']) {
    const answer = await httpGet(await dial(pod.addr, { cluster }))
    t.equal(answer.status, 200, cluster)
  }

  t.match(await server.metrics(), /^tendril_/m)
})

t.test('the look at what is left open sees a forgotten listener', async t => {
  const before = openResources().get('TCPServerWrap') ?? 0
  const forgotten = createServer().listen(0, '127.0.0.1')
  await once(forgotten, 'listening')

  t.equal(openResources().get('TCPServerWrap'), before + 1)

  forgotten.close()
})
