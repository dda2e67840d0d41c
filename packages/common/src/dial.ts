/**
 * The product in one function: `dial(target) → Duplex`. Fronts, registry, peers, policy and targets speak only
 * this; the multiplexer carries it across a wire.
 */
import type { Duplex } from 'node:stream'

/** Whom to reach. `host` is an IP literal (no brackets) or a name that the workload cluster resolves. */
export type Target = {
  proto: 'tcp' | 'udp' | 'icmp'
  host: string
  port: number
  /** Between servers only: the cluster whose client is to dial. A client dials in its own. */
  cluster?: string
}

export type DialOptions = {
  /** Aborting cancels the dial all the way to the target; after the promise settled it does nothing. */
  signal: AbortSignal
  /** Milliseconds after which whoever dials answers `DIAL_TIMEOUT`. Default 4000 (below kube-apiserver's 5 s probe). */
  timeoutMs?: number
}

/**
 * Connects to a target. The Duplex keeps half-close (`allowHalfOpen`); destroying it with an error resets the
 * far end. Rejects with a `TunnelError` only: see the table in errors.ts for the codes.
 */
export type Dial = (target: Target, options: DialOptions) => Promise<Duplex>

/** Default bound on one dial, in milliseconds: the aggregator's availability probe gives up after 5 s. */
export const DIAL_TIMEOUT_MS = 4_000
