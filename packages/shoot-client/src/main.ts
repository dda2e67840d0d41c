/** The program shoot-client: one command line in, one exit code out. */
import { readFileSync } from 'node:fs'
import { type Io, processIo, runService, runProgram } from '@tendril/common/command'
import { giveMemoryBack, tuneHeap } from '@tendril/common/heap'
import { secureEnvironment } from '@tendril/common/environment'
import { createLog } from '@tendril/common/log'
import { createMetrics } from '@tendril/common/metrics'
import { createCli } from './cli.js'
import type { ShootConfig } from './config.js'

const NAME = 'shoot-client'

/** Runs one command. Never throws. Exit code 0: done, 1: failed, 2: wrong usage or configuration. */
export async function main(argv: readonly string[], io: Io = processIo): Promise<number> {
  const version = versionOf(new URL('../../package.json', import.meta.url))
  const run = (config: ShootConfig, warnings: readonly string[]) => keep(config, warnings, version)
  return runProgram(createCli({ version, run, io }), argv, io)
}

async function keep(config: ShootConfig, warnings: readonly string[], version: string): Promise<void> {
  tuneHeap()
  giveMemoryBack()
  // Only `run` needs the whole client; the other commands start faster without.
  const { Client } = await import('./client.js')
  const metrics = createMetrics({ program: NAME, version })
  const log = createLog({ ...config.log, onDrop: lines => metrics.logLinesDropped.inc(lines) })
  process.once('exit', () => log.flush())
  log.info({ version }, `${NAME} starts`)
  for (const warning of warnings) log.warn({ event: 'config.renamed' }, warning)
  for (const warning of secureEnvironment()) log.warn(warning)
  await runService(new Client(config, { log, metrics }), { log })
  log.info(`${NAME} stopped`)
}

function versionOf(packageJson: URL): string {
  return (JSON.parse(readFileSync(packageJson, 'utf8')) as { version: string }).version
}
