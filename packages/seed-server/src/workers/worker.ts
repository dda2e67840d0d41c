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
// The server comes after, as in main.ts.
const { Server } = await import('../server.js')
process.once('message', (message: ToWorker) => {
  if ('begin' in message) void serve(message.begin)
})
void send({ here: true })

async function serve({ config, version, own, siblings }: Begin): Promise<void> {
  process.on('exit', () => {
    // The primary was killed, and can no longer clean up.
    const orphaned = !process.connected && !cluster.worker?.exitedAfterDisconnect
    if (orphaned) rmSync(dirname(own), { recursive: true, force: true })
  })
  const metrics = createMetrics({ program: 'seed-server', version })
  const log = createLog({ ...config.log, onDrop: lines => metrics.logLinesDropped.inc(lines) })
  process.once('exit', () => log.flush())
  const { admin: _, ...serverConfig } = config
  const server = new Server(serverConfig, { log, metrics, siblings: { own, others: siblings } })
  const { clusters } = config
  const answers: { [Q in Question]: () => Answers[Q] | Promise<Answers[Q]> } = {
    ready: () => readiness({ clusters, clientsOf: cluster => server.clientsOf(cluster) }),
    metrics: () => metrics.registry.getMetricsAsJSON(),
    alive: () => true as const
  }
  const starting = server.start()
  process.on('message', (message: ToWorker) => {
    if ('stop' in message) void starting.catch(() => {}).then(() => server.stop())
    if ('ask' in message) {
      const { ask, number } = message
      void Promise.resolve(answers[ask]()).then(answer => send({ answer, number }))
    }
  })
  try {
    await starting
    await send({ started: { id: server.id } })
    await server.closed
  } catch (error) {
    const { code, detail } = TunnelError.from(error)
    process.exitCode = EXIT.failed
    await server.stop()
    await send({ failed: { code, detail } })
  }
  cluster.worker?.disconnect()
}

/** Resolves when it is sent, or cannot be: then there is nobody to tell. */
function send(message: FromWorker): Promise<void> {
  return new Promise(resolve => {
    if (!process.connected) resolve()
    else process.send?.(message, undefined, undefined, () => resolve())
  })
}
