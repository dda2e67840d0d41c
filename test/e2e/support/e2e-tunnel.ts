/**
 * Tendril itself between the two networks, as its users run it: seed-servers and a real haproxy in the seed,
 * shoot-client in the shoot, each a process with a configuration file and with certificates as a Secret volume has
 * them, and kube-apiserver's side by `seed-server egress-config`.
 *
 *     mtls, uds   kube-apiserver ──► one server's front
 *     replicas    kube-apiserver ──► haproxy ──► fronts of up to SERVER_LIMIT servers, which find each other by Leases
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { balancerConfig, killConnections, type Backend } from './balancer.js'
import { SEED_ADDRESS, SEED_PORT, SHOOT_NETWORKS, type Network } from './network.js'
import { CLUSTER, makePki, program, SERVER_NAME, tlsFiles } from './pki.js'
import { memoryBytes, must, start, until, type Service } from './namespace-process.js'
import { Secret } from './secret.js'

const TUNNEL_PORT = 8443
export const FRONT_PORT = 9443
const ADMIN_PORT = 8095
const CLIENT_ADMIN_PORT = 8096
/** kube-apiserver keeps idle connections for longer than anybody wants to wait for the end of a test. */
const DRAIN_TIMEOUT_S = 2
/** Of the replicas: an exec that is under way when its server is replaced gets so long to end. */
export const REPLICA_DRAIN_TIMEOUT_S = 30
/** Three that run, and three that take their place. */
export const SERVER_LIMIT = 6
/** Where the servers' Leases are, and as whom they ask for them. */
export const LEASE_NAMESPACE = 'tendril'
export const LEASE_USER = 'seed-server'
const STARTS = 'shoot-client starts'
/** As short as is allowed, times two: a slow machine must not lose its Lease. */
export const LEASE_DURATION_S = 6

/** The ways kube-apiserver reaches the tunnel. */
export const frontKinds = ['mtls', 'uds', 'replicas'] as const
export type FrontKind = (typeof frontKinds)[number]

/** A seed-server. */
export type Server = {
  index: number
  service: Service
  /** All that this process and its predecessors in the index have logged. */
  log(): Promise<string>
  /** Whether `/readyz` says 200. */
  ready(): Promise<boolean>
  /** The sum of a metric's series; 0 when there is none. */
  metric(name: string): Promise<number>
}

/** What the checks ask of the tunnel. */
export type Tunnel = {
  kind: FrontKind
  /** For --egress-selector-config-file of kube-apiserver. */
  egressConfigFile: string
  /** Where the first certificates were made. */
  pki: string
  /** The certificates that are in use. */
  secrets: { server: Secret; client: Secret; front: Secret }
  /** Those that were started and not stopped since. */
  servers: readonly Server[]
  /** Resolves when the process answers its probes. */
  startServer(index: number, change?: ServerChange): Promise<Server>
  /** Default SIGTERM; resolves when the process has ended, which the drain may put off. */
  stopServer(server: Server, signal?: NodeJS.Signals): Promise<void>
  /** Kills every connection between clients and servers, as a load balancer that restarts does. */
  killConnections(): Promise<void>
  stopClient(): Promise<void>
  /** The client's process ends without a word, as it does when its node runs out of memory. */
  killClient(): Promise<void>
  /** Resolves when the program has begun, not when it is connected. */
  startClient(): Promise<void>
  /** All that the client has logged. */
  clientLog(): Promise<string>
  /** Resident memory of the first server in bytes. */
  serverMemoryBytes(): Promise<number>
  /** May be called twice. */
  stop(): Promise<void>
}

/** What one server does otherwise than the others. */
export type ServerChange = { kubeconfig?: string }

export type TunnelOptions = {
  kind: FrontKind
  dir: string
  logDir: string
  network: Network
  /** How the replicas reach the API server. */
  kubeconfig: string
}

/** Starts everything and resolves when the client is connected. */
export async function startTunnel({
  kind,
  dir,
  logDir,
  network,
  kubeconfig
}: TunnelOptions): Promise<Tunnel> {
  const pki = join(dir, 'pki')
  await mkdir(dir, { recursive: true })
  await makePki(pki)
  const secrets = {
    server: new Secret(join(dir, 'server-tls')),
    client: new Secret(join(dir, 'client-tls')),
    front: new Secret(join(dir, 'front-tls'))
  }
  await secrets.server.write(await tlsFiles(pki, 'server'))
  await secrets.front.write(await tlsFiles(pki, 'server'))
  await secrets.client.write(await tlsFiles(pki, `client-${CLUSTER}`))

  const several = kind === 'replicas'
  const front = kind === 'uds' ? `unix:${join(dir, 'front.sock')}` : `127.0.0.1:${FRONT_PORT}`
  const backends = Array.from({ length: several ? SERVER_LIMIT : 1 }, (_, index) => backendOf(index, several))
  const seedConfig = (index: number, listen: string, change: ServerChange = {}): object => ({
    tunnel: { listen: backends[index]!.tunnel, tls: tlsOf(secrets.server, 'clientCa') },
    fronts: [
      {
        ...{ name: 'kube-apiserver', listen, cluster: CLUSTER },
        ...(kind !== 'uds' && { tls: tlsOf(secrets.front, 'clientCa') })
      }
    ],
    clusters: [{ name: CLUSTER, required: true }],
    ...(several && {
      peers: {
        serverName: SERVER_NAME,
        leases: {
          namespace: LEASE_NAMESPACE,
          address: backends[index]!.tunnel,
          duration: `${LEASE_DURATION_S}s`,
          kubeconfig: change.kubeconfig ?? kubeconfig
        }
      }
    }),
    drainTimeout: `${several ? REPLICA_DRAIN_TIMEOUT_S : DRAIN_TIMEOUT_S}s`,
    admin: { listen: `${backends[index]!.admin.host}:${ADMIN_PORT}` }
  })

  // Made for the balancer's address, where there is one: kube-apiserver knows no other.
  const egressConfigFile = join(dir, 'egress.yaml')
  const publicFile = await writeJson(dir, 'public.yaml', seedConfig(0, front))
  const egress = ['egress-config', '--config', publicFile, '--front', 'kube-apiserver', '--directory', pki]
  await writeFile(egressConfigFile, await must([...program('seed-server'), ...egress]))
  const shootFile = await writeJson(dir, 'shoot.yaml', shootConfig(secrets.client))
  const controlSocket = join(dir, 'haproxy.sock')
  const balancerFile = join(dir, 'haproxy.cfg')
  const balancer = { controlSocket, front: several ? front : undefined, backends }
  await writeFile(balancerFile, balancerConfig(balancer))

  const graceMs = several ? (REPLICA_DRAIN_TIMEOUT_S + 10) * 1000 : undefined
  const running: Service[] = []
  const run = async (name: string, argv: string[], where: 'seed' | 'shoot'): Promise<Service> => {
    const logFile = join(logDir, `${kind}-${name}.log`)
    const service = await start(name, argv, { namespace: network[where], logFile })
    running.push(service)
    return service
  }
  const servers: Server[] = []
  const startServer = async (index: number, change?: ServerChange): Promise<Server> => {
    const { front: own, admin, name } = backends[index]!
    const file = await writeJson(dir, `${name}.yaml`, seedConfig(index, own ?? front, change))
    const service = await run(name, [...program('seed-server'), 'run', '--config', file], 'seed')
    const ask = (path: string): Promise<Response> => fetch(`http://${admin.host}:${admin.port}${path}`)
    await until(`${name} to live`, async () => (await service.end()) ?? (await ask('/livez')).ok)
    const server: Server = {
      index,
      service,
      log: () => readFile(service.logFile, 'utf8'),
      ready: async () => (await ask('/readyz')).ok,
      metric: async metric => sumOf(await (await ask('/metrics')).text(), metric)
    }
    servers.push(server)
    return server
  }
  const runClient = (): Promise<Service> =>
    run('shoot-client', [...program('shoot-client'), 'run', '--config', shootFile], 'shoot')
  const stop = async (): Promise<void> => {
    // The client first: a server whose client has gone has nothing to wait for.
    await Promise.all(
      running
        .splice(0)
        .reverse()
        .map(service => service.stop('SIGTERM', graceMs))
    )
  }

  try {
    const first = await startServer(0)
    await run('haproxy', ['haproxy', '-db', '-f', balancerFile], 'seed')
    let client = await runClient()
    await until(
      'the client to be connected',
      async () => (await first.service.end()) ?? (await client.end()) ?? first.ready()
    )
    return {
      kind,
      egressConfigFile,
      pki,
      secrets,
      servers,
      startServer,
      async stopServer(server, signal) {
        servers.splice(servers.indexOf(server), 1)
        await server.service.stop(signal, graceMs)
      },
      killConnections: () => killConnections(controlSocket, backends),
      stopClient: () => client.stop(),
      killClient: () => client.stop('SIGKILL'),
      async startClient() {
        const starts = async (): Promise<number> =>
          (await readFile(client.logFile, 'utf8')).split(STARTS).length
        const before = await starts()
        client = await runClient()
        // How long Node takes until then is the machine's matter.
        await until('the client to begin', async () => (await client.end()) ?? (await starts()) > before)
      },
      clientLog: () => readFile(client.logFile, 'utf8'),
      serverMemoryBytes: () => memoryBytes(first.service.pid),
      stop
    }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Each server has loopback addresses of its own, so that all can have the same ports. */
function backendOf(index: number, several: boolean): Backend {
  const host = `127.0.1.${index + 1}`
  return {
    name: `seed-server-${index}`,
    tunnel: `${host}:${TUNNEL_PORT}`,
    front: several ? `${host}:${FRONT_PORT}` : undefined,
    admin: { host, port: ADMIN_PORT }
  }
}

function tlsOf(secret: Secret, authorities: 'ca' | 'clientCa'): object {
  return {
    cert: secret.path('tls.crt'),
    key: secret.path('tls.key'),
    [authorities]: secret.path('ca.crt')
  }
}

function shootConfig(secret: Secret): object {
  return {
    cluster: CLUSTER,
    servers: [{ url: `wss://${SERVER_NAME}:${SEED_PORT}`, address: `${SEED_ADDRESS}:${SEED_PORT}` }],
    tls: tlsOf(secret, 'ca'),
    proxy: 'none',
    targets: { allow: SHOOT_NETWORKS },
    drainTimeout: `${DRAIN_TIMEOUT_S}s`,
    admin: { listen: `127.0.0.1:${CLIENT_ADMIN_PORT}` }
  }
}

function sumOf(metrics: string, name: string): number {
  return metrics
    .split('\n')
    .filter(line => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
}

/** JSON is YAML. */
async function writeJson(dir: string, name: string, content: object): Promise<string> {
  const file = join(dir, name)
  await writeFile(file, JSON.stringify(content, null, 2))
  return file
}
