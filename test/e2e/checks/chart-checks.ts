/**
 * Checks 8.2 to 8.7, 8.12 and 8.13: the Helm charts, by helm itself and by the real kube-apiserver, with the values of
 * their defaults, of Gardener, and with everything on that is off by default; and the examples.
 */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'
import { ROOT_PATH } from '../../support/dockerfile.js'
import type { KubeObject } from '../support/api.js'
import {
  type ChartName,
  chartNames,
  chartPath,
  objectsOf,
  refusal,
  render,
  staleManifests
} from '../support/helm.js'
import { define } from '../support/definitions.js'
import { expect, type CheckContext } from '../support/check-context.js'
import { must, until } from '../support/namespace-process.js'
import type { Tools } from '../support/tools.js'

/** Where rendered objects are shown to kube-apiserver. */
const TRIAL = 'deploy-trial'
const RESTRICTED = { 'pod-security.kubernetes.io/enforce': 'restricted' }
/** Seen from dist/e2e/checks, where this runs. */
const EVERYTHING = fileURLToPath(new URL('../../../e2e/values', import.meta.url))

/** The values that every chart is tried with, by what they are called. */
const profilesOf = (chart: ChartName): Record<string, string[]> => ({
  defaults: [],
  gardener: ['--values', join(chartPath(chart), 'values-gardener.yaml')],
  everything: ['--values', join(EVERYTHING, `${chart}.yaml`)]
})

/** What a server does to Leases (packages/seed-server/src/peers/leases.ts), and some things that are not its business. */
const LEASES = {
  may: ['list', 'watch', 'create', 'update', 'delete'].map(verb => `${verb} leases.coordination.k8s.io`),
  mayNot: ['get secrets', 'list pods', 'create pods', 'get configmaps', 'patch leases.coordination.k8s.io']
}

/** Checked for its NetworkPolicy. */
const CLIENT = { servers: [{ url: 'wss://vpn.example.org:8132' }], targets: { allow: ['10.0.0.0/8'] } }

/** Values of shoot-client, and the ports that its NetworkPolicy opens for them besides the server's. */
const PROXIES: [values: { config?: object; [value: string]: unknown }, ports: number[]][] = [
  [{}, []],
  [{ config: { proxy: 'https://proxy.example.org' } }, [443]],
  [{ env: [{ name: 'HTTPS_PROXY', value: 'proxy.example.org:3128' }] }, [3128]],
  [{ env: [{ name: 'all_proxy', value: 'HTTP://user:77@[2001:db8::1]/' }] }, [80]],
  [{ env: [{ name: 'TENDRIL_PROXY', value: 'https://proxy.example.org:8443/' }] }, [8443]],
  [{ env: [{ name: 'ALL_PROXY', value: 'socks5://proxy.example.org:1080' }] }, []],
  [{ env: [{ name: 'TENDRIL_PROXY', value: 'none' }] }, []],
  [{ env: [{ name: 'NO_PROXY', value: 'example.org:99' }] }, []],
  [{ env: [{ name: 'TENDRIL_PROXY', valueFrom: {} }], networkPolicy: { proxyPorts: [8888] } }, [8888]]
]

const EXAMPLES = join(ROOT_PATH, 'deploy/examples')

type Listener = { tls?: { clientCa?: string } }

/**
 * Checks 8.2 to 8.7, 8.12 and 8.13; kube-apiserver must run.
 * @param definitions files of CustomResourceDefinitions
 */
export async function charts(
  context: CheckContext,
  tools: Tools,
  definitions: readonly string[]
): Promise<void> {
  const { report, cluster } = context
  const { helm } = tools
  const kubernetes = (await cluster.api.get<{ gitVersion: string }>('/version')).gitVersion.replace(/^v/, '')
  const tried = chartNames.flatMap(chart =>
    Object.entries(profilesOf(chart)).map(([profile, args]) => ({ chart, profile, args }))
  )

  await define(cluster.api, definitions)

  await report.check('8.2', 'helm lint finds nothing', async () => {
    for (const { chart, args } of tried) await must([helm, 'lint', '--strict', chartPath(chart), ...args])
    return `${tried.length} sets of values`
  })

  await report.check('8.3', 'helm refuses a typo by its name, and a value of the wrong form', async () => {
    const wrong: [ChartName, string, RegExp][] = [
      ['seed-server', 'replcas=2', /replcas/],
      ['seed-server', 'config.tunel.listen=:8443', /tunel/],
      ['seed-server', 'config.drainTimeout=30', /drainTimeout/],
      ['seed-server', 'config.tunnel.tls.key=/tmp/key', /tls/],
      ['seed-server', 'config.fronts[0].listen=unix:/run/x.sock', /Unix socket/],
      ['shoot-client', 'config.target.allow={10.0.0.0/8}', /target/],
      ['shoot-client', 'config.link.deadAfter=10sec', /deadAfter/]
    ]
    for (const [chart, set, says] of wrong) {
      const front = set.startsWith('config.fronts') ? ['--set', 'config.fronts[0].name=x'] : []
      const said = await refusal(helm, chart, ['--set', set, ...front])
      expect(said !== undefined && says.test(said), `${set} is answered with: ${said ?? 'nothing'}`)
    }
  })

  await report.check('8.4', 'deploy/manifests is what the charts render', async () => {
    const stale = await staleManifests(helm)
    expect(stale.length === 0, `stale: ${stale.join(', ')}; run node test/dist/e2e/manifests.js`)
  })

  await report.check(
    '8.5',
    'kube-apiserver takes every object, and every pod passes "restricted"',
    async () => {
      await cluster.api.apply({
        ...{ apiVersion: 'v1', kind: 'Namespace', metadata: { name: TRIAL, labels: RESTRICTED } }
      })
      await cluster.api.apply({
        ...{ apiVersion: 'scheduling.k8s.io/v1', kind: 'PriorityClass' },
        ...{ metadata: { name: 'gardener-system-300' }, value: 300 }
      })
      let objects = 0
      for (const { chart, args } of tried) {
        const rendered = objectsOf(await render(helm, chart, args, kubernetes)).map(inTrial)
        // Pods are only let in for a ServiceAccount that is there.
        for (const account of rendered.filter(({ kind }) => kind === 'ServiceAccount'))
          await cluster.api.apply(account)
        await accept(context, [...rendered, ...rendered.flatMap(podOf)], TRIAL)
        objects += rendered.length
      }
      return `${objects} objects`
    }
  )

  await report.check('8.6', 'no chart has a listener that asks nobody for a certificate', async () => {
    for (const { chart, profile, args } of tried.filter(({ chart }) => chart === 'seed-server')) {
      const rendered = objectsOf(await render(helm, chart, args, kubernetes))
      const map = rendered.find(({ kind }) => kind === 'ConfigMap')
      const data = map?.['data'] as Record<string, string>
      const { tunnel, fronts } = parse(data['seed.yaml']!) as Record<'tunnel', Listener> & {
        fronts: Listener[]
      }
      expect(fronts.length > 0, `${profile} has no front`)
      for (const { tls } of [tunnel, ...fronts])
        expect(Boolean(tls?.clientCa), `${profile} has a listener without clientCa`)
    }
  })

  await report.check(
    '8.7',
    'with peers.leases a server may touch Leases of its namespace, and nothing else',
    async () => {
      const rendered = objectsOf(
        await render(helm, 'seed-server', profilesOf('seed-server')['everything']!, kubernetes)
      )
      for (const object of rendered.filter(({ kind }) => kind.startsWith('Role')))
        await cluster.api.apply({ ...object, metadata: { ...object.metadata, namespace: TRIAL } })
      const can = async (what: string, namespace: string): Promise<boolean> => {
        const as = ['--as', 'system:serviceaccount:tendril:seed-server', '--namespace', namespace]
        return (await cluster.kubectl(['auth', 'can-i', ...what.split(' '), ...as])).code === 0
      }
      // RBAC hears of a new binding a moment later.
      await until('the binding to count', () => can(LEASES.may[0]!, TRIAL))
      for (const what of LEASES.may) expect(await can(what, TRIAL), `it may not ${what}`)
      for (const what of LEASES.mayNot) expect(!(await can(what, TRIAL)), `it may ${what}`)
      expect(!(await can(LEASES.may[0]!, 'default')), 'it may do so elsewhere')
    }
  )

  await report.check('8.12', 'kube-apiserver takes every example, and would see a typo in it', async () => {
    const examples: KubeObject[] = []
    for (const name of (await readdir(EXAMPLES)).filter(file => file.endsWith('.yaml')))
      examples.push(...objectsOf(await readFile(join(EXAMPLES, name), 'utf8')).map(inTrial))
    await accept(context, examples, TRIAL)
    for (const example of examples) {
      const wrong = { ...example, spec: { ...(example['spec'] as object), typo: 1 } }
      const error = await accept(context, [wrong], TRIAL).then(() => '', String)
      expect(error.includes('typo'), `a typo in ${example.kind} is answered with: ${error || 'nothing'}`)
    }
    return examples.map(({ kind }) => kind).join(', ')
  })

  await report.check('8.13', 'the NetworkPolicy of shoot-client lets out its proxy', async () => {
    for (const [values, ports] of PROXIES) {
      const all = Object.entries({ ...values, config: { ...CLIENT, ...values.config } })
      const args = all.flatMap(([key, value]) => ['--set-json', `${key}=${JSON.stringify(value)}`])
      const rendered = objectsOf(await render(helm, 'shoot-client', args, kubernetes))
      const policy = rendered.find(({ kind }) => kind === 'NetworkPolicy')
      const { egress } = policy?.['spec'] as { egress: { ports: { port: number }[] }[] }
      const open = egress[0]!.ports.map(({ port }) => port).join()
      expect(open === [8132, ...ports].join(), `${JSON.stringify(values)} opens ${open}`)
    }
  })
}

const inTrial = (object: KubeObject): KubeObject => ({
  ...object,
  metadata: { ...object.metadata, namespace: TRIAL }
})

/** `kubectl apply --server-side --dry-run=server`, which must not even warn. */
export async function accept(
  context: CheckContext,
  objects: readonly KubeObject[],
  namespace: string
): Promise<void> {
  const args = ['apply', '--server-side', '--dry-run=server', '--namespace', namespace, '--filename', '-']
  const list = { apiVersion: 'v1', kind: 'List', items: objects }
  const { code, stderr } = await context.cluster.kubectl(args, { input: JSON.stringify(list) })
  expect(code === 0 && !stderr.includes('Warning'), stderr)
}

/** The pod that a Deployment would have. */
function podOf(object: KubeObject): KubeObject[] {
  if (object.kind !== 'Deployment') return []
  const { template } = object['spec'] as { template: { metadata: object; spec: object } }
  const { name, namespace } = object.metadata
  const metadata = { ...template.metadata, name: `${name}-0`, ...(namespace !== undefined && { namespace }) }
  return [{ apiVersion: 'v1', kind: 'Pod', metadata, spec: template.spec }]
}
