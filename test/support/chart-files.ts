/**
 * What deploy/manifests is made of, for those who have helm and those who have not: the files of a chart and their
 * hash, which stands in the first line of what was rendered.
 */
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ChartName } from './values-schema.js'

/** Where the plain manifests are for: a Kubernetes release that has all that they use, and a namespace. */
export const RENDERED_FOR = { kubernetes: '1.30.0', namespace: 'tendril' }

export const chartPath = (chart: ChartName): string =>
  fileURLToPath(new URL(`../../../deploy/helm/${chart}`, import.meta.url))
export const manifestPath = (chart: ChartName): string =>
  fileURLToPath(new URL(`../../../deploy/manifests/${chart}.yaml`, import.meta.url))

/** The hash of all that a chart renders from. */
export async function chartHash(chart: ChartName): Promise<string> {
  const root = chartPath(chart)
  const templates = (await readdir(join(root, 'templates'))).map(name => join('templates', name))
  const hash = createHash('sha256')
  for (const file of ['Chart.yaml', 'values.yaml', ...templates.sort()]) {
    hash.update(`${file}\0`).update(await readFile(join(root, file)))
  }
  return hash.digest('hex')
}

/** The first lines of a plain manifest. */
export async function manifestHead(chart: ChartName): Promise<string> {
  return `# The chart deploy/helm/${chart} with its defaults, for the namespace ${RENDERED_FOR.namespace}.
# Change the chart, then run: node test/dist/e2e/manifests.js
# Rendered from ${await chartHash(chart)}
`
}
