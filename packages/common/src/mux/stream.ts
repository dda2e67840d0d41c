/**
 * One stream of a session as a Node Duplex. Writing waits for the peer's credit, reading returns credit, `end`
 * is half-close, `destroy` is a reset. The session decides what is sent and when: it takes bytes with
 * `fill` and gives received bytes to `deliver`.
 *
 * ```
 * caller.write ─► #sending ─► fill ─► DATA … END ─► deliver ─► #received ─► read ─► CREDIT
 * ```
 */
import { Duplex } from 'node:stream'
import type { Clock } from '../clock.js'
import { TunnelError } from '../errors.js'
import { whileMoving } from '../linger.js'
import { releaseMessage } from '../message-buffer.js'
import { CREDIT_LIMIT_BYTES } from '../wire/frame.js'
import { ReceiveQueue, alone } from './receive-queue.js'
import type { ReceiveWindow } from './credit.js'

/** Bytes a writer may queue before `write` answers false; what the peer's credit allows is sent at once. */
const SEND_BUFFER_BYTES = 128 << 10

/** Node asks for more only when its own buffer is empty: one chunk waits there, all others in ours. */
const READ_BUFFER_BYTES = 1

/** Chunks a writer may queue: a writer of single bytes is held back long before the byte limit. */
const SEND_BUFFER_CHUNKS = 512

/** What a stream asks of its session. */
export interface StreamOwner {
  /** The stream has something to send, or to end. */
  wantsToSend(stream: Stream, bytes: number): void
  /** Credit to send to the peer. */
  returnCredit(stream: Stream, bytes: number): void
  /** Ended from our side before both directions were done. */
  resetByUs(stream: Stream, error: TunnelError): void
  /** Nothing more will be received or sent: the session may forget the stream. */
  closed(stream: Stream): void
  roundTripMs(): number
  readonly clock: Clock
  /** How long pending data waits for a reader that takes nothing, in milliseconds. */
  readonly unreadTimeoutMs: number
}

const NOTHING = Buffer.alloc(0)

export class Stream extends Duplex {
  readonly id: number
  readonly #owner: StreamOwner
  readonly #window: ReceiveWindow
  /** Opened by this side, so that what arrives is said by a target; else it is said by a caller. */
  readonly dialled: boolean

  #creditBytes: number
  #sending: Buffer[] = []
  #sendingBytes = 0
  /** Bytes of the first chunk that are in messages already. */
  #filledBytes = 0
  #written: ((error?: Error | null) => void) | undefined
  #finished: ((error?: Error | null) => void) | undefined

  readonly #received = new ReceiveQueue()
  #wantsMore = false

  /** The peer's RESET, while data that came before it is read. */
  #failedBy: TunnelError | undefined
  /** Set when RESET is to be sent in the place of END. */
  #pendingEnd: { error: Error | undefined } | undefined

  #localEnded = false
  #remoteEnded = false
  #over = false

  constructor(id: number, owner: StreamOwner, window: ReceiveWindow, creditBytes: number, dialled: boolean) {
    super({
      allowHalfOpen: true,
      writableHighWaterMark: SEND_BUFFER_BYTES,
      readableHighWaterMark: READ_BUFFER_BYTES
    })
    this.id = id
    this.#owner = owner
    this.#window = window
    this.#creditBytes = creditBytes
    this.dialled = dialled
    // A reset may come before the owner listens, and must not end the process. The owner then finds it in `errored`.
    this.on('error', () => {})
  }

  // Sending.

  /** Takes over the hold on a chunk out of `allocMessage`. */
  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (chunk.length === 0) return done()
    this.#sending.push(chunk)
    this.#sendingBytes += chunk.length
    if (this.#hasRoom) done()
    else this.#written = done
    if (this.#creditBytes > 0) this.#wantsToSend()
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#finished = done
    if (this.#sendingBytes > 0) return
    if (this.#pendingEnd) this.destroy(this.#pendingEnd.error)
    else this.#wantsToSend()
  }

  #wantsToSend(): void {
    if (!this.#over) this.#owner.wantsToSend(this, this.#sendingBytes)
  }

  get #hasRoom(): boolean {
    return this.#sendingBytes < SEND_BUFFER_BYTES && this.#sending.length < SEND_BUFFER_CHUNKS
  }

  /** Bytes that could go out now: what is queued, as far as the peer's credit reaches. */
  get sendableBytes(): number {
    return Math.min(this.#sendingBytes, this.#creditBytes)
  }

  /** True when END may follow the next `bytes`: they are the last. The session then sends END and calls `ended`. */
  endsAfter(bytes: number): boolean {
    return (
      this.#finished !== undefined && !this.#localEnded && !this.#pendingEnd && this.#sendingBytes === bytes
    )
  }

  /** Copies exactly `bytes` (at most `sendableBytes`) into the message being built. */
  fill(into: Buffer, offset: number, bytes: number): void {
    let left = bytes
    let chunks = 0
    while (left > 0) {
      const chunk = this.#sending[chunks] as Buffer
      const from = this.#filledBytes
      const part = Math.min(left, chunk.length - from)
      chunk.copy(into, offset, from, from + part)
      offset += part
      left -= part
      this.#filledBytes += part
      if (this.#filledBytes < chunk.length) break
      this.#filledBytes = 0
      chunks++
      releaseMessage(chunk)
    }
    if (chunks === this.#sending.length) this.#sending = []
    else if (chunks > 0) this.#sending.splice(0, chunks)
    this.#sendingBytes -= bytes
    this.#creditBytes -= bytes
    if (this.#written && this.#hasRoom) {
      // Not from here: a listener may write to, end or destroy any stream while the message is half built.
      process.nextTick(this.#written)
      this.#written = undefined
    }
    if (this.#pendingEnd && this.#finished && this.#sendingBytes === 0) {
      process.nextTick(() => this.destroy(this.#pendingEnd?.error))
    }
  }

  /** END was sent. */
  ended(): void {
    this.#localEnded = true
    if (this.#finished) process.nextTick(this.#finished)
    this.#finished = undefined
    this.#finishIfDone()
  }

  /** The peer allows `bytes` more. */
  credit(bytes: number): void {
    if (bytes === 0) throw new TunnelError('FLOW_CONTROL_ERROR', 'CREDIT grants one byte at least')
    if (this.#creditBytes + bytes > CREDIT_LIMIT_BYTES) {
      throw new TunnelError('FLOW_CONTROL_ERROR', `credit beyond ${CREDIT_LIMIT_BYTES} bytes`)
    }
    this.#creditBytes += bytes
    if (this.#sendingBytes > 0) this.#wantsToSend()
  }

  // Receiving.

  override _read(): void {
    const chunk = this.#received.shift()
    this.#wantsMore = chunk === undefined
    if (chunk === undefined) return this.#failOnceRead()
    this.push(chunk)
    this.#credited(chunk.length)
    if (this.#remoteEnded && this.#received.length === 0) this.push(null)
  }

  /** DATA from the peer: a view into its message. */
  deliver(chunk: Buffer): void {
    if (this.#remoteEnded) throw new TunnelError('PROTOCOL_ERROR', 'DATA after END')
    this.#window.received(chunk.length)
    if (this.#wantsMore) {
      this.#wantsMore = false
      if (this.push(alone(chunk))) this.#wantsMore = true
      this.#credited(chunk.length)
    } else {
      this.#received.push(chunk)
    }
  }

  /** END from the peer. */
  deliverEnd(): void {
    if (this.#remoteEnded) throw new TunnelError('PROTOCOL_ERROR', 'END twice')
    this.#remoteEnded = true
    if (this.#received.length === 0) this.push(null)
    this.#finishIfDone()
  }

  #credited(bytes: number): void {
    if (this.#remoteEnded || this.#over) return
    const owner = this.#owner
    const credit = this.#window.read(bytes, owner.clock.now(), owner.roundTripMs())
    if (credit > 0) owner.returnCredit(this, credit)
  }

  // Ending.

  /**
   * RESET from the peer, or the end of the session: nothing more is sent for this stream. Data from a target is
   * delivered before its reset, as TCP does it. Data from a caller is delivered only if the caller ended it: the
   * request of a caller that reset the stream is discarded.
   */
  fail(error: TunnelError): void {
    this.#close()
    if (!(this.#remoteEnded ? this.#isBeingRead : this.dialled && this.#unreadChunks > 0)) {
      return void this.destroy(error)
    }
    this.#failedBy = error
    const { clock, unreadTimeoutMs } = this.#owner
    const giveUp = (): void => void this.destroy(error)
    const bound = whileMoving(clock, unreadTimeoutMs, () => this.#unreadChunks, giveUp)
    this.once('end', giveUp).once('close', () => bound.cancel())
  }

  /** All received data was passed to the reader: when the last chunk is read, too, the reset is delivered. */
  #failOnceRead(): void {
    if (!this.#failedBy) return
    process.nextTick(() => {
      if (this.readableLength === 0) this.destroy(this.#failedBy)
      // Taken in part: Node asks again only after an answer.
      else this.push(NOTHING)
    })
  }

  get #unreadChunks(): number {
    return this.#received.length + (this.readableLength > 0 ? 1 : 0)
  }

  /** Sends RESET after all that was written, in the place of END, because the source of the data broke. */
  resetBehind(error?: Error): void {
    if (this.writableEnded || this.#over) return void this.destroy(error)
    this.#pendingEnd = { error }
    const { clock, unreadTimeoutMs } = this.#owner
    const left = (): number => this.#sendingBytes + this.writableLength
    const bound = whileMoving(clock, unreadTimeoutMs, left, () => this.destroy(error))
    this.once('close', () => bound.cancel())
    this.end()
  }

  /** Whether somebody reads, or may still begin to read what waits here. */
  get #isBeingRead(): boolean {
    const waiting = this.#received.length > 0 || this.readableLength > 0
    return !this.readableEnded && (waiting || this.readableFlowing !== null)
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    if (!this.#over) {
      const reason = error
        ? TunnelError.from(error, this.dialled ? 'CALLER_RESET' : 'TARGET_RESET')
        : new TunnelError('CLOSED', 'stream destroyed')
      this.#owner.resetByUs(this, reason)
      this.#close()
    }
    const waiting = [this.#written, this.#finished]
    this.#sending = []
    this.#sendingBytes = 0
    this.#written = undefined
    this.#finished = undefined
    this.#received.clear()
    this.#window.close()
    done(error)
    for (const callback of waiting) callback?.(error ?? new TunnelError('CLOSED', 'stream destroyed'))
  }

  #finishIfDone(): void {
    if (this.#localEnded && this.#remoteEnded) this.#close()
  }

  #close(): void {
    if (this.#over) return
    this.#over = true
    this.#owner.closed(this)
  }
}
