/**
 * What lives in the shoot: two nodes, their pods, their services. Does by hand what scheduler, controllers and
 * kubelets would do to the API's objects, and starts one kubelet process per node in the shoot's network namespace.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { KubeObject } from './api.js'
import type { KeyPair } from './openssl-certificates.js'
import type { Cluster } from './cluster.js'
import { NODE_ADDRESSES, type Network } from './network.js'
import { start, until, type Service } from './namespace-process.js'
import type { Tools } from './tools.js'

const KUBELET_PORT = 10250
/** The lines that pod `chatty` has written before it falls silent. */
export const CHATTY_LINES = 100_000

type PodSpec = {
  namespace: string
  name: string
  node: 0 | 1
  ip: string
  command: string[]
  env?: Record<string, string>
  stdin?: boolean
  tty?: boolean
}

export type WorldOptions = { dir: string; logDir: string; network: Network; tools: Tools; cluster: Cluster }

/** Node 0 speaks SPDY only, node 1 takes WebSockets too: kube-apiserver translates for the one, not for the other. */
export const nodeNames = ['spdy-node', 'websocket-node'] as const

/** Makes the objects and starts the kubelets; the returned function ends them. */
export async function createWorld(options: WorldOptions): Promise<() => Promise<void>> {
  const { dir, cluster } = options
  const { api } = cluster
  const identities = {
    webhook: await cluster.authority.server('webhook', ['webhook.default.svc']),
    metrics: await cluster.authority.server('metrics-server', ['metrics-server.kube-system.svc']),
    metricsClient: await cluster.authority.client('metrics-client', 'system:metrics-server')
  }
  const pods = podsOf(cluster, identities)

  for (const namespace of ['default', 'kube-system']) {
    await until(
      `namespace ${namespace}`,
      async () => (await api.ask('GET', `/api/v1/namespaces/${namespace}`)).status === 200
    )
    await api.apply({ apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'default', namespace } })
  }
  const kubelets = await Promise.all([startKubelet(0, pods, options), startKubelet(1, pods, options)])
  for (const index of [0, 1] as const) await api.apply(nodeObject(index))
  for (const pod of pods) await api.apply(podObject(pod))
  for (const object of serviceObjects(
    'default',
    'web',
    80,
    8080,
    pods.filter(pod => pod.name.startsWith('web-'))
  ))
    await api.apply(object)
  for (const object of serviceObjects(
    'default',
    'webhook',
    443,
    8443,
    pods.filter(pod => pod.name === 'webhook')
  )) {
    await api.apply(object)
  }
  const metricsServers = pods.filter(pod => pod.name === 'metrics-server')
  for (const object of serviceObjects('kube-system', 'metrics-server', 443, 4443, metricsServers))
    await api.apply(object)
  const chattyLog = join(dir, nodeNames[0], 'logs', 'default_chatty_main.log')
  await until(
    'pod chatty to fall silent',
    async () => lines(await readFile(chattyLog)) >= CHATTY_LINES,
    60_000
  )

  return async () => {
    await Promise.all(kubelets.map(kubelet => kubelet.stop()))
  }
}

/** The file of a compiled program of the `pods` folder. */
const program = (name: string): string[] => [
  process.execPath,
  fileURLToPath(new URL(`../pods/${name}.js`, import.meta.url))
]

function podsOf(
  cluster: Cluster,
  identities: Record<'webhook' | 'metrics' | 'metricsClient', KeyPair>
): PodSpec[] {
  const tls = (identity: KeyPair): Record<string, string> => ({
    TLS_CERT: identity.cert,
    TLS_KEY: identity.key
  })
  const chatty = `seq -f "line %06.0f of a log that somebody reads from far away, padded to be as long as a real one" 1 ${CHATTY_LINES}`
  const sleep = ['sleep', 'infinity']
  const pod = (
    name: string,
    node: 0 | 1,
    ip: string,
    command: string[],
    more: Partial<PodSpec> = {}
  ): PodSpec => ({
    ...{ namespace: 'default', name, node, ip: `100.96.0.${ip}`, command, ...more }
  })
  return [
    pod('box', 0, '10', sleep),
    pod('box-websocket', 1, '20', sleep),
    pod('chatty', 0, '11', ['sh', '-c', `${chatty}; exec sleep infinity`]),
    pod('ticker', 0, '12', program('ticker')),
    pod('echo', 0, '13', ['cat'], { stdin: true }),
    pod('echo-websocket', 1, '23', ['cat'], { stdin: true }),
    pod('web-0', 0, '14', program('web')),
    pod('web-1', 1, '24', program('web')),
    pod('webhook', 1, '25', program('webhook'), { env: tls(identities.webhook) }),
    pod('metrics-server', 0, '16', program('metrics-server'), {
      namespace: 'kube-system',
      env: {
        ...tls(identities.metrics),
        FRONT_PROXY_CA: cluster.frontProxy.cert,
        KUBELET_CA: cluster.authority.cert,
        KUBELET_CERT: identities.metricsClient.cert,
        KUBELET_KEY: identities.metricsClient.key,
        NODES: nodeNames.map((name, index) => `${name}=${bracketed(NODE_ADDRESSES[index]!)}`).join(',')
      }
    })
  ]
}

async function startKubelet(index: 0 | 1, pods: PodSpec[], options: WorldOptions): Promise<Service> {
  const { cluster, network, tools, logDir } = options
  const name = nodeNames[index]
  const address = NODE_ADDRESSES[index]
  const dir = join(options.dir, name)
  await mkdir(dir, { recursive: true })
  const serving = await cluster.authority.server(name, [name, address])
  const config = {
    ...{
      nodeName: name,
      listen: `${bracketed(address)}:${KUBELET_PORT}`,
      ...serving,
      clientCa: cluster.authority.cert,
      dir
    },
    pods: pods
      .filter(pod => pod.node === index)
      .map(({ namespace, name: podName, ip, command, env, stdin, tty }) => ({
        ...{ namespace, name: podName, ip, containers: [{ name: 'main', command, env, stdin, tty }] }
      }))
  }
  const file = join(dir, 'kubelet.json')
  await writeFile(file, JSON.stringify(config, null, 2))
  const kubelet = await start(name, [tools.kubelet, '--config', file], {
    ...{ namespace: network.shoot, logFile: join(logDir, `${name}.log`) }
  })
  await until(
    `${name} to serve`,
    async () => (await kubelet.end()) ?? (await readFile(kubelet.logFile, 'utf8')).includes('serves on')
  )
  return kubelet
}

function nodeObject(index: 0 | 1): KubeObject {
  const name = nodeNames[index]
  return {
    ...{ apiVersion: 'v1', kind: 'Node', metadata: { name, labels: { 'kubernetes.io/hostname': name } } },
    status: {
      addresses: [{ type: 'InternalIP', address: NODE_ADDRESSES[index] }],
      daemonEndpoints: { kubeletEndpoint: { Port: KUBELET_PORT } },
      capacity: { cpu: '2', memory: '4Gi', pods: '110' },
      allocatable: { cpu: '2', memory: '4Gi', pods: '110' },
      conditions: [{ type: 'Ready', status: 'True', reason: 'KubeletReady' }],
      ...(index === 1 && { declaredFeatures: ['ExtendWebSocketsToKubelet'] })
    }
  }
}

function podObject({ namespace, name, node, ip, stdin, tty }: PodSpec): KubeObject {
  const container = {
    name: 'main',
    image: 'process',
    stdin: stdin ?? false,
    stdinOnce: stdin ?? false,
    tty: tty ?? false
  }
  const startedAt = new Date().toISOString()
  return {
    ...{ apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace } },
    spec: { nodeName: nodeNames[node], automountServiceAccountToken: false, containers: [container] },
    status: {
      ...{ phase: 'Running', podIP: ip, podIPs: [{ ip }], hostIP: NODE_ADDRESSES[node] },
      conditions: [
        { type: 'Ready', status: 'True' },
        { type: 'ContainersReady', status: 'True' }
      ],
      containerStatuses: [
        {
          name: 'main',
          image: 'process',
          imageID: '',
          ready: true,
          started: true,
          restartCount: 0,
          state: { running: { startedAt } }
        }
      ]
    }
  }
}

/** A service and the slice that a controller would make for it. */
function serviceObjects(
  namespace: string,
  name: string,
  port: number,
  targetPort: number,
  pods: PodSpec[]
): KubeObject[] {
  return [
    {
      ...{ apiVersion: 'v1', kind: 'Service', metadata: { name, namespace } },
      spec: { ports: [{ name: 'main', port, targetPort, protocol: 'TCP' }] }
    },
    {
      ...{ apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice' },
      metadata: { name: `${name}-1`, namespace, labels: { 'kubernetes.io/service-name': name } },
      addressType: 'IPv4',
      ports: [{ name: 'main', port: targetPort, protocol: 'TCP' }],
      endpoints: pods.map(pod => ({
        ...{ addresses: [pod.ip], conditions: { ready: true }, nodeName: nodeNames[pod.node] },
        targetRef: { kind: 'Pod', namespace, name: pod.name }
      }))
    }
  ]
}

function lines(text: Buffer): number {
  let count = 0
  for (const byte of text) if (byte === 0x0a) count++
  return count
}

/** An address as it stands before a port. */
function bracketed(address: string): string {
  return address.includes(':') ? `[${address}]` : address
}
