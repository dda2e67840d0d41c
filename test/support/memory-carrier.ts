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
    this.#underWay ??= setImmediate(() => {
      this.#deliver()
    })
    if (this.#queuedBytes < SEND_BUFFER_BYTES) return true
    this.#blocked = true
    return false
  }

  close(code: ErrorCode, detail?: string): void {
    if (this.#over || this.#closing) return
    this.#closing = true
    this.#queue.push(new TunnelError(code, detail || undefined))
    this.#underWay ??= setImmediate(() => {
      this.#deliver()
    })
  }

  terminate(error: TunnelError): void {
    if (this.#over) return
    this.#end(error)
    // Nobody says goodbye to the other side: it finds out by itself, a moment later.
    setImmediate(() => {
      this.#peer.#end(new TunnelError('LINK_LOST', 'the other side is gone'))
    })
  }

  /** Everything queued, at once; what listeners send meanwhile goes with the next turn. */
  #deliver(): void {
    this.#underWay = undefined
    const queue = this.#queue
    this.#queue = []
    this.#queuedBytes = 0
    for (const item of queue) {
      if (this.#over) return
      if (item instanceof TunnelError) {
        this.#peer.#end(item)
        this.#end(item)
      } else {
        // A copy, as a network makes one: the sender may keep what it sent, the receiver may write to what came.
        this.#peer.#receive(Buffer.from(item))
      }
    }
    if (this.#blocked && !this.#over) {
      this.#blocked = false
      this.emit('drain')
    }
  }

  #receive(message: Buffer): void {
    if (this.#over || this.#closing) return
    this.#bytesReceived += message.length
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
