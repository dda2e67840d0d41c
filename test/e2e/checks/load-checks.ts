/** Checks 5: small requests while a large copy runs, and very many at once. */
import { createWriteStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { expect, kubectl, percentile, type CheckContext } from '../support/check-context.js'
import { WEBHOOK_LABEL } from './services.js'

const PARALLEL = 200
const PARALLEL_TIMEOUT_MS = 120_000
/** What a webhook call may take at most while a copy runs: half of the time kube-apiserver gives it by default. */
const WEBHOOK_P99_LIMIT_MS = 5_000
/** A delayed acknowledgement takes 40 ms: a socket without TCP_NODELAY anywhere on the way shows here. */
const WEBHOOK_ALONE_LIMIT_MS = 30

export async function load(context: CheckContext): Promise<void> {
  const { report, dir } = context
  const { api } = context.cluster
  const mebibytes = context.quick ? 50 : 300

  const admit = async (): Promise<number> => {
    const begun = performance.now()
    await api.send('POST', '/api/v1/namespaces/default/configmaps?dryRun=All', {
      ...{
        apiVersion: 'v1',
        kind: 'ConfigMap',
        metadata: { name: 'timed', labels: { [WEBHOOK_LABEL]: 'true' } }
      }
    })
    return performance.now() - begun
  }

  await report.check('5.1', `webhook calls while kubectl cp carries ${mebibytes} MiB`, async () => {
    const alone: number[] = []
    for (let time = 0; time < 200; time++) alone.push(await admit())
    const aloneMs = percentile(alone, 0.5)
    expect(aloneMs < WEBHOOK_ALONE_LIMIT_MS, `alone p50 ${aloneMs.toFixed(1)} ms`)
    const source = join(dir, 'load-source')
    await pipeline(
      Readable.from(Array.from({ length: mebibytes }, () => randomBytes(2 ** 20))),
      createWriteStream(source)
    )
    let copying = true
    const copy = kubectl(context, ['cp', 'load-source', 'box:load'], {
      cwd: dir,
      timeoutMs: 300_000
    }).finally(() => {
      copying = false
    })
    copy.catch(() => {}) // heard below
    const during: number[] = []
    while (copying) during.push(await admit())
    await copy
    await rm(source)
    await kubectl(context, ['exec', 'box', '--', 'rm', 'load'])
    const p99 = percentile(during, 0.99)
    expect(p99 < WEBHOOK_P99_LIMIT_MS, `p99 ${p99.toFixed(0)} ms`)
    const show = (values: number[]): string =>
      `p50 ${percentile(values, 0.5).toFixed(1)} p99 ${percentile(values, 0.99).toFixed(1)} ms of ${values.length}`
    return `alone ${show(alone)}, during ${show(during)}`
  })

  await report.check('5.2', `${PARALLEL} kubectl get --raw at once through the service proxy`, async () => {
    const path = '/api/v1/namespaces/default/services/web:main/proxy/?bytes=100000'
    const got = await Promise.all(
      Array.from({ length: PARALLEL }, () =>
        kubectl(context, ['get', '--raw', path], { timeoutMs: PARALLEL_TIMEOUT_MS })
      )
    )
    expect(
      got.every(body => body.length === 100_000),
      `${got.filter(body => body.length !== 100_000).length} were not whole`
    )
  })
}
