/** The admin listener of seed-server, with the rules for when a server is ready. */
import {
  type Admin,
  type AdminOptions,
  createAdmin as createSharedAdmin
} from '@tendril/common/admin/admin-listener'
import { readiness, type ReadinessOptions } from './server-readiness.js'

export type { Admin } from '@tendril/common/admin/admin-listener'

/**
 * Serves `/livez`, `/readyz` and `/metrics` until closed.
 *
 * @throws TunnelError LISTEN_FAILED
 */
export function createAdmin(
  options: Omit<AdminOptions, 'program' | 'ready'> & ReadinessOptions
): Promise<Admin> {
  const { clusters, clientsOf, ...rest } = options
  return createSharedAdmin({
    ...rest,
    program: 'seed-server',
    ready: () => readiness({ clusters, clientsOf })
  })
}
