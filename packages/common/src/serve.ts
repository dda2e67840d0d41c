/**
 * Puts a `Dial` behind a session: what the peer opens is dialled here and joined with the stream. With
 * `Session.dial` at the other end, a dial has then been carried across the wire.
 */
import { DIAL_TIMEOUT_MS, type Dial } from './dial.js'
import { TunnelError } from './errors.js'
import type { IncomingDial } from './mux/session.js'
import type { LinkPrincipal } from './principal.js'
import { splice } from './splice.js'

export type ServeOptions = {
  /**
   * Whose certificate the link was verified with. What a server says of a dial's origin counts: it has verified the
   * caller. What a client says does not: its dials are its own.
   */
  remote: LinkPrincipal
  /** Time limit of a dial for which the peer says none, in milliseconds. Default 4000. */
  timeoutMs?: number
  /** Hops that a dial over this link has at least, whatever the peer says. Default 0. */
  leastHops?: number
}

/** An `onOpen` for `Session`. */
export function serve(dial: Dial, options: ServeOptions): (incoming: IncomingDial) => void {
  return incoming => void answer(dial, incoming, options)
}

/** Over when the stream is open: what only the dial needed is not kept for as long as the stream. */
async function answer(
  dial: Dial,
  incoming: IncomingDial,
  { remote, timeoutMs: ownTimeoutMs = DIAL_TIMEOUT_MS, leastHops = 0 }: ServeOptions
): Promise<void> {
  try {
    const { target, signal, timeoutMs } = incoming
    const { hops, ...origin } = (remote.kind === 'server' && incoming.origin) || {
      principal: remote,
      front: '',
      hops: 0
    }
    const reached = await dial(target, {
      signal,
      timeoutMs: timeoutMs > 0 ? timeoutMs : ownTimeoutMs,
      ...origin,
      hops: Math.max(hops, leastHops)
    })
    void splice(incoming.accept(), reached)
  } catch (error) {
    incoming.refuse(TunnelError.from(error))
  }
}
