/**
 * Buffers for messages on their way out. A message is written once by the session, kept for replay by the link and
 * sent by carriers, never copied: it has room in front for a carrier's own header. Its memory is used again once
 * nobody holds it any more: fresh memory costs more than copying, for it makes the garbage collector mark the whole
 * heap every few dozen MiB, which took a third of the CPU time of a bulk transfer.
 */

/** Room in front of a message: a WebSocket header has 14 bytes at most (RFC 6455 §5.2). */
export const HEADROOM_BYTES = 16

/** Smaller messages are cheaper to copy than to give memory of their own. */
const ROOMY_FROM_BYTES = 4_096

/** Capacities that are used again: some small frames, one full frame, a full message. */
const CAPACITIES = [16 << 10, (64 << 10) + 1_024, (128 << 10) + 1_024]

/** Buffers kept per capacity while nobody needs them; at most 7 MiB per process. */
const IDLE_LIMIT = 32

/** Memory of one message, and how many still read it. */
type Memory = { readonly bytes: ArrayBufferLike; readonly idle: IdleList | undefined; holders: number }

/** Memory that nobody needs now. `least` of it was not needed at any time since it was last trimmed. */
type IdleList = { memories: Memory[]; least: number }

const memoryOf = Symbol('memory')
type Message = Buffer & { [memoryOf]?: Memory }

const idle = CAPACITIES.map((): IdleList => ({ memories: [], least: 0 }))

/** Memory for a message of `bytes`, its content undefined, held once: by whoever it is given to. */
export function allocMessage(bytes: number): Buffer {
  if (bytes < ROOMY_FROM_BYTES) return Buffer.allocUnsafe(bytes)
  const size = CAPACITIES.findIndex(capacity => bytes <= capacity)
  const memory = takeIdle(idle[size]) ?? {
    bytes: Buffer.allocUnsafeSlow(HEADROOM_BYTES + (CAPACITIES[size] ?? bytes)).buffer,
    idle: idle[size],
    holders: 0
  }
  memory.holders = 1
  const message: Message = Buffer.from(memory.bytes, HEADROOM_BYTES, bytes)
  message[memoryOf] = memory
  return message
}

/** Bytes in front of `message` that a carrier may write to. */
export function headroomOf(message: Message): number {
  return message[memoryOf] ? HEADROOM_BYTES : 0
}

/** One more reader. */
export function holdMessage(message: Message): void {
  if (message[memoryOf]) message[memoryOf].holders++
}

/**
 * One reader less; to be called once for each hold. The last one gives the memory back. Who forgets costs memory until
 * the garbage collector comes; who calls too early sends other people's bytes.
 */
export function releaseMessage(message: Message): void {
  const memory = message[memoryOf]
  if (!memory || --memory.holders > 0) return
  if (memory.idle && memory.idle.memories.length < IDLE_LIMIT) memory.idle.memories.push(memory)
}

function takeIdle(list: IdleList | undefined): Memory | undefined {
  const memory = list?.memories.pop()
  if (list && list.memories.length < list.least) list.least = list.memories.length
  return memory
}

/** Forgets the memory that was not needed since the last call; to be called from time to time. */
export function trimIdleMessages(): void {
  for (const list of idle) {
    list.memories.length -= list.least
    list.least = list.memories.length
  }
}

/** Bytes kept for messages to come. */
export function idleMessageBytes(): number {
  return idle.reduce(
    (sum, { memories }, at) => sum + memories.length * (HEADROOM_BYTES + (CAPACITIES[at] ?? 0)),
    0
  )
}
