/**
 * Processes that hang: they are there, their sockets are open, the kernel accepts for them, and they answer nothing
 * (SIGSTOP). What callers meet while another one is well.
 */
import t, { type Test } from 'tap'
import { figure } from '../chaos/traffic.js'
import { httpGet } from '../support/apiserver.js'
import { type Program, type Settings, type Deployment, deploy } from '../support/deployment.js'
import { until } from '../support/child-process.js'
import { podTarget } from '../support/targets.js'

const DIALS = 33

/** That nobody notices by the heartbeat while the test runs. */
const patient = (settings: Settings): Settings => ({
  ...settings,
  link: { pingInterval: '60s', deadAfter: '120s' },
  drainTimeout: '2s'
})

/** Many dials at once, and how long the slowest took. */
async function dialAtOnce(deployment: Deployment, addr: string, at = 0) {
  const began = performance.now()
  const took: number[] = []
  const statuses = await Promise.all(
    Array.from({ length: DIALS }, async () => {
      const stream = await deployment.dial(addr, { at })
      took.push(performance.now() - began)
      return (await httpGet(stream)).status
    })
  )
  return { failed: statuses.filter(status => status !== 200), slowestMs: Math.round(Math.max(...took)) }
}

async function whileHung<T>(t: Test, program: Program, act: () => Promise<T>): Promise<T> {
  await program.kill('SIGSTOP')
  t.teardown(() => program.kill('SIGCONT'))
  const result = await act()
  await program.kill('SIGCONT')
  return result
}

t.test(
  'a client that hangs: no dial fails while another is well, and it is asked again when it is back',
  async t => {
    const deployment = await deploy(t, {
      clients: 2,
      processes: true,
      seed: patient,
      shoot: (settings, _cluster, index) => patient({ ...settings, name: `client-${index}` })
    })
    const pod = await podTarget(t)
    const { server, clients } = deployment
    const said = (text: string) => server.log().split(text).length - 1
    await until('both are here', async () =>
      (await server.metrics()).includes('server_clients{cluster="demo"} 2\n')
    )

    const { slowestMs: usualMs } = await dialAtOnce(deployment, pod.addr)
    for (const [index, client] of clients.entries()) {
      const { first, next } = await whileHung(t, client, async () => ({
        first: await dialAtOnce(deployment, pod.addr),
        next: await dialAtOnce(deployment, pod.addr)
      }))
      t.same([...first.failed, ...next.failed], [])
      t.equal(said('client does not respond'), index + 1, 'noticed within the dials, once')
      await until('it is heard again', () => said('client responds again') === index + 1)
      figure(
        t,
        `${DIALS} dials at once, one of 2 clients hangs: slowest while none does / of its dials / of the next, ms`,
        `${usualMs} / ${first.slowestMs} / ${next.slowestMs}`
      )
    }
    t.notMatch(await server.metrics(), /connects_total\{front="demo",cluster="demo",code="(?!OK)/)
  }
)

t.test('a server that hangs: dials that it was asked for go to another one', async t => {
  const deployment = await deploy(t, {
    servers: 3,
    processes: true,
    seed: patient,
    // At the two others.
    shoot: settings => patient({ ...settings, servers: (settings['servers'] as Settings[]).slice(1) })
  })
  const pod = await podTarget(t)
  const [first, ...others] = deployment.replicas.map(({ server }) => server)
  await until('all know each other', async () =>
    (await first!.metrics()).includes('tendril_server_peers 2\n')
  )
  await until('both others have a client', async () => {
    const metrics = await Promise.all(others.map(server => server.metrics()))
    return metrics.every(text => text.includes('server_clients{cluster="demo"} 1\n'))
  })
  const asked = async (server: Program): Promise<number> =>
    Number(/server_dials_total\{cluster="demo",code="OK"\} (\d+)/.exec(await server.metrics())?.[1] ?? 0)
  const usual = await dialAtOnce(deployment, pod.addr)
  t.same(usual.failed, [])
  const counts = await Promise.all(others.map(asked))
  const hung = others[counts[0]! > counts[1]! ? 0 : 1]!

  const { failed, slowestMs } = await whileHung(t, hung, () => dialAtOnce(deployment, pod.addr))

  t.same(failed, [])
  t.match(first!.log(), /peer does not respond/)
  await until('it is heard again', () => first!.log().includes('peer responds again'))
  figure(
    t,
    `${DIALS} dials at once, the peer that serves them hangs: slowest while it does not / when it does, ms`,
    `${usual.slowestMs} / ${slowestMs}`
  )
})

t.test('a client that hangs for a moment and has no other beside it: its dials wait for it', async t => {
  const deployment = await deploy(t, { processes: true, seed: patient, shoot: patient })
  const pod = await podTarget(t)

  const dialled = await whileHung(t, deployment.clients[0]!, async () => {
    const dialled = deployment.dial(pod.addr)
    await until('it is noticed', () => deployment.server.log().includes('client does not respond'))
    return { stream: dialled }
  })

  t.equal((await httpGet(await dialled.stream)).status, 200)
  t.notMatch(
    await deployment.server.metrics(),
    /server_failovers_total\{/,
    'the dial stayed, it was not made again'
  )
})

t.test('a client that hangs alone for longer than a dial may take: 503 and why, not 504', async t => {
  const deployment = await deploy(t, {
    processes: true,
    shoot: patient,
    seed: settings => ({
      ...patient(settings),
      fronts: (settings['fronts'] as Settings[]).map(front => ({ ...front, dialTimeout: '2s' }))
    })
  })
  const pod = await podTarget(t)

  await whileHung(t, deployment.clients[0]!, () =>
    t.rejects(deployment.dial(pod.addr), { message: /503 link lost: it does not respond, no sign of life/ })
  )
})

t.test('a dial for which no client can be asked hears what is known of them, and 503', async t => {
  const deployment = await deploy(t, {
    processes: true,
    seed: settings => ({
      ...settings,
      fronts: (settings['fronts'] as Settings[]).map(front => ({ ...front, dialTimeout: '300ms' }))
    })
  })
  const pod = await podTarget(t)
  await deployment.clients[0]!.kill('SIGKILL')
  await until('the link is down', () => deployment.server.log().includes('link down, waiting'))

  await t.rejects(deployment.dial(pod.addr), {
    message: /503 link lost: cluster demo is expected back, but was not in time \(clients: 1 down\)/
  })
})
