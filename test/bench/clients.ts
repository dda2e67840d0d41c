/**
 * Many shoot-clients in one process that carry nothing, for what an idle client costs the server. Their own memory
 * is not measured here: one process for each would not fit the machine.
 *
 * Arguments: a shoot-client configuration without `admin`, and how many. Sends `{ connected }` when all are started.
 */
import { loadConfig } from '@tendril/common/config'
import { createLog } from '@tendril/common/log'
import { createMetrics, type Metrics } from '@tendril/common/metrics'
import type { Service } from '@tendril/common/command'
import type { Log } from '@tendril/common/log'
import { shootSchema, type ShootConfig } from '@tendril/shoot-client/config'

/** Handshakes in flight: a thousand at once is another benchmark. */
const STARTS_IN_FLIGHT = 16

type MakeClient = new (config: ShootConfig, parts: { log: Log; metrics: Metrics }) => Service

const [file = '', count = '0'] = process.argv.slice(2)
const config = await loadConfig(shootSchema, { file, env: {}, overrides: [] })
const { Client } = (await import('@tendril/shoot-client/client')) as { Client: MakeClient }

const log = createLog({ level: 'fatal' })
let left = Number(count)
await Promise.all(
  Array.from({ length: STARTS_IN_FLIGHT }, async () => {
    while (left-- > 0) {
      const metrics = createMetrics({ program: 'shoot-client', version: 'bench', processMetrics: false })
      const client = new Client(config, { log, metrics })
      client.closed.catch((error: unknown) => {
        process.stderr.write(`idle client: ${String(error)}\n`)
        process.exit(1)
      })
      await client.start()
    }
  })
)
process.send?.({ connected: Number(count) })
process.on('disconnect', () => process.exit())
