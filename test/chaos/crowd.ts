/**
 * Many clients in one process, for storm.test.ts: the real ones, each with its name. Says `up N` whenever all are up, with the
 * moments at which each came up since the last time (milliseconds since the epoch).
 */
import { loadConfig } from '@tendril/common/config'
import { createLog } from '@tendril/common/log'
import { createMetrics } from '@tendril/common/metrics'
import { Client } from '@tendril/shoot-client/client'
import { shootSchema } from '@tendril/shoot-client/config'

const [file = '', prefix = '', count = '0'] = process.argv.slice(2)
const config = await loadConfig(shootSchema, { file })
let up: number[] = []
let attempts = 0
/** Why attempts failed, addresses left out. */
let reasons: Record<string, number> = {}

const log = createLog({
  level: 'info',
  destination: {
    write(line) {
      if (line.includes('"no link yet')) {
        attempts++
        const reason = (/"reason":"([^"]*)"/.exec(line)?.[1] ?? '').replace(/[0-9.]+:[0-9]+/g, '')
        reasons[reason] = (reasons[reason] ?? 0) + 1
      }
      if (!line.includes('"link up"') && !line.includes('"link resumed"')) return
      up.push(Date.now())
      if (up.length < Number(count)) return
      console.log(JSON.stringify({ prefix, attempts, reasons, up }))
      up = []
      attempts = 0
      reasons = {}
    }
  }
})
const clients = [...Array(Number(count)).keys()].map(at => {
  const metrics = createMetrics({ program: 'shoot-client', version: 'test', processMetrics: false })
  return new Client({ ...config, admin: undefined, name: `${prefix}-${at}` }, { log, metrics })
})
for (const client of clients) await client.start()
process.once('SIGTERM', () => process.exit(0))
