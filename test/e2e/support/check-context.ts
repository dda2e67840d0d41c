/** What every check of the end-to-end test gets: the running cluster, the network, and the tunnel between. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { pipeline } from 'node:stream/promises'
import type { Cluster } from './cluster.js'
import type { Network } from './network.js'
import type { RunOptions } from './namespace-process.js'
import type { Report } from './check-report.js'
import type { Tunnel } from './e2e-tunnel.js'

export type CheckContext = {
  report: Report
  network: Network
  cluster: Cluster
  /** Where files may be put. */
  dir: string
  /** Undefined in the run that shows what kube-apiserver does without a tunnel. */
  tunnel: Tunnel | undefined
  /** Fewer repetitions and smaller files: for trying things out. */
  quick: boolean
}

/** kubectl that must succeed; returns what it printed. */
export async function kubectl(
  context: CheckContext,
  args: string[],
  options: RunOptions = {}
): Promise<Buffer> {
  const { code, stdout, stderr } = await context.cluster.kubectl(args, options)
  if (code !== 0) throw new Error(`kubectl ${args.join(' ')} ended with ${code}: ${stderr.trim()}`)
  return stdout
}

export function expect(condition: boolean, otherwise: string): asserts condition {
  if (!condition) throw new Error(otherwise)
}

/** The two ways kubectl opens streams: WebSocket is today's, SPDY is what older ones speak. */
export const kubectlProtocols = {
  websocket: {},
  spdy: { KUBECTL_REMOTE_COMMAND_WEBSOCKETS: 'false', KUBECTL_PORT_FORWARD_WEBSOCKETS: 'false' }
} as const satisfies Record<string, Record<string, string>>

export async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(file), hash)
  return hash.digest('hex')
}

/** The value below which `share` (0..1) of the sorted values lie. */
export function percentile(values: number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}

export const delay = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))
