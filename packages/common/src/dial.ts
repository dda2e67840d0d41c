/**
 * The product in one function: `dial(target) → Duplex`. Fronts, registry, peers, policy and targets speak only
 * this; the multiplexer carries it across a wire.
 */
import type { Duplex } from 'node:stream'
import type { Principal } from './principal.js'

/** Whom to reach. `host` is an IP literal (no brackets) or a name that the workload cluster resolves. */
export type Target = {
  proto: 'tcp' | 'udp' | 'icmp'
  host: string
  port: number
  /** Between servers only: the cluster whose client is to dial. A client dials in its own. */
  cluster?: string
}

/** What travels with a dial. Whoever passes the dial on passes on all of it. */
export type DialContext = {
  /** Aborting cancels the dial all the way to the target; after the promise settled it does nothing. */
  signal: AbortSignal
  /** Milliseconds after which whoever dials answers `DIAL_TIMEOUT`. */
  timeoutMs: number
  /** Who asks. */
  principal: Principal
  /** Name of the front where it asked; '' when a server of version 1.0 passed the dial on. */
  front: string
  /** Made by the front: the same in the log lines of all programs that the dial passes through. */
  traceId?: string
  /** How many servers have passed the dial on to another server: 0 at the front. At `HOP_LIMIT` it is not passed on. */
  hops: number
}

/**
 * Connects to a target. The Duplex keeps half-close (`allowHalfOpen`); destroying it with an error resets the
 * far end. Rejects with a `TunnelError` only: see the table in errors.ts for the codes.
 */
export type Dial = (target: Target, context: DialContext) => Promise<Duplex>

/** Default bound on one dial, in milliseconds: the aggregator's availability probe gives up after 5 s. */
export const DIAL_TIMEOUT_MS = 4_000

/** Most servers that may pass a dial on: to another replica, and from there to a worker beside it. */
export const HOP_LIMIT = 2
