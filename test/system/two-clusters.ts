/**
 * Two clusters behind one port: two clusters, each with a server of its own, and a web site, told apart by the TLS name
 * alone. Which proxy tells them apart is the matter of the tests.
 */
import { readFileSync } from 'node:fs'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'
import { connect as connectTls, createServer as createTlsServer } from 'node:tls'
import type { Test } from 'tap'
import { deploy, type Settings, type Deployment } from '../support/deployment.js'
import { reserveAddress } from '../support/ports.js'
import type { Address, Proxy, SniRoutes } from '../support/proxies.js'

export const NAMES = { blue: 'blue.vpn.test', green: 'green.vpn.test', web: 'www.site.test' }
export const WEB_GREETING = 'the web site'

const clusters = ['blue', 'green'] as const
type Cluster = (typeof clusters)[number]

export type TwoClusters = Deployment & {
  proxy: Proxy
  /** Where the servers really listen, behind the proxy. */
  tunnels: Record<Cluster, Address>
  /** A dial at the front of this cluster, which is at the server of this cluster. */
  reach(cluster: Cluster, addr: string): ReturnType<Deployment['dial']>
  /** What a TLS client that asks for `servername` at the proxy's port is told; nothing when it is not let in. */
  visit(servername: string): Promise<string>
}

export type TwoClustersOptions = {
  proxyProtocol?: 'v1' | 'v2'
  processes?: boolean
  /** Clients connect here instead of to the proxy. */
  entrance?: (proxy: Address) => Promise<Address>
  startClients?: boolean
  /** The name at which the clients of a cluster ask. Default: that of their cluster. */
  askFor?: (cluster: string) => string
}

export async function twoClustersBehind(
  t: Test,
  proxyWith: (t: Test, routes: SniRoutes) => Promise<Proxy>,
  {
    proxyProtocol,
    processes = false,
    entrance,
    startClients = true,
    askFor = nameOf
  }: TwoClustersOptions = {}
): Promise<TwoClusters> {
  // The proxy's file names all backends, so their ports are chosen first.
  const [blue, green, web] = [await reserveAddress(), await reserveAddress(), await reserveAddress()]
  // Begun before the deployment and so ended after it: the last words of a client still have to pass.
  const proxy = await proxyWith(t, {
    routes: { [NAMES.blue]: blue, [NAMES.green]: green, [NAMES.web]: web },
    ...(proxyProtocol && { proxyProtocol })
  })
  const reached = (await entrance?.(proxy)) ?? proxy
  const deployment = await deploy(t, {
    clusters: [...clusters],
    servers: 2,
    hosts: Object.values(NAMES),
    processes,
    startClients,
    seed(settings, index) {
      const { peers: _, tunnel, fronts, ...rest } = settings
      const own = clusters[index]!
      return {
        ...rest,
        tunnel: {
          ...(tunnel as Settings),
          listen: `127.0.0.1:${[blue, green][index]!.port}`,
          ...(proxyProtocol && { proxyProtocol: 'required' })
        },
        fronts: (fronts as Settings[]).filter(({ cluster }) => cluster === own),
        clusters: [{ name: own }]
      }
    },
    shoot: (settings, cluster) => ({
      ...settings,
      servers: [
        {
          url: `wss://${askFor(cluster)}:443`,
          address: `${reached.host}:${reached.port}`
        }
      ]
    })
  })
  if (startClients) for (const { server } of deployment.replicas) await server.ready()

  const ca = readFileSync(deployment.pki('ca.crt'))
  const site = createTlsServer(
    { cert: readFileSync(deployment.pki('server.crt')), key: readFileSync(deployment.pki('server.key')) },
    socket => {
      socket.on('error', () => {})
      socket.end(WEB_GREETING)
    }
  )
  site.listen(web.port, web.host)
  await once(site, 'listening')
  t.teardown(() => new Promise(resolve => site.close(resolve)))

  return {
    ...deployment,
    proxy,
    tunnels: { blue, green },
    reach: (cluster, addr) => deployment.dial(addr, { cluster, at: clusters.indexOf(cluster) }),
    async visit(servername) {
      const socket = connectTls({ host: proxy.host, port: proxy.port, servername, ca })
      let text = ''
      socket.on('error', () => {})
      socket.on('data', chunk => (text += String(chunk)))
      await new Promise(resolve => socket.once('close', resolve))
      return text
    }
  }
}

function nameOf(cluster: string): string {
  return NAMES[cluster as Cluster]
}

/** A relay whose connections come from another address of this machine: somebody who can be told apart. */
export async function relayFrom(t: Test, localAddress: string, to: Address): Promise<Address> {
  const server = createServer({ noDelay: true }, near => {
    const far = connect({ ...to, localAddress, noDelay: true })
    for (const socket of [near, far]) {
      socket.on('error', () => {})
      socket.once('close', () => {
        near.destroy()
        far.destroy()
      })
    }
    near.pipe(far)
    far.pipe(near)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    // Its connections end with the clients that came this way.
    server.close()
  })
  return { host: '127.0.0.1', port: (server.address() as AddressInfo).port }
}
