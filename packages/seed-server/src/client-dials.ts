/**
 * What this server answers to the dials of clients: it refuses them, because no configuration grants any yet. Nothing
 * beside the server can be reached from a workload cluster unless a rule will say so.
 */
import { type Dial, TunnelError, formatPrincipal } from '@tendril/common'
import type { LimitedLog } from '@tendril/common/log-limiter'
import { formatHostPort } from '@tendril/common/wire/host-port'

/**
 * Rejects with CALLER_DENIED: it is the client that may not ask, whatever the target. `log` is for what clients cause.
 */
export function refuseClientDials(log: LimitedLog): Dial {
  return (target, { principal, traceId }) => {
    const who = formatPrincipal(principal)
    log.warn({ principal: who, target: formatHostPort(target), traceId }, 'dial of a client refused')
    return Promise.reject(new TunnelError('CALLER_DENIED', `${who} has no grant to dial through this server`))
  }
}
