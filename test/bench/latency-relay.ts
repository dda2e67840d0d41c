/**
 * A line with latency, a process of its own: forwards TCP and hands every byte on after half a round trip. It
 * limits no rate and loses nothing; user space, because netem is often absent. Chunks wait by reference in
 * blocks that are used again once written.
 *
 * Arguments: host to listen on, host and port to forward to, round trip in milliseconds.
 */
import { connect, type AddressInfo, type Socket } from 'node:net'
import { acceptServer } from './accept.js'
import type { Listening } from './protocol.js'

const BLOCK_BYTES = 1024 * 1024
/** A read is offered at least this much room; a block with less left is closed. */
const READ_BYTES = 256 * 1024
/**
 * Most bytes on the line per direction of a connection; at the limit the sender is no longer read. 32 MiB in 25 ms is
 * 1.25 GiB/s, more than any contender moves; a larger queue only pushes the bytes out of the processor's cache.
 */
const LIMIT_BYTES = 32 * 1024 * 1024
/** Blocks kept for reuse. */
const SPARE_BLOCKS = 256
/** Delivered chunks at the head of the queue before it is moved up. */
const COMPACT_AFTER = 1024
/** A timer rings up to this much early; the chunk goes then rather than a millisecond late. */
const EARLY_MS = 0.5

type Block = { bytes: Buffer; used: number; references: number }
type Waiting = { dueMs: number; chunk: Buffer; block: Block }

const spare: Block[] = []

/** One direction of one connection. */
class Lane {
  readonly #delayMs: number
  #from: Socket | undefined
  #to: Socket | undefined
  #block: Block = takeBlock()
  readonly #waiting: Waiting[] = []
  #head = 0
  #heldBytes = 0
  #endDueMs: number | undefined
  #timer: NodeJS.Timeout | undefined

  constructor(delayMs: number) {
    this.#delayMs = delayMs
  }

  readonly onread = {
    buffer: (): Buffer => this.#block.bytes.subarray(this.#block.used),
    callback: (length: number): boolean => this.#received(length)
  }

  /** The sender has ended; its last bytes may still be on the line. */
  get ended(): boolean {
    return this.#endDueMs !== undefined
  }

  begin(from: Socket, to: Socket): void {
    this.#from = from
    this.#to = to
    from.on('end', () => {
      this.#endDueMs = performance.now() + this.#delayMs
      this.#arm()
    })
    this.#arm()
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#waiting.length = 0
  }

  #received(length: number): boolean {
    const block = this.#block
    const chunk = block.bytes.subarray(block.used, block.used + length)
    block.used += length
    block.references++
    if (block.bytes.length - block.used < READ_BYTES) {
      this.#block = takeBlock()
      release(block)
    }
    this.#waiting.push({ dueMs: performance.now() + this.#delayMs, chunk, block })
    this.#heldBytes += length
    this.#arm()
    return this.#heldBytes < LIMIT_BYTES
  }

  #arm(): void {
    if (this.#timer || !this.#to) return
    const dueMs = this.#waiting[this.#head]?.dueMs ?? this.#endDueMs
    if (dueMs === undefined) return
    this.#timer = setTimeout(() => this.#deliver(), Math.max(0, dueMs - performance.now()))
  }

  #deliver(): void {
    this.#timer = undefined
    const to = this.#to
    if (!to || to.destroyed) return
    const now = performance.now() + EARLY_MS
    to.cork()
    for (let next = this.#waiting[this.#head]; next && next.dueMs <= now; next = this.#waiting[this.#head]) {
      const { chunk, block } = next
      to.write(chunk, () => this.#written(chunk.length, block))
      this.#head++
    }
    to.uncork()
    if (this.#head === this.#waiting.length || this.#head >= COMPACT_AFTER) {
      this.#waiting.splice(0, this.#head)
      this.#head = 0
    }
    if (this.#waiting.length === 0 && this.#endDueMs !== undefined && this.#endDueMs <= now) to.end()
    else this.#arm()
  }

  #written(length: number, block: Block): void {
    release(block)
    const wasFull = this.#heldBytes >= LIMIT_BYTES
    this.#heldBytes -= length
    if (wasFull && this.#heldBytes < LIMIT_BYTES) this.#from?.resume()
  }
}

function takeBlock(): Block {
  const block = spare.pop() ?? { bytes: Buffer.allocUnsafeSlow(BLOCK_BYTES), used: 0, references: 0 }
  block.used = 0
  block.references = 1 // the lane that fills it
  return block
}

function release(block: Block): void {
  block.references--
  if (block.references === 0 && spare.length < SPARE_BLOCKS) spare.push(block)
}

const [listenHost = '127.0.0.1', toHost = '127.0.0.1', toPort = '0', rttMs = '0'] = process.argv.slice(2)

const server = acceptServer(() => {
  const there = new Lane(Number(rttMs) / 2)
  const back = new Lane(Number(rttMs) / 2)
  return {
    onread: there.onread,
    begin(near: Socket) {
      const far = connect({
        host: toHost,
        port: Number(toPort),
        allowHalfOpen: true,
        noDelay: true,
        onread: back.onread
      })
      there.begin(near, far)
      back.begin(far, near)
      // A socket that closed takes no more; what it said before, and its end, are still on their way to the other.
      const closed = (lane: Lane, onward: Lane, other: Socket): void => {
        lane.stop()
        if (!onward.ended) other.destroy()
      }
      near.on('error', () => far.destroy())
      far.on('error', () => near.destroy())
      near.on('close', () => closed(back, there, far))
      far.on('close', () => closed(there, back, near))
    }
  }
})

process.on('disconnect', () => process.exit())
server.listen({ host: listenHost, port: 0, backlog: 4096 }, () => {
  const { address, port } = server.address() as AddressInfo
  const ready: Listening = { listening: { host: address, port } }
  process.send?.(ready)
})
