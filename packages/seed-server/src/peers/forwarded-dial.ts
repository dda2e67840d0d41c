/**
 * What this server answers to a dial that a peer passes on: it knows the cluster, and asks the clients that it can
 * reach without passing the dial on further than the hops of the dial allow (forward.ts).
 */
import { type Dial, TunnelError } from '@tendril/common'

export type ForwardedDialOptions = {
  /** The configured clusters. A peer reaches no other. */
  clusters: readonly string[]
  /** Own clients of a cluster as a Dial. */
  dialLocal: (cluster: string) => Dial
}

/** Rejects with BAD_TARGET, UNKNOWN_CLUSTER, or as `dialLocal` does: NO_CLIENT tells the peer to ask another. */
export function createForwardedDial({ clusters, dialLocal }: ForwardedDialOptions): Dial {
  const known = new Set(clusters)
  return async ({ cluster, ...target }, context) => {
    if (cluster === undefined) throw new TunnelError('BAD_TARGET', 'a dial between servers names its cluster')
    if (!known.has(cluster))
      throw new TunnelError('UNKNOWN_CLUSTER', `${cluster} is not configured at this server`)
    return dialLocal(cluster)(target, context)
  }
}
