/** What a real client and its operator see when a limit of its cluster is reached (clusters[].limits). */
import t from 'tap'
import { type Settings, deploy } from '../support/deployment.js'
import { until } from '../support/child-process.js'

t.test('a client beyond its links and routes is told which key, serves on with those it has', async t => {
  const limits = { linksPerClient: 2, routesPerClient: 1 }
  const { server, clients, dial } = await deploy(t, {
    seed: settings => ({ ...settings, clusters: [{ name: 'demo', limits }] as Settings[] }),
    shoot: settings => ({
      ...settings,
      connections: 3,
      routes: ['127.0.0.0/8', '10.0.0.0/8', '*.example.com']
    })
  })
  const client = clients[0]!

  await until('the third link is refused', () =>
    client.log().includes('clusters[demo].limits.linksPerClient: 2 links of this client are open')
  )
  await until('two links are up', async () =>
    (await server.metrics()).includes('tendril_server_clients{cluster="demo"} 2')
  )
  const metrics = await server.metrics()
  t.match(metrics, /tendril_server_limit_refusals_total\{limit="linksPerClient",cluster="demo"\} [1-9]/)
  t.match(metrics, /tendril_server_limit_refusals_total\{limit="routesPerClient",cluster="demo"\} 2/)
  t.match(server.log(), /"ignored":2,"limit":"clusters\[demo\]\.limits\.routesPerClient: 1"/)
  // There is no such target: that a client says so is what is asked.
  await t.rejects(dial('127.0.0.1:1'), /502/)
})

t.test(
  'links of one client share its routes: what one announces beyond them is ignored and said',
  async t => {
    const limits = { routesPerClient: 2 }
    const { server } = await deploy(t, {
      seed: settings => ({
        ...settings,
        clusters: [{ name: 'demo', limits, routes: ['10.0.0.0/8'] }] as Settings[]
      }),
      // Two processes by one name and certificate are one client to the server.
      clients: 2,
      shoot: (settings, _cluster, index) => ({
        ...settings,
        name: 'same',
        routes: ['10.0.0.0/16', `10.${index + 1}.0.0/16`]
      })
    })

    const line = /"client":"same".*"ignored":1,"limit":"clusters\[demo\]\.limits\.routesPerClient: 2"/
    await until('the third route is ignored', () => line.test(server.log()))
    const metrics = await server.metrics()
    t.match(metrics, /tendril_server_limit_refusals_total\{limit="routesPerClient",cluster="demo"\} 1/)
    t.match(metrics, /tendril_server_clients\{cluster="demo"\} 2/)
  }
)
