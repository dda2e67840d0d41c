/** The bounds on memory of shoot-client, for `check-config`; see memoryBounds. Pure. */
import { type MemoryBound, memoryBounds } from '@tendril/common/config/memory-bounds'
import type { ShootConfig } from './config.js'

/** For the servers that are listed; behind a balancer there may be more, each with links of its own. */
export function clientMemoryBounds(config: ShootConfig): MemoryBound[] {
  const links = config.servers.length * config.connections
  // While a connection is replaced there are two.
  const tlsConnections = 2 * links
  return memoryBounds(config, { links, streams: links * config.session.maxStreams, tlsConnections })
}
