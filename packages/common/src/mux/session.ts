/**
 * The multiplexer: streams over one Carrier, and the only piece that knows both `Dial` and `Carrier`. One side dials,
 * and the other one, which has `onOpen`, answers. With `twoWay` both sides may do both, if the peer agrees. Frames and
 * their order are in docs/protocol.md §5. It knows nothing of sockets, links or who the peer is.
 *
 * ```
 * greeting ──HELLO──► open ──GOAWAY, either way──► draining ──► closed
 *     └────────────────┴──── close, carrier lost, rule broken ────┘
 * ```
 */
import { EventEmitter } from 'node:events'
import type { Duplex } from 'node:stream'
import type { Carrier } from '../carrier.js'
import { type Clock, type Timer, systemClock } from '../clock.js'
import type { DialContext, Target } from '../dial.js'
import { type ErrorCode, TunnelError } from '../errors.js'
import type { BudgetShare } from '../fair-budget.js'
import { receiveScheduler } from '../fair-scheduler.js'
import { UNREAD_TIMEOUT_MS } from '../linger.js'
import { allocMessage } from '../message-buffer.js'
import type { SendShare } from '../send-share.js'
import { decode, frameAt } from '../wire/decode.js'
import { encode, writeHeader } from '../wire/encode.js'
import {
  CREDIT_LIMIT_BYTES,
  FRAME_LIMIT_BYTES,
  type Features,
  HEADER_BYTES,
  type Hello,
  STREAM_ID_LIMIT,
  VERSION,
  feature,
  frameType
} from '../wire/frame.js'
import type { DialOrigin } from '../wire/origin.js'
import { ControlQueue } from './control.js'
import { CreditBudget, type CreditLimits, type ReceiveWindow, creditDefaults } from './credit.js'
import { RoundTrip } from './round-trip.js'
import { Stream, type StreamOwner } from './stream.js'
import { type Parity, StreamNumbers } from './stream-numbers.js'
import { StreamScheduler } from './stream-scheduler.js'

export type SessionLimits = CreditLimits & {
  /** Most streams open or being dialled at once; more are refused with OVERLOADED. Default 8192. */
  streamLimit: number
  /** Largest stream id this side uses; then the session drains. Default 4 294 967 295, the largest there is. */
  streamIdLimit: number
  /** Most payload bytes of one frame that this side accepts. Default 65536. */
  frameLimitBytes: number
  /** How long the peer's HELLO may take, in milliseconds; then the session closes. Default 10 000. */
  helloTimeoutMs: number
  /** Most bytes of control frames kept for a peer that does not read; beyond them the session closes. Default 4 MiB. */
  controlLimitBytes: number
  /** How long data before a RESET waits for a reader that takes nothing, in milliseconds. Default 300 000. */
  unreadTimeoutMs: number
}

export const sessionDefaults: SessionLimits = {
  ...creditDefaults,
  streamLimit: 8192,
  streamIdLimit: STREAM_ID_LIMIT,
  frameLimitBytes: FRAME_LIMIT_BYTES,
  helloTimeoutMs: 10_000,
  controlLimitBytes: 4 << 20,
  unreadTimeoutMs: UNREAD_TIMEOUT_MS
}

/** A dial that the peer asks for. Exactly one of `accept` and `refuse` is to be called, once. */
export interface IncomingDial {
  readonly target: Target
  /** 0: the peer sets no limit. */
  readonly timeoutMs: number
  /**
   * Where the dial comes from, as the peer says; `serve` decides whether it counts. Undefined: a peer of version 1.0.
   */
  readonly origin: DialOrigin | undefined
  /** Aborted when the peer no longer wants the answer, or cannot receive it. */
  readonly signal: AbortSignal
  accept(): Duplex
  refuse(error: TunnelError): void
}

export type SessionOptions = {
  limits?: Partial<SessionLimits>
  clock?: Clock
  /**
   * What this session and others of its party may promise beyond minimum windows. Default: only its own limit counts.
   */
  budget?: BudgetShare
  /** What this session and others of its party may send in a turn. Default: as much as the carrier takes. */
  sendShare?: SendShare
  /** Answers the peer's dials. Absent: this side lets the peer open nothing. */
  onOpen?: (incoming: IncomingDial) => void
  /**
   * Both sides may open streams, if the peer agrees (feature TWO_WAY): this side with odd or with even numbers. `odd`
   * is for the side that opens streams in version 1.0. Default: one way, this side dials, or with `onOpen` answers.
   */
  twoWay?: Parity
}

export type SessionEvents = {
  /** The peer's HELLO is accepted: dials can be sent. */
  open: []
  /** The peer accepts no new streams. Open ones continue. */
  goaway: [reason: TunnelError]
  /** The last open stream ended. */
  idle: []
  /** Once, last. */
  close: [error: TunnelError]
}

export type SessionState = 'greeting' | 'open' | 'draining' | 'closed'

/** Bytes gathered in one message before the next is begun: two full frames, or many small ones. */
const MESSAGE_BYTES = 128 << 10

/**
 * Longest time that a peer's OPEN may make a dial last, in milliseconds: the largest that our own configuration allows.
 */
export const OPEN_TIMEOUT_LIMIT_MS = 600_000

/** Codes with which a session ends that its streams get as they are. All others become LINK_LOST. */
const NOT_RESUMED: ReadonlySet<ErrorCode> = new Set(['RESUME_EXPIRED', 'RESUME_REFUSED'])

type Dialling = {
  window: ReceiveWindow
  settle: (answer: { stream: Stream } | { error: TunnelError }) => void
}

type Answering = { abort: AbortController; creditBytes: number }

export class Session extends EventEmitter<SessionEvents> {
  readonly #carrier: Carrier
  readonly #clock: Clock
  readonly #limits: SessionLimits
  readonly #onOpen: ((incoming: IncomingDial) => void) | undefined
  readonly #budget: CreditBudget
  readonly #sendShare: SendShare | undefined
  readonly #roundTrip: RoundTrip
  readonly #owner: StreamOwner

  #state: SessionState = 'greeting'
  #peer: Hello | undefined
  #peerIsLeaving = false
  #weAreLeaving = false
  /** The error for dials and streams after the session has ended. */
  #lost: TunnelError | undefined
  readonly #helloTimer: Timer
  readonly #waitingForHello = new Set<() => void>()

  /** What this side offers, and since the peer's HELLO what is in force. */
  #features: Features
  readonly #numbers: StreamNumbers
  /** How many streams the peer may have open at once. */
  readonly #peerStreamLimit: number
  readonly #streams = new Map<number, Stream>()
  /** Of the streams, those that the peer opened. */
  #acceptedCount = 0
  readonly #dialling = new Map<number, Dialling>()
  readonly #answering = new Map<number, Answering>()

  /** The message whose frames are being read, and where the next one begins. */
  #message: Buffer | undefined
  #at = 0
  readonly #share = receiveScheduler.share(() => this.#readFrames())

  readonly #scheduler = new StreamScheduler<Stream>()
  readonly #control = new ControlQueue()
  /** The answer to the peer's newest PING, which replaces those to older ones. */
  #pong: Buffer | undefined
  #blocked = false
  #flushing = false
  #noticingIdle = false

  #bytesSent = 0
  #bytesReceived = 0

  constructor(carrier: Carrier, options: SessionOptions = {}) {
    super()
    this.#carrier = carrier
    this.#clock = options.clock ?? systemClock
    this.#limits = { ...sessionDefaults, ...options.limits }
    this.#onOpen = options.onOpen
    this.#features = options.twoWay ? feature.TWO_WAY : 0
    this.#peerStreamLimit = options.onOpen ? this.#limits.streamLimit : 0
    this.#numbers = new StreamNumbers(
      options.twoWay ?? (options.onOpen ? 'even' : 'odd'),
      this.#limits.streamIdLimit
    )
    this.#budget = new CreditBudget(this.#limits, options.budget)
    this.#sendShare = options.sendShare
    this.#roundTrip = new RoundTrip(this.#clock, opaque => this.#sendControl(encode.ping(opaque)))
    this.#owner = this.#streamOwner()

    carrier.on('message', this.#carrierOnMessage)
    carrier.on('drain', this.#carrierOnDrain)
    carrier.on('close', this.#carrierOnClose)

    const { frameLimitBytes } = this.#limits
    this.#sendControl(
      encode.hello({
        ...VERSION,
        features: this.#features,
        frameLimitBytes,
        streamLimit: this.#peerStreamLimit
      })
    )
    this.#helloTimer = this.#clock.after(this.#limits.helloTimeoutMs, () =>
      this.close('PROTOCOL_ERROR', `no HELLO within ${this.#limits.helloTimeoutMs} ms`)
    )
  }

  get state(): SessionState {
    return this.#state
  }

  /** The peer sent GOAWAY: it accepts no new streams. */
  get peerIsLeaving(): boolean {
    return this.#peerIsLeaving
  }

  /** Streams open or being dialled, in either direction. */
  get streamCount(): number {
    return this.#streams.size + this.#dialling.size + this.#answering.size
  }

  /** Streams that the peer opened or asks for. */
  get #peerStreamCount(): number {
    return this.#acceptedCount + this.#answering.size
  }

  /** Both sides may open streams. */
  get twoWay(): boolean {
    return this.#numbers.twoWay
  }

  /** Shortest recent round trip in milliseconds; 0 before the first answer. */
  get roundTripMs(): number {
    return this.#roundTrip.ms
  }

  /** Payload bytes of streams, both directions, for metrics. */
  get bytes(): { sent: number; received: number } {
    return { sent: this.#bytesSent, received: this.#bytesReceived }
  }

  /** Memory promised to the peer beyond the minimum window of each stream. */
  get promisedBytes(): number {
    return this.#budget.usedBytes
  }

  // Dialling.

  /**
   * The peer's `Dial`. Rejects with the peer's refusal, or LINK_LOST, DRAINING, OVERLOADED (another client may serve
   * it), DIAL_TIMEOUT, DIAL_CANCELLED; on a side that only answers, or whose peer does not name TWO_WAY, with ONE_WAY.
   */
  readonly dial = (target: Target, context: DialContext): Promise<Duplex> =>
    new Promise((resolve, reject) => {
      const { signal, timeoutMs } = context
      let id: number | undefined
      const settle: Dialling['settle'] = answer => {
        this.#waitingForHello.delete(begin)
        timer.cancel()
        signal.removeEventListener('abort', onAbort)
        const dialling = id === undefined ? undefined : this.#dialling.get(id)
        if (id !== undefined) this.#dialling.delete(id)
        if ('stream' in answer) return resolve(answer.stream)
        dialling?.window.close()
        reject(answer.error)
        this.#noticeIdle()
      }
      const giveUp = (code: ErrorCode, detail?: string): void => {
        if (id !== undefined) this.#sendControl(encode.reset(id, code, detail))
        settle({ error: new TunnelError(code, detail) })
      }
      const onAbort = (): void => giveUp('DIAL_CANCELLED')
      const begin = (): void => {
        const refusal = this.#whyNoDial()
        if (refusal) return settle({ error: refusal })
        const window = this.#budget.open()
        try {
          this.#sendControl(encode.open(this.#numbers.next, target, window.windowBytes, timeoutMs, context))
        } catch (error) {
          window.close()
          return settle({ error: TunnelError.from(error) })
        }
        id = this.#numbers.take()
        this.#dialling.set(id, { window, settle })
        if (this.#numbers.isUsedUp) this.drain('DRAINING', 'stream ids are used up')
      }
      const timer = this.#clock.after(timeoutMs, () =>
        giveUp('DIAL_TIMEOUT', `no answer within ${timeoutMs} ms`)
      )

      signal.addEventListener('abort', onAbort, { once: true })
      if (signal.aborted) onAbort()
      else if (!this.#peer && !this.#lost) this.#waitingForHello.add(begin)
      else begin()
    })

  #whyNoDial(): TunnelError | undefined {
    if (this.#lost) return this.#lost
    if (!this.#numbers.mayOpen) return new TunnelError('ONE_WAY', 'TWO_WAY is not in force')
    if (this.#peerIsLeaving) return new TunnelError('DRAINING')
    if (this.#numbers.isUsedUp) return new TunnelError('DRAINING', 'stream ids are used up')
    const limit = Math.min(this.#limits.streamLimit, this.#peer?.streamLimit ?? 0)
    if (this.streamCount - this.#peerStreamCount >= limit)
      return new TunnelError('OVERLOADED', `${limit} streams are open`)
    return undefined
  }

  // Ending.

  /**
   * Sends GOAWAY and accepts no new streams from the peer. Open streams continue. A side that dials may still dial: its
   * peer looks for other servers meanwhile. `idle` is emitted when the last stream has ended.
   */
  drain(code: ErrorCode = 'DRAINING', detail?: string): void {
    if (this.#state === 'closed') return
    if (!this.#weAreLeaving) {
      this.#weAreLeaving = true
      this.#state = 'draining'
      this.#sendControl(encode.goAway(code, detail))
    }
    this.#noticeIdle()
  }

  /** Ends the session and resets its streams. Safe to call twice. */
  close(code: ErrorCode = 'CLOSED', detail?: string): void {
    if (this.#state === 'closed') return
    // Queued frames are sent before the close, even if the share of this turn is used up.
    while (this.#maySend) this.#sendMessage()
    this.#carrier.close(code, detail)
    this.#end(new TunnelError(code, detail))
  }

  #end(error: TunnelError): void {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    this.#carrier.off('message', this.#carrierOnMessage)
    this.#carrier.off('drain', this.#carrierOnDrain)
    this.#carrier.off('close', this.#carrierOnClose)
    this.#helloTimer.cancel()
    this.#message = undefined
    this.#scheduler.clear()
    this.#control.clear()
    this.#pong = undefined
    const lost = NOT_RESUMED.has(error.code)
      ? error
      : new TunnelError('LINK_LOST', error.message, { cause: error })
    this.#lost = lost
    for (const begin of [...this.#waitingForHello]) begin()
    for (const { settle } of [...this.#dialling.values()]) settle({ error: lost })
    for (const { abort } of [...this.#answering.values()]) abort.abort(lost)
    this.#answering.clear()
    for (const stream of [...this.#streams.values()]) stream.fail(lost)
    this.emit('close', error)
  }

  // Frames in.

  readonly #carrierOnMessage = (message: Buffer): void => {
    this.#message = message
    this.#at = 0
    this.#readFrames()
  }

  /** A message may hold a hundred thousand frames: those beyond this turn's share wait, and the carrier is paused. */
  #readFrames(): void {
    const message = this.#message
    if (!message || this.#state === 'closed') return
    try {
      do {
        if (this.#share.isExhausted) {
          this.#carrier.pause()
          return this.#share.wait()
        }
        this.#share.charge(1)
        this.#at = frameAt(message, this.#at, this.#onFrame, this.#limits.frameLimitBytes)
      } while (this.#at < message.length && !this.#isClosed)
      this.#message = undefined
      this.#carrier.resume()
    } catch (error) {
      const broken = TunnelError.from(error)
      this.close(broken.code, broken.detail)
    }
  }

  /** Any frame may have closed the session. */
  get #isClosed(): boolean {
    return this.#state === 'closed'
  }

  readonly #carrierOnClose = (error: TunnelError): void => this.#end(error)

  readonly #onFrame = (type: number, id: number, payload: Buffer): void => {
    if (this.#state === 'closed') return
    if (this.#peer === undefined && type !== frameType.HELLO) throw broken('the first frame is HELLO')
    switch (type) {
      case frameType.DATA:
        return this.#onStreamFrame(id, 'DATA', stream => {
          if (payload.length === 0) throw broken('DATA carries one byte at least')
          this.#bytesReceived += payload.length
          stream.deliver(payload)
        })
      case frameType.CREDIT: {
        const bytes = decode.credit(payload)
        return this.#onStreamFrame(id, 'CREDIT', stream => stream.credit(bytes))
      }
      case frameType.END:
        return this.#onStreamFrame(id, 'END', stream => stream.deliverEnd())
      case frameType.RESET:
        return this.#onReset(id, payload)
      case frameType.OPEN:
        return this.#onOpenFrame(id, payload)
      case frameType.OPENED:
        return this.#onOpened(id, decode.opened(payload))
      case frameType.REFUSED:
        return this.#onRefused(id, payload)
      case frameType.PING:
        needStreamZero(id, 'PING')
        this.#pong = encode.pong(decode.opaque(payload, 'PING'))
        return this.#scheduleFlush()
      case frameType.PONG:
        needStreamZero(id, 'PONG')
        return this.#roundTrip.answered(decode.opaque(payload, 'PONG'))
      case frameType.GOAWAY:
        needStreamZero(id, 'GOAWAY')
        return this.#onGoAway(payload)
      case frameType.HELLO:
        needStreamZero(id, 'HELLO')
        return this.#onHello(decode.hello(payload))
      default:
        // A newer minor version may send frames that this one does not know. A peer of this version may not.
        if ((this.#peer as Hello).minor <= VERSION.minor) throw broken(`frame type ${type} is not known`)
    }
  }

  #onHello(hello: Hello): void {
    if (this.#peer) throw broken('HELLO comes once')
    this.#peer = hello
    this.#features &= hello.features
    this.#numbers.twoWay = (this.#features & feature.TWO_WAY) !== 0
    this.#helloTimer.cancel()
    if (this.#state === 'greeting') this.#state = 'open'
    this.#roundTrip.measure()
    for (const begin of this.#waitingForHello) begin()
    this.#waitingForHello.clear()
    this.emit('open')
  }

  /** Runs `act` on an open stream. A violation of a rule of the stream resets that stream only. */
  #onStreamFrame(id: number, name: string, act: (stream: Stream) => void): void {
    const stream = this.#streams.get(id)
    if (stream === undefined) {
      const answering = this.#answering.get(id)
      if (answering) return answering.abort.abort(broken(`${name} before OPENED`))
      const dialling = this.#dialling.get(id)
      if (dialling) return this.#giveUp(id, dialling, broken(`${name} before OPENED`))
      return this.#needOnceOpened(id, name)
    }
    try {
      act(stream)
    } catch (error) {
      stream.destroy(TunnelError.from(error))
    }
  }

  /** The answer violates a rule: resets the stream and fails the dial. */
  #giveUp(id: number, dialling: Dialling, error: TunnelError): void {
    this.#sendControl(encode.reset(id, error.code, error.detail))
    dialling.settle({ error })
  }

  /** Frames for a stream that has ended may still arrive. Frames for a stream that was never opened are an error. */
  #needOnceOpened(id: number, name: string): void {
    if (!this.#numbers.wasOpened(id)) throw broken(`${name} for stream ${id}, never opened`)
  }

  #onReset(id: number, payload: Buffer): void {
    const { code, text } = decode.reason(payload, 'RESET')
    const error = new TunnelError(code, text || undefined)
    const stream = this.#streams.get(id)
    if (stream) return stream.fail(error)
    const answering = this.#answering.get(id)
    if (answering) {
      this.#answering.delete(id)
      answering.abort.abort(error)
      return this.#noticeIdle()
    }
    const dialling = this.#dialling.get(id)
    if (dialling) return dialling.settle({ error })
    this.#needOnceOpened(id, 'RESET')
  }

  #onOpened(id: number, creditBytes: number): void {
    const dialling = this.#dialling.get(id)
    if (!dialling) return this.#requireDialled(id, 'OPENED')
    if (creditBytes > CREDIT_LIMIT_BYTES) return this.#giveUp(id, dialling, creditTooLarge(creditBytes))
    const stream = new Stream(id, this.#owner, dialling.window, creditBytes, true)
    this.#streams.set(id, stream)
    dialling.settle({ stream })
  }

  #onRefused(id: number, payload: Buffer): void {
    const { code, text } = decode.reason(payload, 'REFUSED')
    const dialling = this.#dialling.get(id)
    if (!dialling) return this.#requireDialled(id, 'REFUSED')
    dialling.settle({ error: new TunnelError(code, text || undefined) })
  }

  /** An answer may arrive after its dial has ended. An answer without any dial is an error. */
  #requireDialled(id: number, name: string): void {
    if (!this.#numbers.wasOpenedHere(id)) throw broken(`${name} for stream ${id}, which was not asked for`)
    this.#streams.get(id)?.destroy(broken(`${name} for a stream that is open`))
  }

  #onOpenFrame(id: number, payload: Buffer): void {
    this.#numbers.openedByPeer(id)
    let open
    try {
      open = decode.open(payload)
    } catch (error) {
      const refused = TunnelError.from(error)
      return this.#sendControl(encode.refused(id, refused.code, refused.detail))
    }
    if (open.creditBytes > CREDIT_LIMIT_BYTES) {
      const { code, detail } = creditTooLarge(open.creditBytes)
      return this.#sendControl(encode.refused(id, code, detail))
    }
    if (this.#weAreLeaving) return this.#sendControl(encode.refused(id, 'DRAINING'))
    if (this.#peerStreamCount >= this.#peerStreamLimit) {
      return this.#sendControl(encode.refused(id, 'OVERLOADED', `${this.#peerStreamLimit} streams are open`))
    }
    const abort = new AbortController()
    this.#answering.set(id, { abort, creditBytes: open.creditBytes })
    this.#onOpen?.({
      target: open.target,
      origin: open.origin,
      timeoutMs: Math.min(open.timeoutMs, OPEN_TIMEOUT_LIMIT_MS),
      signal: abort.signal,
      accept: () => this.#accept(id),
      refuse: error => this.#refuse(id, error)
    })
  }

  /** Opens the stream. If the peer has cancelled the dial, the stream is already reset. */
  #accept(id: number): Duplex {
    const answering = this.#answering.get(id)
    this.#answering.delete(id)
    const window = this.#budget.open()
    const stream = new Stream(id, this.#owner, window, answering?.creditBytes ?? 0, false)
    if (!answering || answering.abort.signal.aborted) {
      if (answering) this.#sendControl(encode.refused(id, 'DIAL_CANCELLED'))
      stream.fail(new TunnelError('DIAL_CANCELLED'))
      return stream
    }
    this.#streams.set(id, stream)
    this.#acceptedCount++
    this.#sendControl(encode.opened(id, window.windowBytes))
    return stream
  }

  #refuse(id: number, error: TunnelError): void {
    if (!this.#answering.delete(id)) return
    this.#sendControl(encode.refused(id, error.code, error.detail))
    this.#noticeIdle()
  }

  #onGoAway(payload: Buffer): void {
    const { code, text } = decode.reason(payload, 'GOAWAY')
    if (this.#peerIsLeaving) return
    this.#peerIsLeaving = true
    if (this.#state === 'open') this.#state = 'draining'
    this.emit('goaway', new TunnelError(code, text || undefined))
  }

  // Frames out.

  #streamOwner(): StreamOwner {
    return {
      wantsToSend: (stream, bytes) => {
        this.#scheduler.add(stream, bytes)
        this.#scheduleFlush()
      },
      returnCredit: (stream, bytes) => {
        this.#roundTrip.refresh()
        this.#sendControl(encode.credit(stream.id, bytes))
      },
      resetByUs: (stream, error) => this.#sendControl(encode.reset(stream.id, error.code, error.detail)),
      closed: stream => {
        this.#scheduler.delete(stream)
        if (this.#streams.get(stream.id) === stream) {
          this.#streams.delete(stream.id)
          if (!stream.dialled) this.#acceptedCount--
        }
        this.#noticeIdle()
      },
      roundTripMs: () => this.#roundTrip.ms,
      clock: this.#clock,
      unreadTimeoutMs: this.#limits.unreadTimeoutMs
    }
  }

  /** Emitted in a later tick: a listener may close the session, and the last END must have been sent by then. */
  #noticeIdle(): void {
    if (this.streamCount > 0 || this.#noticingIdle) return
    this.#noticingIdle = true
    process.nextTick(() => {
      this.#noticingIdle = false
      if (this.streamCount === 0 && this.#state !== 'closed') this.emit('idle')
    })
  }

  /** Queues a control frame. Control frames are sent before data, in the order in which they were queued. */
  #sendControl(frame: Buffer): void {
    if (this.#state === 'closed') return
    this.#control.push(frame)
    if (this.#control.bytes > this.#limits.controlLimitBytes) {
      this.#control.clear()
      return this.close('OVERLOADED', 'the peer asks but does not read the answers')
    }
    this.#scheduleFlush()
  }

  /** Once per turn of the event loop, so that what several sockets brought shares a message. */
  #scheduleFlush(): void {
    if (this.#flushing || this.#blocked) return
    this.#flushing = true
    setImmediate(this.#flushNow)
  }

  get #maySend(): boolean {
    return !this.#blocked && this.#state !== 'closed' && this.#hasFrames
  }

  readonly #flushNow = (): void => {
    this.#flushing = false
    this.#flush()
  }

  readonly #carrierOnDrain = (): void => {
    this.#blocked = false
    this.#flush()
  }

  #flush(): void {
    if (this.#flushing) return
    while (this.#maySend) {
      if (this.#sendShare?.hasRoom === false) {
        this.#flushing = true
        return this.#sendShare.wait(this.#flushNow)
      }
      this.#sendMessage()
    }
  }

  #sendMessage(): void {
    const message = this.#nextMessage()
    if (!message) return
    this.#sendShare?.charge(message.length)
    this.#blocked = !this.#carrier.send(message)
  }

  get #hasFrames(): boolean {
    return this.#pong !== undefined || this.#control.bytes > 0 || this.#scheduler.size > 0
  }

  /** Control frames first, then data of streams, as scheduled, until the message is full. */
  #nextMessage(): Buffer | undefined {
    let control = this.#control.take(MESSAGE_BYTES)
    if (this.#pong) control = [...control, this.#pong]
    this.#pong = undefined
    let size = 0
    for (const { length } of control) size += length
    const frameLimit = Math.min(FRAME_LIMIT_BYTES, this.#peer?.frameLimitBytes ?? 0)
    const plan: { stream: Stream; bytes: number; end: boolean }[] = []
    let stream: Stream | undefined
    while (size < MESSAGE_BYTES && (stream = this.#scheduler.next()) !== undefined) {
      const bytes = Math.min(stream.sendableBytes, frameLimit, MESSAGE_BYTES - size)
      const end = stream.endsAfter(bytes)
      this.#scheduler.charge(bytes)
      if (bytes === 0 && !end) continue
      plan.push({ stream, bytes, end })
      size += (bytes > 0 ? HEADER_BYTES + bytes : 0) + (end ? HEADER_BYTES : 0)
    }
    if (size === 0) return undefined

    const message = allocMessage(size)
    let at = 0
    for (const part of control) at += part.copy(message, at)
    for (const { stream, bytes, end } of plan) {
      if (bytes > 0) {
        writeHeader(message, at, frameType.DATA, stream.id, bytes)
        stream.fill(message, at + HEADER_BYTES, bytes)
        at += HEADER_BYTES + bytes
        this.#bytesSent += bytes
      }
      if (end) {
        writeHeader(message, at, frameType.END, stream.id, 0)
        at += HEADER_BYTES
        stream.ended()
      } else if (stream.sendableBytes > 0) {
        this.#scheduler.add(stream, stream.sendableBytes)
      }
    }
    return message
  }
}

function broken(rule: string): TunnelError {
  return new TunnelError('PROTOCOL_ERROR', rule)
}

function creditTooLarge(bytes: number): TunnelError {
  return new TunnelError(
    'FLOW_CONTROL_ERROR',
    `first credit of ${bytes} bytes, at most ${CREDIT_LIMIT_BYTES}`
  )
}

function needStreamZero(id: number, name: string): void {
  if (id !== 0) throw broken(`${name} belongs to stream 0, not ${id}`)
}
