/**
 * One end of a Carrier whose other end is the test: what was sent is noted, what arrives is said by hand, and it is
 * full, lost or closed when the test says so. Everything happens in the same turn of the event loop.
 */
import { EventEmitter } from 'node:events'
import type { Carrier, CarrierEvents } from '../../src/carrier.js'
import { type ErrorCode, TunnelError } from '../../src/errors.js'
import { isLinkMessage } from '../../src/link/link-message.js'

export class FakeCarrier extends EventEmitter<CarrierEvents> implements Carrier {
  /** Everything that was sent, in order. */
  sent: Buffer[] = []
  full = false
  bytesReceived = 0
  paused = false
  readonly #waiting: Buffer[] = []
  /** Set once it is over: who ended it how, and what `close` said. */
  ended: { by: 'close' | 'terminate' | 'peer'; error: TunnelError } | undefined

  send(message: Buffer): boolean {
    if (this.ended) return true
    this.sent.push(message)
    return !this.full
  }

  close(code: ErrorCode, detail?: string): void {
    this.#end('close', new TunnelError(code, detail))
  }

  terminate(error: TunnelError): void {
    this.#end('terminate', error)
  }

  pause(): void {
    this.paused = true
  }

  resume(): void {
    this.paused = false
    for (const message of this.#waiting.splice(0)) this.emit('message', message)
  }

  /** A message from the other side. */
  receive(message: Buffer): void {
    this.receivePart(message.length)
    if (this.paused) this.#waiting.push(message)
    else this.emit('message', message)
  }

  /** A part of a message that does not come to its end. */
  receivePart(bytes: number): void {
    this.bytesReceived += bytes
    this.emit('bytes')
  }

  /** There is room again. */
  drain(): void {
    this.full = false
    this.emit('drain')
  }

  /** The other side, or the line, ends it. */
  lose(code: ErrorCode = 'LINK_LOST', detail?: string): void {
    this.#end('peer', new TunnelError(code, detail))
  }

  /** Session messages among what was sent, as text. */
  get said(): string[] {
    return this.sent.filter(message => !isLinkMessage(message)).map(String)
  }

  /** Link messages of one type among what was sent. */
  linkMessages(type: number): Buffer[] {
    return this.sent.filter(message => message[0] === type)
  }

  #end(by: 'close' | 'terminate' | 'peer', error: TunnelError): void {
    if (this.ended) return
    this.ended = { by, error }
    this.emit('close', error)
  }
}
