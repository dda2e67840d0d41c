/**
 * The most memory that peers can make one process use, computed from its configuration: what `check-config` prints.
 * Pure. Only bounds on sums are here, not those on one header or one message.
 */
export type MemoryBound = {
  /** The keys that the bound is computed from, as text: `link.replayMin x 4096 links`. */
  from: string
  bytes: number
}

/** The bounds of links and sessions. `links` and `streams`: how many can exist at once. */
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
    {
      from: 'log lines that wait to be written, and buffers kept for messages',
      bytes: LOG_BYTES + POOL_BYTES
    }
  ]
}

/** A link accepts one more message when it reaches its limit (docs/operations.md, "Memory while links are down"). */
const MESSAGE_BYTES = 130 << 10
/** What a stream may hold of what its writer wrote and the session has not sent. */
const STREAM_HELD_BYTES = 256 << 10
/** LOG_BUFFER_BYTES of log-output.ts; the idle lists of message.ts. */
const LOG_BYTES = 1 << 20
const POOL_BYTES = 7 << 20

/** The bounds and their sum as YAML comments, printed after a configuration. */
export function showBounds(bounds: readonly MemoryBound[], processes = 1): string {
  const each = processes > 1 ? ` of each of ${processes} workers` : ''
  const sum = bounds.reduce((sum, { bytes }) => sum + bytes, 0)
  const lines = [
    `Most memory${each}, with every bound used up at once: ${mebibytes(sum)}, plus about 100 MiB for the program itself`,
    ...bounds.map(({ from, bytes }) => `${mebibytes(bytes).padStart('100000 MiB'.length)}  ${from}`)
  ]
  return lines.map(line => `# ${line}\n`).join('')
}

function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`
}
