/**
 * A policy in front of a Dial. Judges IP literals only: a name passes, and whoever resolves it must ask the same
 * policy about every address it turns out to be.
 */
import { isIP } from 'node:net'
import type { Dial } from '../dial.js'
import { TunnelError } from '../errors.js'
import type { Policy } from './policy.js'

/** Rejects with `TARGET_DENIED`, saying whose rule it was, before `dial` is asked. */
export function guard(dial: Dial, policy: Policy, side: 'server' | 'client'): Dial {
  return async (target, context) => {
    if (isIP(target.host) !== 0) {
      const verdict = policy.check(target.host, target.port)
      if (!verdict.allowed)
        throw new TunnelError('TARGET_DENIED', `by the ${side}'s policy (${verdict.rule})`)
    }
    return dial(target, context)
  }
}
