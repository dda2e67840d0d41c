/** The bounds on memory of one seed-server process (one worker), for `check-config`; see memoryBounds. Pure. */
import { type MemoryBound, memoryBounds } from '@tendril/common/config/bounds'
import type { SeedConfig } from './config.js'

export function serverMemoryBounds(config: Pick<SeedConfig, 'clusters' | 'link' | 'session'>): MemoryBound[] {
  const { clusters, link } = config
  const streams = clusters.reduce((sum, { limits }) => sum + limits.streams, 0)
  return memoryBounds(config, { links: link.linkLimit, streams })
}
