/** The system may have no process left: that is a start that fails, not one that hangs. */
import cluster from 'node:cluster'
import { createLog } from '@tendril/common/log'
import { createMetrics } from '@tendril/common/metrics'
import t from 'tap'
import type { SeedConfig } from '../../src/config.js'
import { Workers } from '../../src/workers/workers.js'

function workers(): Workers {
  return new Workers({ fronts: [], clusters: [] } as unknown as SeedConfig, {
    count: 2,
    version: '0',
    log: createLog({ level: 'silent' }),
    metrics: createMetrics({ program: 'x', version: '0', processMetrics: false })
  })
}

t.test('a worker whose process cannot be made fails the start, with the reason', async t => {
  const { execPath } = process
  t.teardown(() => (process.execPath = execPath))
  process.execPath = '/nowhere/node'

  await t.rejects(workers().start(), {
    code: 'INTERNAL',
    message: /worker \d not started \(spawn .*ENOENT\)/
  })
})

t.test('so does one that the system refuses at once', async t => {
  const fork = cluster.fork
  t.teardown(() => (cluster.fork = fork))
  cluster.fork = () => {
    throw new Error('spawn ENOMEM')
  }

  await t.rejects(workers().start(), { code: 'INTERNAL', message: /worker \d not started \(spawn ENOMEM\)/ })
})
