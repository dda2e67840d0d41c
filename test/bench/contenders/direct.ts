/** The ceiling: callers connect to the target itself. What the load generator and the kernel cost alone. */
import type { Contender } from '../contender.js'

export const direct: Contender = {
  name: 'direct',
  title: 'plain TCP from the caller to the target: the ceiling, and what the load generator costs',
  available: async () => true,
  async start({ target, line }) {
    const address = await line(await target())
    return { endpoint: { kind: 'tcp', ...address }, programs: [] }
  }
}
