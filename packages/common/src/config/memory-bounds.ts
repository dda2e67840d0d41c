/**
 * The most memory that peers can make one process use, computed from its configuration: what `check-config` prints.
 * Pure. Only bounds on sums are here, not those on one header or one message. The kernel's buffers of sockets are not
 * in it: they belong to no program, but a cgroup counts them.
 */
export type MemoryBound = {
  /** The keys that the bound is computed from, as text: `link.replayMin x 4096 links`. */
  from: string
  bytes: number
}

/** What can exist at once. */
export type Counts = {
  links: number
  streams: number
  /** Connections with TLS, in their handshake or later. */
  tlsConnections: number
}

/** The bounds of links, sessions and TLS, and the program itself. */
export function memoryBounds(
  config: {
    link: { replayBudget: number; replayMin: number }
    session: { processBudget: number; windowMin: number }
  },
  { links, streams, tlsConnections }: Counts
): MemoryBound[] {
  const { link, session } = config
  return [
    { from: 'the program itself', bytes: PROGRAM_BYTES },
    { from: 'link.replayBudget', bytes: link.replayBudget },
    { from: `(link.replayMin + 130KiB) x ${links} links`, bytes: (link.replayMin + MESSAGE_BYTES) * links },
    {
      from: `(5.4MiB of control frames + 1MiB received + 512KiB written) x ${links} links`,
      bytes: (CONTROL_BYTES + RECEIVED_BYTES + WRITTEN_BYTES) * links
    },
    { from: 'session.processBudget', bytes: session.processBudget },
    {
      from: `(session.windowMin + 256KiB sent + 130KiB received) x ${streams} streams`,
      bytes: (session.windowMin + STREAM_SENT_BYTES + STREAM_RECEIVED_BYTES) * streams
    },
    { from: `416KiB of TLS x ${tlsConnections} connections`, bytes: TLS_BYTES * tlsConnections },
    {
      from: 'log lines that wait to be written, and buffers kept for messages',
      bytes: LOG_BYTES + POOL_BYTES
    }
  ]
}

/**
 * Resident memory of a program with one link and no streams. Measured: 76 to 115 MiB (test/chaos/stalled.test.ts,
 * "before").
 */
export const PROGRAM_BYTES = 120 << 20
/**
 * What OpenSSL and Node keep for one connection. Measured with 500 connections to a server of node:tls: 55 KiB after
 * the handshake, and 329 to 413 KiB for good once 256 KiB have gone each way at once: Node's buffers between TLS and
 * the socket do not shrink.
 */
export const TLS_BYTES = 416 << 10
/** A link accepts one more message when it reaches its limit (docs/operations.md, "Memory while links are down"). */
const MESSAGE_BYTES = 130 << 10
/** `controlLimitBytes` of a session, whose memory is at most a third more (mux/control.ts), and a block. */
export const CONTROL_BYTES = Math.ceil(((4 << 20) * 4) / 3) + 2_048
/** MESSAGE_LIMIT_BYTES of carrier.ts: the message of which a part has come. */
const RECEIVED_BYTES = 1 << 20
/** SEND_BUFFER_BYTES of transport/websocket.ts, once as it is and once encrypted. */
const WRITTEN_BYTES = 512 << 10
/** What a stream may hold of what its writer wrote and the session has not sent. */
const STREAM_SENT_BYTES = 256 << 10
/**
 * The chunk of one frame that was written to a caller or target who takes nothing, once as it is and once encrypted.
 */
const STREAM_RECEIVED_BYTES = 130 << 10
/** LOG_BUFFER_BYTES of log-output.ts; the idle lists of message-buffer.ts. */
const LOG_BYTES = 1 << 20
const POOL_BYTES = 7 << 20

/** The bounds and their sum as YAML comments, printed after a configuration. */
export function showBounds(bounds: readonly MemoryBound[], processes = 1): string {
  const each = processes > 1 ? ` of each of ${processes} workers` : ''
  const sum = bounds.reduce((sum, { bytes }) => sum + bytes, 0)
  const lines = [
    `Most memory${each}, with every bound used up at once: ${mebibytes(sum)}`,
    ...bounds.map(({ from, bytes }) => `${mebibytes(bytes).padStart('100000 MiB'.length)}  ${from}`),
    'Not in it: buffers of sockets in the kernel, which a cgroup counts as well. net.ipv4.tcp_rmem and tcp_wmem are their limits;',
    'a stream that nobody reads was measured with 0.8 to 3.4 MiB of them in one program (docs/operations.md, "Memory limits").'
  ]
  return lines.map(line => `# ${line}\n`).join('')
}

function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`
}
