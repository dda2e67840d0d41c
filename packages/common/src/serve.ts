/**
 * Puts a `Dial` behind a session: what the peer opens is dialled here and joined with the stream. With
 * `Session.dial` at the other end, a dial has then been carried across the wire.
 */
import type { Dial, Target } from './dial.js'
import { TunnelError } from './errors.js'
import type { IncomingDial } from './mux/session.js'
import { type SpliceEnd, splice } from './splice.js'

export type Served = { target: Target; end: SpliceEnd }

/** An `onOpen` for `Session`. `onEnd` hears of every stream that was opened, when both of its sides are closed. */
export function serve(dial: Dial, onEnd?: (served: Served) => void): (incoming: IncomingDial) => void {
  return incoming => void answer(dial, incoming, onEnd)
}

/** Over when the stream is open: what only the dial needed is not kept for as long as the stream. */
async function answer(dial: Dial, incoming: IncomingDial, onEnd?: (served: Served) => void): Promise<void> {
  try {
    const { target, signal, timeoutMs } = incoming
    const reached = await dial(target, { signal, ...(timeoutMs > 0 && { timeoutMs }) })
    report(splice(incoming.accept(), reached), target, onEnd)
  } catch (error) {
    incoming.refuse(TunnelError.from(error))
  }
}

function report(ended: Promise<SpliceEnd>, target: Target, onEnd?: (served: Served) => void): void {
  if (onEnd) void ended.then(end => onEnd({ target, end }))
}
