/** The Helm charts as helm renders them: the plain manifests of deploy/, and objects to show to kube-apiserver. */
import { readFile, writeFile } from 'node:fs/promises'
import { parseAllDocuments } from 'yaml'
import { chartPath, manifestHead, manifestPath, RENDERED_FOR } from '../../support/chart-files.js'
import { chartNames, type ChartName } from '../../support/values-schema.js'
import type { KubeObject } from './api.js'
import { must, run } from './namespace-process.js'

export { chartNames, chartPath, manifestPath, type ChartName }

/** YAML of a chart, rendered as `helm install NAME` would be, for a release of Kubernetes. */
export function render(helm: string, chart: ChartName, args: string[], kubernetes: string): Promise<string> {
  return must([
    ...[helm, 'template', chart, chartPath(chart), '--namespace', RENDERED_FOR.namespace],
    ...['--kube-version', kubernetes, ...args]
  ])
}

export function objectsOf(yaml: string): KubeObject[] {
  return parseAllDocuments(yaml).flatMap(document => (document.toJS() as KubeObject | null) ?? [])
}

/** What helm says of values that it refuses; undefined when it does not. */
export async function refusal(helm: string, chart: ChartName, args: string[]): Promise<string | undefined> {
  const { code, stderr } = await run([
    ...[helm, 'template', chart, chartPath(chart), '--kube-version', RENDERED_FOR.kubernetes, ...args]
  ])
  return code === 0 ? undefined : stderr
}

/** The content that deploy/manifests should have. */
export async function manifest(helm: string, chart: ChartName): Promise<string> {
  return (await manifestHead(chart)) + (await render(helm, chart, [], RENDERED_FOR.kubernetes))
}

/** Those of deploy/manifests that are not what the charts render. */
export async function staleManifests(helm: string): Promise<ChartName[]> {
  const stale: ChartName[] = []
  for (const chart of chartNames) {
    const found = await readFile(manifestPath(chart), 'utf8').catch(() => '')
    if (found !== (await manifest(helm, chart))) stale.push(chart)
  }
  return stale
}

export async function writeManifests(helm: string): Promise<void> {
  for (const chart of chartNames) await writeFile(manifestPath(chart), await manifest(helm, chart))
}
