/**
 * Two Carriers joined in memory: what is sent on one comes out of the other in a later turn of the event loop. The
 * simplest thing that keeps every promise of `Carrier`, for tests of what stands above it.
 */
import { EventEmitter } from 'node:events'
import {
  MESSAGE_LIMIT_BYTES,
  TunnelError,
  type Carrier,
  type CarrierEvents,
  type ErrorCode
} from '@tendril/common'

/** Bytes under way beyond which `send` answers false. */
const SEND_BUFFER_BYTES = 256 * 1024

export function memoryCarrierPair(): [MemoryCarrier, MemoryCarrier] {
  const near = new MemoryCarrier()
  const far = new MemoryCarrier()
  near.join(far)
  far.join(near)
  return [near, far]
}

export class MemoryCarrier extends EventEmitter<CarrierEvents> implements Carrier {
  #peer!: MemoryCarrier
  #queue: (Buffer | TunnelError)[] = []
  #queuedBytes = 0
  #blocked = false
  #closing = false
  #over = false
  #paused = false
  #underWay: NodeJS.Immediate | undefined
  #bytesReceived = 0

  join(peer: MemoryCarrier): void {
    this.#peer = peer
  }

  get bytesReceived(): number {
    return this.#bytesReceived
  }

  send(message: Buffer): boolean {
    if (this.#over || this.#closing) return true
    this.#queue.push(Buffer.from(message))
    this.#queuedBytes += message.length
    this.#deliverSoon()
    if (this.#queuedBytes < SEND_BUFFER_BYTES) return true
    this.#blocked = true
    return false
  }

  close(code: ErrorCode, detail?: string): void {
    if (this.#over || this.#closing) return
    this.#closing = true
    this.#queue.push(new TunnelError(code, detail || undefined))
    this.#deliverSoon()
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    if (!this.#paused) return
    this.#paused = false
    this.#peer.#deliverSoon()
  }

  terminate(error: TunnelError): void {
    if (this.#over) return
    this.#end(error)
    // Nobody says goodbye to the other side: it finds out by itself, a moment later.
    setImmediate(() => {
      this.#peer.#end(new TunnelError('LINK_LOST', 'the other side is gone'))
    })
  }

  #deliverSoon(): void {
    if (this.#over || this.#queue.length === 0) return
    this.#underWay ??= setImmediate(() => {
      this.#deliver()
    })
  }

  /** Everything queued, at once, unless it is paused meanwhile; what listeners send meanwhile goes with the next turn. */
  #deliver(): void {
    this.#underWay = undefined
    for (let count = this.#queue.length; count > 0 && !this.#over && !this.#peer.#paused; count--) {
      const item = this.#queue.shift()!
      if (item instanceof TunnelError) {
        this.#peer.#end(item)
        this.#end(item)
      } else {
        this.#queuedBytes -= item.length
        // A copy, as a network makes one: the sender may keep what it sent, the receiver may write to what came.
        this.#peer.#receive(Buffer.from(item))
      }
    }
    if (this.#blocked && !this.#over && this.#queuedBytes < SEND_BUFFER_BYTES) {
      this.#blocked = false
      this.emit('drain')
    }
  }

  #receive(message: Buffer): void {
    if (this.#over || this.#closing) return
    this.#bytesReceived += message.length
    this.emit('bytes')
    if (message.length > MESSAGE_LIMIT_BYTES) {
      this.close('PROTOCOL_ERROR', `a message has at most ${MESSAGE_LIMIT_BYTES} bytes`)
    } else this.emit('message', message)
  }

  #end(error: TunnelError): void {
    if (this.#over) return
    this.#over = true
    if (this.#underWay) clearImmediate(this.#underWay)
    this.#queue = []
    this.emit('close', error)
  }
}
