/** One name, five servers behind it, a balancer that knows nothing of them: the client finds them all, over real TLS. */
import t from 'tap'
import { randomHaproxy } from '../chaos/network-path.js'
import { figure, logged } from '../chaos/traffic.js'
import { type Settings, deploy } from '../support/deployment.js'
import { reservePort } from '../support/ports.js'
import { requireTool, until } from '../support/child-process.js'

const SERVERS = 5

t.test(
  `a client finds ${SERVERS} servers behind a random balancer, and the one that was replaced`,
  async t => {
    if (!requireTool(t, 'haproxy')) return
    const port = await reservePort()
    const { replicas, clients } = await deploy(t, {
      servers: SERVERS,
      startClients: false,
      seed: settings => ({ ...settings, drainTimeout: '1s' }),
      shoot: settings => ({
        ...settings,
        servers: [{ url: `wss://vpn.demo.test:${port}`, address: `127.0.0.1:${port}` }] as Settings[]
      })
    })
    const client = clients[0]!
    const replicasKnowEachOther = async (): Promise<boolean> => {
      const all = await Promise.all(replicas.map(({ server }) => server.metrics()))
      return all.every(metrics => metrics.includes(`tendril_server_peers ${SERVERS - 1}\n`))
    }
    await until('the servers know each other', replicasKnowEachOther)
    await randomHaproxy(
      t,
      port,
      replicas.map(({ tunnel }) => tunnel)
    )
    const linksUp = async (): Promise<number> =>
      Number(/tendril_client_links_up (\d+)/.exec(await client.metrics())?.[1] ?? 0)

    const began = performance.now()
    await client.start()
    await until('a link to each', async () => (await linksUp()) === SERVERS)
    const foundMs = Math.round(performance.now() - began)

    const last = replicas.at(-1)!
    await last.server.stop()
    await until('it is gone', async () => (await linksUp()) === SERVERS - 1)
    const announcedBefore = logged(client.log(), 'servers announced').length
    await last.server.start()
    await until('it is announced', () => logged(client.log(), 'servers announced').length > announcedBefore)
    const announced = performance.now()
    await until('a link to each again', async () => (await linksUp()) === SERVERS)
    const replacedMs = Math.round(performance.now() - announced)

    figure(
      t,
      `${SERVERS} servers behind haproxy: all found / a replaced one, ms`,
      `${foundMs} / ${replacedMs}`
    )
  }
)
