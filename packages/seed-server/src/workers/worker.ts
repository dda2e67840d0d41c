/**
 * One of several workers: an ordinary server, whose listeners Node shares with those of its siblings. Forked by
 * workers.ts, which says what is to be served and when to stop; signals are the primary's business. Without the primary
 * it ends at once, as Node sees to.
 */
import '@tendril/common/no-debugger'
import cluster from 'node:cluster'
import { rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { TunnelError } from '@tendril/common'
import { EXIT } from '@tendril/common/command'
import { giveMemoryBack, tuneHeap } from '@tendril/common/heap'
import { createLog } from '@tendril/common/log'
import { createMetrics } from '@tendril/common/metrics'
import { readiness } from '../admin/server-readiness.js'
import type { Answers, Begin, FromWorker, Question, ToWorker } from './worker-messages.js'

// A terminal and systemd tell the whole group; what follows from it is told by the primary, once.
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => {})
tuneHeap()
giveMemoryBack()
// The house comes after, as in main.ts.
const { Server } = await import('../server.js')
process.once('message', (word: ToWorker) => {
  if ('begin' in word) void serve(word.begin)
})
void tell({ here: true })

async function serve({ config, version, own, siblings }: Begin): Promise<void> {
  process.on('exit', () => {
    // The primary was killed, and can no longer clean up.
    const orphaned = !process.connected && !cluster.worker?.exitedAfterDisconnect
    if (orphaned) rmSync(dirname(own), { recursive: true, force: true })
  })
  const metrics = createMetrics({ program: 'seed-server', version })
  const log = createLog({ ...config.log, onDrop: lines => metrics.logLinesDropped.inc(lines) })
  process.once('exit', () => log.flush())
  const { admin: _, ...house } = config
  const server = new Server(house, { log, metrics, siblings: { own, others: siblings } })
  const { clusters } = config
  const answers: { [Q in Question]: () => Answers[Q] | Promise<Answers[Q]> } = {
    ready: () => readiness({ clusters, clientsOf: cluster => server.clientsOf(cluster) }),
    metrics: () => metrics.registry.getMetricsAsJSON(),
    alive: () => true as const
  }
  const starting = server.start()
  process.on('message', (word: ToWorker) => {
    if ('stop' in word) void starting.catch(() => {}).then(() => server.stop())
    if ('ask' in word) {
      const { ask, number } = word
      void Promise.resolve(answers[ask]()).then(answer => tell({ answer, number }))
    }
  })
  try {
    await starting
    await tell({ started: { id: server.id } })
    await server.closed
  } catch (error) {
    const { code, detail } = TunnelError.from(error)
    process.exitCode = EXIT.failed
    await server.stop()
    await tell({ failed: { code, detail } })
  }
  cluster.worker?.disconnect()
}

/** Resolves when it is sent, or cannot be: then there is nobody to tell. */
function tell(word: FromWorker): Promise<void> {
  return new Promise(resolve => {
    if (!process.connected) resolve()
    else process.send?.(word, undefined, undefined, () => resolve())
  })
}
