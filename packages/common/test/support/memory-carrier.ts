/**
 * Two Carriers joined in memory: messages arrive in a later turn of the event loop, in order. They keep every promise of
 * `Carrier`, and pass its compliance suite. `hold` is a peer that does not read, `cut` a line that breaks.
 */
import { EventEmitter } from 'node:events'
import { type Carrier, type CarrierEvents, MESSAGE_LIMIT_BYTES } from '../../src/carrier.js'
import { type ErrorCode, TunnelError } from '../../src/errors.js'

/** Bytes under way beyond which `send` answers false. */
const HIGH_WATER_BYTES = 256 << 10

/** Messages delivered in one turn: few, so that both sides take turns as they would over sockets. */
const MESSAGES_PER_TURN = 8

export function memoryCarriers({ highWaterBytes = HIGH_WATER_BYTES } = {}): [MemoryCarrier, MemoryCarrier] {
  const near = new MemoryCarrier(highWaterBytes)
  const far = new MemoryCarrier(highWaterBytes)
  near.peer = far
  far.peer = near
  return [near, far]
}

export class MemoryCarrier extends EventEmitter<CarrierEvents> implements Carrier {
  readonly #highWaterBytes: number
  peer!: MemoryCarrier
  #queue: (Buffer | TunnelError)[] = []
  #queuedBytes = 0
  #blocked = false
  #held = false
  #paused = false
  #closing: TunnelError | undefined
  #over = false
  #underWay = false
  bytesReceived = 0
  /** Largest number of bytes that ever waited here: what a sender who minds `send` keeps small. */
  peakBytes = 0

  constructor(highWaterBytes: number) {
    super()
    this.#highWaterBytes = highWaterBytes
  }

  get queuedBytes(): number {
    return this.#queuedBytes
  }

  get over(): boolean {
    return this.#over
  }

  send(message: Buffer): boolean {
    if (this.#over || this.#closing) return true
    this.#queue.push(Buffer.from(message))
    this.#queuedBytes += message.length
    this.peakBytes = Math.max(this.peakBytes, this.#queuedBytes)
    this.#schedule()
    if (this.#queuedBytes < this.#highWaterBytes) return true
    this.#blocked = true
    return false
  }

  close(code: ErrorCode, detail?: string): void {
    if (this.#over || this.#closing) return
    this.#closing = new TunnelError(code, detail || undefined)
    this.#queue.push(this.#closing)
    this.#schedule()
  }

  terminate(error: TunnelError): void {
    if (this.#over) return
    this.#end(error)
    setImmediate(() => this.peer.#end(new TunnelError('LINK_LOST', 'the other side is gone')))
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    if (!this.#paused) return
    this.#paused = false
    this.peer.#schedule()
  }

  /** The other side stops reading what this side sends. */
  hold(): void {
    this.#held = true
  }

  release(): void {
    this.#held = false
    this.#schedule()
  }

  /** The line breaks: both sides hear LINK_LOST, what was under way is lost. */
  cut(): void {
    this.#end(new TunnelError('LINK_LOST', 'cut'))
    this.peer.#end(new TunnelError('LINK_LOST', 'cut'))
  }

  get #isHeld(): boolean {
    return this.#held || this.peer.#paused
  }

  #schedule(): void {
    if (this.#underWay || this.#isHeld || this.#queue.length === 0) return
    this.#underWay = true
    setImmediate(() => this.#deliver())
  }

  #deliver(): void {
    this.#underWay = false
    for (let count = 0; count < MESSAGES_PER_TURN && !this.#isHeld && !this.#over; count++) {
      const item = this.#queue.shift()
      if (item === undefined) break
      if (item instanceof TunnelError) {
        this.peer.#end(item)
        this.#end(item)
        return
      }
      this.#queuedBytes -= item.length
      this.peer.#receive(item)
    }
    if (this.#blocked && !this.#over && this.#queuedBytes <= this.#highWaterBytes / 2) {
      this.#blocked = false
      this.emit('drain')
    }
    this.#schedule()
  }

  #receive(message: Buffer): void {
    if (this.#over || this.#closing) return
    this.bytesReceived += message.length
    this.emit('bytes')
    if (message.length > MESSAGE_LIMIT_BYTES) this.close('PROTOCOL_ERROR', 'message too large')
    else this.emit('message', message)
  }

  #end(error: TunnelError): void {
    if (this.#over) return
    this.#over = true
    this.#queue = []
    this.#queuedBytes = 0
    this.emit('close', this.#closing ?? error)
  }
}
