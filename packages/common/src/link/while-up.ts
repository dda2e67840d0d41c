/**
 * A Dial that does not wait for a link to come back: for those who may ask elsewhere. Streams that are open do wait;
 * a dial that is only being made has nothing to lose by being made again over another link.
 */
import type { Dial } from '../dial.js'
import { TunnelError } from '../errors.js'
import type { Link } from './link.js'

/**
 * `dial`, which goes over `link`, for as long as the link is up: rejects with LINK_LOST when it is down, or goes down
 * before the dial is answered. The dial is then taken back; should its OPEN still arrive, so will its RESET.
 */
export function whileUp(link: Pick<Link, 'state' | 'on'>, dial: Dial): Dial {
  const underWay = new Set<(reason: TunnelError) => void>()
  // One listener for all dials: thousands may be under way.
  link.on('down', reason => {
    for (const lose of underWay) lose(reason)
  })

  return async (target, { signal, ...options }) => {
    if (link.state !== 'up') throw new TunnelError('LINK_LOST', 'the link is down')
    const attempt = new AbortController()
    let lost: TunnelError | undefined
    const lose = (reason: TunnelError): void => {
      lost = new TunnelError('LINK_LOST', reason.message, { cause: reason })
      attempt.abort(lost)
    }
    const onAbort = (): void => attempt.abort(signal.reason)
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
    underWay.add(lose)
    try {
      return await dial(target, { signal: attempt.signal, ...options })
    } catch (error) {
      throw lost ?? error
    } finally {
      underWay.delete(lose)
      signal.removeEventListener('abort', onAbort)
    }
  }
}

/** A ping and its answer fit into half an interval on any line worth its name. */
const SILENT_INTERVALS = 1.5

/** A ping of ours should have been answered by now: perhaps a black hole that is not missed yet. */
export function isSilent({ silentMs, limits }: Pick<Link, 'silentMs' | 'limits'>): boolean {
  return silentMs > limits.pingIntervalMs * SILENT_INTERVALS
}
