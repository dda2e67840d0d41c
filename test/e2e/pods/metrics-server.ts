/**
 * An aggregated API in a pod: metrics.k8s.io/v1beta1 on POD_IP:4443, as small as `kubectl top` allows. Reads the
 * kubelets named in NODES ("name=address,…") once a second, and answers only who shows a front-proxy certificate.
 */
import { readFileSync } from 'node:fs'
import { createServer, get } from 'node:https'

const PORT = 4443
const INTERVAL_MS = 1_000
const GROUP_VERSION = 'metrics.k8s.io/v1beta1'

type Sample = { atMs: number; cpuSeconds: number; memoryBytes: number; cpuCores: number }

const own = { cert: readFileSync(process.env['TLS_CERT']!), key: readFileSync(process.env['TLS_KEY']!) }
const kubelets = {
  ca: readFileSync(process.env['KUBELET_CA']!),
  cert: readFileSync(process.env['KUBELET_CERT']!),
  key: readFileSync(process.env['KUBELET_KEY']!)
}
const nodes = process.env['NODES']!.split(',').map(pair => pair.split('=') as [name: string, address: string])
/** By "node/name" and "pod/namespace/name/container". */
const samples = new Map<string, Sample>()

setInterval(() => {
  for (const [name, address] of nodes) scrape(name, address)
}, INTERVAL_MS)

function scrape(node: string, address: string): void {
  get(`https://${address}:10250/metrics/resource`, { ...kubelets, agent: false }, answer => {
    let text = ''
    answer.setEncoding('utf8').on('data', (part: string) => (text += part))
    answer.on('end', () => read(node, text))
  }).on('error', error => console.error(`${node}: ${error.message}`))
}

function read(node: string, text: string): void {
  const values = new Map<string, { cpuSeconds?: number; memoryBytes?: number }>()
  for (const [, metric, labels = '', value] of text.matchAll(/^(\w+)(\{.*\})? (\S+) \d+$/gm)) {
    const label = (name: string): string => new RegExp(`${name}="([^"]*)"`).exec(labels)?.[1] ?? ''
    const key = metric!.startsWith('node_')
      ? `node/${node}`
      : `pod/${label('namespace')}/${label('pod')}/${label('container')}`
    const entry = values.get(key) ?? {}
    if (metric!.endsWith('cpu_usage_seconds_total')) entry.cpuSeconds = Number(value)
    else entry.memoryBytes = Number(value)
    values.set(key, entry)
  }
  const atMs = performance.now()
  for (const [key, { cpuSeconds = 0, memoryBytes = 0 }] of values) {
    const before = samples.get(key)
    const cpuCores = before
      ? Math.max(0, (cpuSeconds - before.cpuSeconds) / ((atMs - before.atMs) / 1000))
      : 0
    samples.set(key, { atMs, cpuSeconds, memoryBytes, cpuCores })
  }
}

function usage({ cpuCores, memoryBytes }: Sample): object {
  return { cpu: `${Math.round(cpuCores * 1e9)}n`, memory: `${Math.round(memoryBytes / 1024)}Ki` }
}

const stamp = (): object => ({ timestamp: new Date().toISOString(), window: `${INTERVAL_MS / 1000}s` })

function nodeMetrics(name: string): object | undefined {
  const sample = samples.get(`node/${name}`)
  return (
    sample && {
      apiVersion: GROUP_VERSION,
      kind: 'NodeMetrics',
      metadata: { name },
      ...stamp(),
      usage: usage(sample)
    }
  )
}

function podMetrics(inNamespace?: string): object[] {
  const pods = new Map<string, { name: string; usage: object }[]>()
  for (const [key, sample] of samples) {
    const [what, namespace, pod, container] = key.split('/')
    if (what !== 'pod' || (inNamespace && namespace !== inNamespace)) continue
    const name = `${namespace!}/${pod!}`
    pods.set(name, [...(pods.get(name) ?? []), { name: container!, usage: usage(sample) }])
  }
  return [...pods].map(([key, containers]) => {
    const [namespace, name] = key.split('/')
    return {
      apiVersion: GROUP_VERSION,
      kind: 'PodMetrics',
      metadata: { name, namespace },
      ...stamp(),
      containers
    }
  })
}

function answerTo(path: string): object | undefined {
  const version = { groupVersion: GROUP_VERSION, version: 'v1beta1' }
  const group = { name: 'metrics.k8s.io', versions: [version], preferredVersion: version }
  const base = `/apis/${GROUP_VERSION}`
  if (path === '/apis') return { apiVersion: 'v1', kind: 'APIGroupList', groups: [group] }
  if (path === '/apis/metrics.k8s.io') return { apiVersion: 'v1', kind: 'APIGroup', ...group }
  if (path === base) {
    const verbs = ['get', 'list']
    const resources = [
      { name: 'nodes', singularName: '', namespaced: false, kind: 'NodeMetrics', verbs },
      { name: 'pods', singularName: '', namespaced: true, kind: 'PodMetrics', verbs }
    ]
    return { apiVersion: 'v1', kind: 'APIResourceList', groupVersion: GROUP_VERSION, resources }
  }
  const list = (kind: string, items: object[]): object => ({
    apiVersion: GROUP_VERSION,
    kind,
    metadata: {},
    items
  })
  if (path === `${base}/nodes`) {
    return list(
      'NodeMetricsList',
      nodes.map(([name]) => nodeMetrics(name)).filter(item => item !== undefined)
    )
  }
  if (path.startsWith(`${base}/nodes/`)) return nodeMetrics(path.slice(`${base}/nodes/`.length))
  if (path === `${base}/pods`) return list('PodMetricsList', podMetrics())
  const namespaced = new RegExp(`^${base}/namespaces/([^/]+)/pods$`).exec(path)
  if (namespaced) return list('PodMetricsList', podMetrics(namespaced[1]))
  return undefined
}

createServer(
  { ...own, ca: readFileSync(process.env['FRONT_PROXY_CA']!), requestCert: true, rejectUnauthorized: true },
  (request, response) => {
    const body = answerTo(new URL(request.url!, 'https://pod').pathname)
    response.statusCode = body ? 200 : 404
    response.setHeader('content-type', 'application/json')
    response.end(
      JSON.stringify(
        body ?? { apiVersion: 'v1', kind: 'Status', status: 'Failure', code: 404, reason: 'NotFound' }
      )
    )
  }
).listen(PORT, process.env['POD_IP'])
