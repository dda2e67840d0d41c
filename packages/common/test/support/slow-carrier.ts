/**
 * Two Carriers joined by a slow path whose time is the test's: so many bytes a millisecond, and a delay. What the path
 * cannot carry yet waits in it without a word, as in the buffers of kernels and gateways: it holds nobody up.
 */
import { EventEmitter } from 'node:events'
import type { Carrier, CarrierEvents } from '../../src/carrier.js'
import type { Clock } from '../../src/clock.js'
import { type ErrorCode, TunnelError } from '../../src/errors.js'

export type SlowPath = { clock: Clock; bytesPerMs: number; delayMs: number }

export function slowCarriers(path: SlowPath): [SlowCarrier, SlowCarrier] {
  const near = new SlowCarrier(path)
  const far = new SlowCarrier(path)
  near.peer = far
  far.peer = near
  return [near, far]
}

export class SlowCarrier extends EventEmitter<CarrierEvents> implements Carrier {
  readonly #path: SlowPath
  peer!: SlowCarrier
  #over = false
  /** When the path has carried all that it was given. */
  #freeAtMs = 0
  #paused = false
  readonly #arrived: Buffer[] = []
  bytesReceived = 0
  /** Every message that was sent, in order. */
  readonly sent: Buffer[] = []

  constructor(path: SlowPath) {
    super()
    this.#path = path
  }

  send(message: Buffer): boolean {
    if (this.#over) return true
    const { clock, bytesPerMs, delayMs } = this.#path
    // The sender may use its memory again once the peer has acknowledged it, not before.
    const copy = Buffer.from(message)
    this.sent.push(copy)
    this.#freeAtMs = Math.max(this.#freeAtMs, clock.now()) + message.length / bytesPerMs
    clock.after(this.#freeAtMs - clock.now() + delayMs, () => {
      if (!this.#over) this.peer.#receive(copy)
    })
    return true
  }

  close(code: ErrorCode, detail?: string): void {
    this.#end(new TunnelError(code, detail))
    this.peer.#end(new TunnelError(code, detail))
  }

  terminate(error: TunnelError): void {
    this.#end(error)
    this.peer.#end(new TunnelError('LINK_LOST', 'the other side is gone'))
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    this.#paused = false
    while (!this.#paused && !this.#over && this.#arrived.length > 0)
      this.emit('message', this.#arrived.shift() as Buffer)
  }

  /** The line breaks: what was under way is lost. */
  cut(): void {
    this.#end(new TunnelError('LINK_LOST', 'cut'))
    this.peer.#end(new TunnelError('LINK_LOST', 'cut'))
  }

  #receive(message: Buffer): void {
    if (this.#over) return
    this.bytesReceived += message.length
    this.emit('bytes')
    this.#arrived.push(message)
    if (!this.#paused) this.resume()
  }

  #end(error: TunnelError): void {
    if (this.#over) return
    this.#over = true
    this.emit('close', error)
  }
}
