/** The bounds on memory of one seed-server process (one worker), for `check-config`; see memoryBounds. Pure. */
import { type MemoryBound, memoryBounds } from '@tendril/common/config/memory-bounds'
import type { SeedConfig } from './config.js'

export function serverMemoryBounds(config: SeedConfig): MemoryBound[] {
  const { clusters, link, tunnel, fronts } = config
  const streams = clusters.reduce((sum, { limits }) => sum + limits.streams, 0)
  const callers = fronts.reduce((sum, { maxConnections }) => sum + maxConnections, 0)
  const tlsCallers = fronts.reduce((sum, { tls, maxConnections }) => sum + (tls ? maxConnections : 0), 0)
  const heads = fronts.reduce((sum, front) => sum + front.maxConnections * front.headerLimit, 0)
  const tlsConnections = tunnel.maxConnections + tunnel.maxPending + tlsCallers
  return [
    ...memoryBounds(config, { links: link.linkLimit, streams, tlsConnections }),
    { from: 'tunnel.headerLimit x tunnel.maxPending', bytes: tunnel.headerLimit * tunnel.maxPending },
    { from: 'fronts[].headerLimit x fronts[].maxConnections', bytes: heads },
    { from: '64KiB received before the answer x fronts[].maxConnections', bytes: EARLY_BYTES * callers }
  ]
}

/** EARLY_LIMIT_BYTES of front/caller.ts. */
const EARLY_BYTES = 64 << 10
