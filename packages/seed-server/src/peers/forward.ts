/**
 * A dial passed on to other servers: the peers in turn, until one has a client of the cluster. Knows no links: a peer
 * is a Dial with a name. No dial goes round, because each server that passes it on counts a hop: one that comes from
 * another replica may still go to the workers beside this one, and one that comes from those goes no further.
 */
import { type Clock, type Dial, type ErrorCode, HOP_LIMIT, TunnelError, systemClock } from '@tendril/common'

/**
 * A replica that takes dials now. `silent`: nothing was received from it for longer than expected, and it is not asked.
 * `sibling`: a worker beside this one, which is the last that a dial is passed on to.
 */
export type PeerView = {
  readonly server: string
  readonly dial: Dial
  readonly silent: boolean
  readonly sibling: boolean
}

export type ForwardOptions = {
  /** Those that can be asked at this moment. */
  peers: () => readonly PeerView[]
  /** A peer answered: OK or why not. */
  onAnswer?: (event: { cluster: string; code: 'OK' | ErrorCode }) => void
  clock?: Clock
}

/** Most peers that may have a client and fail for a reason of their own before a dial is given up. */
export const FORWARD_TRIES = 3

/**
 * The peers as a Dial into a cluster. The one that served the cluster last is asked first. Rejects with what a target
 * said, or when no peer could serve: with the reason of one whose client is only away, with LINK_LOST when one does not
 * respond that may have a client, else with NO_CLIENT; so it does at once when the dial has come over HOP_LIMIT
 * servers.
 */
export function createForward(options: ForwardOptions): (cluster: string) => Dial {
  const { peers, onAnswer, clock = systemClock } = options
  /** By cluster: who served it, the last one first. At most as many as there are clusters and peers. */
  const served = new Map<string, string[]>()

  return cluster => async (target, context) => {
    const { signal, timeoutMs, hops } = context
    if (hops >= HOP_LIMIT) throw new TunnelError('NO_CLIENT', `for cluster ${cluster}, after ${hops} hops`)
    const endMs = clock.now() + timeoutMs
    const order = served.get(cluster) ?? []
    const all = peers()
    const present = all.filter(({ silent }) => !silent).sort((a, b) => placeIn(order, a) - placeIn(order, b))
    const silent = all.length - present.length
    let last =
      silent > 0
        ? new TunnelError('LINK_LOST', `${silent} of ${all.length} other servers do not respond`)
        : new TunnelError('NO_CLIENT', `for cluster ${cluster}, at none of ${present.length + 1} servers`)
    let triesLeft = FORWARD_TRIES
    for (const { server, dial, sibling } of present) {
      const leftMs = Math.ceil(endMs - clock.now())
      if (leftMs <= 0 || signal.aborted || triesLeft === 0) break
      try {
        const stream = await dial(
          { ...target, cluster },
          { ...context, timeoutMs: leftMs, hops: sibling ? HOP_LIMIT : hops + 1 }
        )
        onAnswer?.({ cluster, code: 'OK' })
        const others = order.filter(other => present.some(peer => peer.server === other && other !== server))
        served.set(cluster, [server, ...others])
        return stream
      } catch (error) {
        const failure = TunnelError.from(error)
        onAnswer?.({ cluster, code: failure.code })
        // A peer that does not know the cluster (yet, or any more) has no client of it.
        const nobodyThere = failure.code === 'NO_CLIENT' || failure.code === 'UNKNOWN_CLUSTER'
        if (!failure.retryable && !nobodyThere) throw failure
        if (!nobodyThere) {
          last = failure
          triesLeft--
        }
      }
    }
    throw last
  }
}

function placeIn(order: readonly string[], { server }: PeerView): number {
  const place = order.indexOf(server)
  return place < 0 ? order.length : place
}
