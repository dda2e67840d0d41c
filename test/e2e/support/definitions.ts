/**
 * The CustomResourceDefinitions of cert-manager, prometheus-operator, Gateway API, Istio, Envoy Gateway and Cilium, so
 * that kube-apiserver checks their objects in charts and examples. From the Go modules that definitions/go.mod and
 * go.sum pin; none of those programs runs.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Api, KubeObject } from './api.js'
import { objectsOf } from './helm.js'
import { must, until } from './namespace-process.js'

const DOWNLOAD_TIMEOUT_MS = 10 * 60_000

/** Go module → its files. */
const files: Record<string, string[]> = {
  'github.com/cert-manager/cert-manager': ['deploy/crds/cert-manager.io_certificates.yaml'],
  'github.com/cilium/cilium': ['pkg/k8s/apis/cilium.io/client/crds/v2/ciliumnetworkpolicies.yaml'],
  'github.com/envoyproxy/gateway': [
    'charts/gateway-helm/crds/generated/gateway.envoyproxy.io_clienttrafficpolicies.yaml'
  ],
  'github.com/prometheus-operator/prometheus-operator': [
    'example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml'
  ],
  'istio.io/api': ['kubernetes/customresourcedefinitions.gen.yaml'],
  'sigs.k8s.io/gateway-api': [
    'config/crd/standard/gateway.networking.k8s.io_gateways.yaml',
    'config/crd/standard/gateway.networking.k8s.io_tlsroutes.yaml'
  ]
}

type Module = { Path: string; Dir: string }

/**
 * The files that define them. Downloads what is not in the cache of Go's modules, and so runs where there is a network.
 * @param sources the folder of go.mod of the end-to-end test
 */
export async function definitionFiles(sources: string): Promise<string[]> {
  const said = await must(['go', 'mod', 'download', '-json'], {
    cwd: join(sources, 'definitions'),
    env: { GOFLAGS: '-mod=readonly', GOWORK: 'off' },
    timeoutMs: DOWNLOAD_TIMEOUT_MS
  })
  // One object after the other, without commas.
  const modules = JSON.parse(`[${said.replace(/^\}\n\{$/gm, '},{')}]`) as Module[]
  return modules.flatMap(({ Path, Dir }) => (files[Path] ?? []).map(file => join(Dir, file)))
}

/** Applies them, and waits until kube-apiserver takes objects of each. */
export async function define(api: Api, paths: readonly string[]): Promise<KubeObject[]> {
  const definitions: KubeObject[] = []
  for (const path of paths) definitions.push(...objectsOf(await readFile(path, 'utf8')))
  for (const { status: _, ...definition } of definitions) await api.apply(definition)
  const root = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions'
  type Defined = { status?: { conditions?: { type: string; status: string }[] } }
  for (const { metadata } of definitions)
    await until(`${metadata.name} to be established`, async () => {
      const { status } = await api.get<Defined>(`${root}/${metadata.name}`)
      return status?.conditions?.some(one => one.type === 'Established' && one.status === 'True') ?? false
    })
  return definitions
}
