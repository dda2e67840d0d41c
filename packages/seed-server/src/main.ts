/** The program seed-server: one command line in, one exit code out. */
import { readFileSync } from 'node:fs'
import { type Service, type Io, processIo, runService, runProgram } from '@tendril/common/command'
import { giveMemoryBack, tuneHeap } from '@tendril/common/heap'
import { secureEnvironment } from '@tendril/common/environment'
import { type Log, createLog } from '@tendril/common/log'
import { type Metrics, createMetrics } from '@tendril/common/metrics'
import { createCli } from './cli.js'
import type { SeedConfig } from './config.js'
import { usableCores } from './workers/cores.js'

const NAME = 'seed-server'

/** Runs one command. Never throws. Exit code 0: done, 1: failed, 2: wrong usage or configuration. */
export async function main(argv: readonly string[], io: Io = processIo): Promise<number> {
  const version = versionOf(new URL('../../package.json', import.meta.url))
  const run = (config: SeedConfig) => serve(config, version)
  return runProgram(createCli({ version, run, io }), argv, io)
}

async function serve(config: SeedConfig, version: string): Promise<void> {
  const workers = config.workers === 'auto' ? usableCores() : config.workers
  // Before anything is made; the primary of several workers stays small by itself.
  if (workers === 1) {
    tuneHeap()
    giveMemoryBack()
  }
  const metrics = createMetrics({ program: NAME, version })
  const log = createLog({ ...config.log, onDrop: lines => metrics.logLinesDropped.inc(lines) })
  process.once('exit', () => log.flush())
  log.info({ version, ...(workers > 1 && { workers }) }, `${NAME} starts`)
  for (const warning of secureEnvironment()) log.warn(warning)
  await runService(await build(config, { workers, version, log, metrics }), { log })
  log.info(`${NAME} stopped`)
}

/** Only `run` needs the whole server, and only several workers a primary; the other commands start faster without. */
async function build(
  config: SeedConfig,
  { workers, ...parts }: { workers: number; version: string; log: Log; metrics: Metrics }
): Promise<Service> {
  if (workers === 1) {
    const { Server } = await import('./server.js')
    return new Server(config, parts)
  }
  const { Workers } = await import('./workers/workers.js')
  return new Workers(config, { count: workers, ...parts })
}

function versionOf(packageJson: URL): string {
  return (JSON.parse(readFileSync(packageJson, 'utf8')) as { version: string }).version
}
