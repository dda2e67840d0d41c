/**
 * The most memory that the documented bounds of one process let peers use, computed from its configuration: what
 * `check-config` prints. Pure. Bounds on one thing (a header, a message) are not here, but those on sums.
 */
export type MemoryBound = {
  /** The keys that it follows from, in words: `link.replayMin x 4096 links`. */
  from: string
  bytes: number
}

/** What links and sessions keep and promise. `links` and `streams`: the most there can be at once. */
export function memoryBounds(
  config: {
    link: { replayBudget: number; replayMin: number }
    session: { processBudget: number; windowMin: number }
  },
  { links, streams }: { links: number; streams: number }
): MemoryBound[] {
  const { link, session } = config
  return [
    { from: 'link.replayBudget', bytes: link.replayBudget },
    { from: `link.replayMin x ${links} links`, bytes: link.replayMin * links },
    { from: 'session.processBudget', bytes: session.processBudget },
    { from: `session.windowMin x ${streams} streams`, bytes: session.windowMin * streams }
  ]
}
