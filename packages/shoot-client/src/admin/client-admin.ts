/** The admin listener of shoot-client, with the rules for when a client is ready. */
import {
  type Admin,
  type AdminOptions,
  createAdmin as createSharedAdmin
} from '@tendril/common/admin/admin-listener'
import { type LinkView, readiness } from './client-readiness.js'

export type { Admin } from '@tendril/common/admin/admin-listener'
export type { LinkView } from './client-readiness.js'

/**
 * Serves `/livez`, `/readyz` and `/metrics` until closed. `links` is asked anew for each `/readyz`.
 *
 * @throws TunnelError LISTEN_FAILED
 */
export function createAdmin(
  options: Omit<AdminOptions, 'program' | 'ready'> & { links: () => readonly LinkView[] }
): Promise<Admin> {
  const { links, ...rest } = options
  return createSharedAdmin({ ...rest, program: 'shoot-client', ready: () => readiness(links()) })
}
