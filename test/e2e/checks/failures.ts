/** Checks 6: kube-apiserver saw no failed dial so far; and when the client is away, kubectl says so until it is back. */
import { expect, kubectl, type CheckContext } from '../support/check-context.js'
import { until } from '../support/namespace-process.js'

const BACK_LIMIT_MS = 2_000

export async function failures(context: CheckContext): Promise<void> {
  const { report, tunnel, cluster } = context
  if (!tunnel) return

  await report.check('6.1', 'kube-apiserver dialled through the tunnel and counted no failure', async () => {
    await kubectl(context, ['logs', 'chatty', '--tail=1'])
    const series = 'apiserver_egress_dialer_dial_start_total'
    const started = (await cluster.api.metric(series, 'protocol="http_connect"')) ?? 0
    const failed = (await cluster.api.metric('apiserver_egress_dialer_dial_failure_count')) ?? 0
    expect(started > 0, 'kube-apiserver has not dialled through the tunnel at all')
    expect(failed === 0, `${failed} of ${started} dials failed`)
    return `${started} dials`
  })

  await report.check('6.2', 'nothing of the seed came as far as the router on its own', async () => {
    const dropped = await context.network.droppedIntoShoot()
    // The attempt of check 0 is all there may be: one SYN and its repetitions.
    expect(dropped <= 3, `${dropped} packets were dropped`)
  })

  await report.check(
    '6.3',
    'without a client kubectl names the cause, and all works within 2 s of its return',
    async () => {
      await tunnel.stopClient()
      const { code, stderr } = await cluster.kubectl(['logs', 'chatty', '--tail=1'])
      expect(code !== 0 && stderr.includes('no client connected'), `kubectl ended with ${code}: ${stderr}`)
      const tookMs = await clientReturns()
      return `${tookMs.toFixed(0)} ms; kubectl said: ${stderr.trim()}`
    }
  )

  await report.check(
    '6.4',
    'after kill -9 of the client all works within 2 s of its return, for those too who waited meanwhile',
    async () => {
      // kube-apiserver keeps this connection, and asks over it again while nobody is at its end.
      await kubectl(context, ['logs', 'chatty', '--tail=1'])
      await tunnel.killClient()
      const waiting = cluster.kubectl(['logs', 'chatty', '--tail=1'])
      const tookMs = await clientReturns()
      const begun = performance.now()
      const { code, stderr } = await waiting
      const laterMs = performance.now() - begun
      expect(laterMs < BACK_LIMIT_MS, `who had asked before waited ${laterMs.toFixed(0)} ms longer`)
      return `${tookMs.toFixed(0)} ms; who had asked before ${code === 0 ? 'got its answer' : `heard: ${stderr.trim()}`}`
    }
  )

  /** Starts the client and returns how long it took until kubectl worked, in milliseconds. */
  async function clientReturns(): Promise<number> {
    await tunnel!.startClient()
    const begun = performance.now()
    const reached = async (): Promise<boolean> =>
      (await cluster.kubectl(['logs', 'chatty', '--tail=1'])).code === 0
    await until('kubectl logs to work again', reached, 30_000)
    const tookMs = performance.now() - begun
    expect(tookMs < BACK_LIMIT_MS, `it took ${tookMs.toFixed(0)} ms`)
    await kubectl(context, ['exec', 'box', '--', 'true'])
    return tookMs
  }
}
