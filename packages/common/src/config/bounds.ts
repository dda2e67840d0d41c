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
    { from: `(link.replayMin + 130KiB) x ${links} links`, bytes: (link.replayMin + MESSAGE_BYTES) * links },
    { from: 'session.processBudget', bytes: session.processBudget },
    {
      from: `(session.windowMin + 256KiB) x ${streams} streams`,
      bytes: (session.windowMin + STREAM_HELD_BYTES) * streams
    },
    { from: 'lines of the log that wait, and buffers kept for messages', bytes: LOG_BYTES + POOL_BYTES }
  ]
}

/** A link takes the message that goes over its limit (docs/operations.md, "Memory while links are down"). */
const MESSAGE_BYTES = 130 << 10
/** What a stream holds back of what its writer gave it. */
const STREAM_HELD_BYTES = 256 << 10
/** LOG_BUFFER_BYTES of log-output.ts; the idle lists of message.ts. */
const LOG_BYTES = 1 << 20
const POOL_BYTES = 7 << 20

/** The bounds and their sum as comments of YAML, to stand behind a configuration. */
export function showBounds(bounds: readonly MemoryBound[], processes = 1): string {
  const each = processes > 1 ? ` of each of ${processes} workers` : ''
  const sum = bounds.reduce((sum, { bytes }) => sum + bytes, 0)
  const lines = [
    `Memory${each} with every bound used up at once: ${mebibytes(sum)}, and the program itself (some 100 MiB)`,
    ...bounds.map(({ from, bytes }) => `${mebibytes(bytes).padStart('100000 MiB'.length)}  ${from}`)
  ]
  return lines.map(line => `# ${line}\n`).join('')
}

function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`
}
