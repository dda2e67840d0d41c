/** Checks 4: what else kube-apiserver opens connections for: proxies, webhooks, an aggregated API, metrics. */
import { readFileSync } from 'node:fs'
import { expect, kubectl, type CheckContext } from '../support/check-context.js'
import type { KubeObject } from '../support/api.js'
import { until } from '../support/namespace-process.js'
import { nodeNames } from '../support/world.js'

const BODY_BYTES = 32 * 2 ** 20
export const WEBHOOK_LABEL = 'e2e.tendril/webhook'

export async function services(context: CheckContext): Promise<void> {
  const { report, cluster } = context
  const { api } = cluster

  await report.check(
    '4.1',
    'service proxy reaches every endpoint, with method, path, headers and body',
    async () => {
      const path = '/api/v1/namespaces/default/services/web:main/proxy/a/path?q=1'
      const seen = new Set<string>()
      for (let time = 0; time < 40 && seen.size < 2; time++) {
        const answer = JSON.parse(await api.send('POST', path, { hello: time })) as Record<string, string>
        expect(answer['method'] === 'POST' && answer['path'] === '/a/path?q=1', JSON.stringify(answer))
        expect(answer['body'] === JSON.stringify({ hello: time }), JSON.stringify(answer))
        seen.add(answer['pod']!)
      }
      expect(seen.size === 2, `only ${[...seen].join()} answered`)
    }
  )

  await report.check('4.2', `pod proxy brings ${BODY_BYTES / 2 ** 20} MiB`, async () => {
    for (const pod of ['web-0', 'web-1']) {
      const body = await kubectl(context, [
        'get',
        '--raw',
        `/api/v1/namespaces/default/pods/${pod}:8080/proxy/?bytes=${BODY_BYTES}`
      ])
      expect(body.length === BODY_BYTES, `${pod} sent ${body.length} bytes`)
    }
  })

  await report.check('4.3', 'node proxy reads the kubelet', async () => {
    for (const node of nodeNames) {
      const summary = (
        await kubectl(context, ['get', '--raw', `/api/v1/nodes/${node}/proxy/stats/summary`])
      ).toString()
      expect(
        (JSON.parse(summary) as { node: { nodeName: string } }).node.nodeName === node,
        summary.slice(0, 200)
      )
      const metrics = (
        await kubectl(context, ['get', '--raw', `/api/v1/nodes/${node}/proxy/metrics/resource`])
      ).toString()
      expect(metrics.includes('container_cpu_usage_seconds_total'), metrics.slice(0, 200))
    }
  })

  await report.check('4.4', 'a mutating and a validating webhook by clientConfig.service', async () => {
    for (const object of webhooks(cluster.authority.cert)) await api.apply(object)
    const configMap = (name: string, labels: Record<string, string>): string =>
      JSON.stringify({
        apiVersion: 'v1',
        kind: 'ConfigMap',
        metadata: { name, labels: { [WEBHOOK_LABEL]: 'true', ...labels } }
      })
    type Made = { metadata: { annotations?: Record<string, string> } }
    await until('the webhooks to be in force', async () => {
      const made = await kubectl(context, ['create', '--dry-run=server', '-o', 'json', '-f', '-'], {
        input: configMap('seen', {})
      })
      return (JSON.parse(made.toString()) as Made).metadata.annotations?.['e2e.tendril/seen-by'] === 'webhook'
    })
    const refused = await cluster.kubectl(['create', '--dry-run=server', '-f', '-'], {
      input: configMap('refused', { 'e2e.tendril/refuse': 'true' })
    })
    expect(
      refused.code === 1 && refused.stderr.includes('refused by the webhook in the shoot'),
      refused.stderr
    )
  })

  await report.check('4.5', 'an aggregated API becomes Available and answers', async () => {
    await api.apply(apiService(cluster.authority.cert))
    await kubectl(context, [
      'wait',
      '--for=condition=Available',
      'apiservice/v1beta1.metrics.k8s.io',
      '--timeout=30s'
    ])
    const list = (await kubectl(context, ['get', '--raw', '/apis/metrics.k8s.io/v1beta1/nodes'])).toString()
    expect(list.includes('NodeMetricsList'), list)
  })

  await report.check('4.6', 'kubectl top shows nodes and pods', async () => {
    await until('figures of both nodes', async () => {
      const top = (await kubectl(context, ['top', 'nodes', '--no-headers'])).toString()
      return nodeNames.every(node => new RegExp(`^${node}\\s+\\d+m\\s+\\d+%\\s+\\d+Mi`, 'm').test(top))
    })
    const pods = (await kubectl(context, ['top', 'pods', '-A', '--no-headers'])).toString()
    expect(/^default\s+web-0\s+\d+m\s+\d+Mi/m.test(pods), pods)
  })
}

function webhooks(caFile: string): KubeObject[] {
  const webhook = (name: string, path: string): object => ({
    ...{
      name,
      sideEffects: 'None',
      admissionReviewVersions: ['v1'],
      failurePolicy: 'Fail',
      timeoutSeconds: 10
    },
    clientConfig: {
      service: { namespace: 'default', name: 'webhook', path, port: 443 },
      caBundle: bundle(caFile)
    },
    rules: [{ operations: ['CREATE'], apiGroups: [''], apiVersions: ['v1'], resources: ['configmaps'] }],
    objectSelector: { matchLabels: { [WEBHOOK_LABEL]: 'true' } }
  })
  const apiVersion = 'admissionregistration.k8s.io/v1'
  const metadata = { name: 'e2e' }
  return [
    {
      apiVersion,
      kind: 'MutatingWebhookConfiguration',
      metadata,
      webhooks: [webhook('mutate.e2e.tendril', '/mutate')]
    },
    {
      apiVersion,
      kind: 'ValidatingWebhookConfiguration',
      metadata,
      webhooks: [webhook('validate.e2e.tendril', '/validate')]
    }
  ]
}

function apiService(caFile: string): KubeObject {
  return {
    ...{
      apiVersion: 'apiregistration.k8s.io/v1',
      kind: 'APIService',
      metadata: { name: 'v1beta1.metrics.k8s.io' }
    },
    spec: {
      ...{ group: 'metrics.k8s.io', version: 'v1beta1', groupPriorityMinimum: 100, versionPriority: 100 },
      service: { namespace: 'kube-system', name: 'metrics-server', port: 443 },
      caBundle: bundle(caFile)
    }
  }
}

const bundle = (caFile: string): string => readFileSync(caFile).toString('base64')
