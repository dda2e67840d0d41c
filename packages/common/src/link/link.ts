/**
 * A Carrier made of successive Carriers. Every session message is counted and kept until the other side has it;
 * when a carrier is lost the link is *down*, what is sent waits, and the next carrier begins where the last one
 * ended. The session above only notices a delay. Connecting and the handshake are in other files.
 *
 * ```
 *          attach                 carrier lost
 *  down ───────────► up ─────────────────────────► down
 *   │  ▲              │ attach: the newest carrier wins, the older one ends SUPERSEDED
 *   │  └──────────────┘
 *   └─ resumeWindowMs over, or close ──► closed         (from `up`: close, or the peer closes)
 * ```
 */
import { EventEmitter } from 'node:events'
import type { Carrier, CarrierEvents } from '../carrier.js'
import { type Clock, type Timer, systemClock } from '../clock.js'
import { type ErrorCode, TunnelError } from '../errors.js'
import { type BudgetShare, FairBudget } from '../fair-budget.js'
import { holdMessage } from '../message-buffer.js'
import { Heartbeat, type HeartbeatLimits, heartbeatDefaults } from './heartbeat.js'
import {
  decodeAnnouncement,
  decodeNumber,
  encodeAnnouncement,
  encodeNumber,
  isLinkMessage,
  linkType
} from './link-message.js'
import { REPLAY_BUDGET_BYTES, ReplayBuffer, type ReplayLimits, replayDefaults } from './replay.js'
import { SendWindow } from './send-window.js'
import { StallWatch, type StallLimits, stallDefaults } from './stall.js'

export type LinkLimits = ReplayLimits &
  HeartbeatLimits &
  StallLimits & {
    /** How long a link may be down before it ends, in milliseconds. Default 60 000. */
    resumeWindowMs: number
  }

export const linkDefaults: LinkLimits = {
  ...replayDefaults,
  ...heartbeatDefaults,
  ...stallDefaults,
  resumeWindowMs: 60_000
}

/**
 * Received messages are acknowledged after a quarter of the peer's replay limit, or after some time. The peer chooses
 * its limit: the maximum here bounds what it has to keep, the minimum bounds how many acknowledgements it can cause.
 */
const ACK_MOST_BYTES = 256 << 10
const ACK_LEAST_BYTES = 16 << 10
const ACK_AFTER_MS = 250
/** With this much to acknowledge the peer may wait for it, because its send window is full. */
const ACK_SOON_BYTES = 32 << 10
const ACK_SOON_MS = 25

/**
 * At most one announcement in this time is passed on, in milliseconds: each may be 64 KiB of JSON, and the newest one
 * has the whole state.
 */
const ANNOUNCEMENT_INTERVAL_MS = 250

export type LinkState = 'down' | 'up' | 'closed'

export type LinkEvents = CarrierEvents & {
  /** A carrier was attached: the first one, or one more after `downMs` with `replayed` bytes to send again. */
  up: [info: { first: boolean; downMs: number; replayedBytes: number }]
  /** The carrier was lost; the link waits for the next. */
  down: [reason: TunnelError]
  /** An announcement from the other side. */
  announcement: [text: string]
}

/** Results of the handshake, for `attach`. */
export type ResumeCounts = {
  /** How many of our messages the peer has. */
  peerReceived: number
  /** Number of the message after which the peer continues. Some of the following may have been received already. */
  peerSendsFrom: number
  /** Bytes that the peer keeps for a replay. It must receive acknowledgements well before that. */
  peerReplayLimitBytes: number
}

export type LinkOptions = {
  limits?: Partial<LinkLimits>
  clock?: Clock
  /** The replay budget of this link's party. Default 256 MiB for this link alone. */
  budget?: BudgetShare
}

export class Link extends EventEmitter implements Carrier {
  /** 128 random bits that the server chose; undefined until the first handshake. */
  id: Buffer | undefined
  readonly #clock: Clock
  readonly #limits: LinkLimits
  readonly #replay: ReplayBuffer
  readonly #stall: StallWatch

  #state: LinkState = 'down'
  #carrier: Carrier | undefined
  #heartbeat: Heartbeat | undefined
  #resumeTimer: Timer | undefined
  #ackTimer: Timer | undefined
  /** The acknowledgement comes after ACK_SOON_MS. */
  #ackSoon = false
  #attached = 0
  #downSinceMs: number
  #announcement: string | undefined
  /** The peer's newest announcement, while the one before it is too recent to pass on another. */
  #heldAnnouncement: string | undefined
  #announcementTimer: Timer | undefined

  #received = 0
  #bytesReceivedBefore = 0
  #unackedBytes = 0
  #ackEveryBytes = ACK_MOST_BYTES
  /** Number of messages that come again over the carrier and are skipped. */
  #skip = 0
  /** The last message that the carrier was given. */
  #given = 0
  /** The last message that was there before the carrier. */
  #replayed = 0
  /** What the peer has acknowledged. May be more than what this carrier was given: that is sent to it all the same. */
  #peerReceived = 0
  #window: SendWindow
  /** `send` of the carrier returned false: wait for its drain. */
  #carrierFull = false
  /** Link messages that wait for that drain, by type: a newer one of the same type takes the older one's place. */
  readonly #waiting = new Map<number, Buffer>()
  /** The session has asked for a pause. */
  #paused = false
  /** `send` returned false to the session, which waits for drain. */
  #blocked = false

  constructor({ limits, clock = systemClock, budget }: LinkOptions = {}) {
    super()
    this.#clock = clock
    this.#limits = { ...linkDefaults, ...limits }
    this.#replay = new ReplayBuffer(this.#limits, budget ?? new FairBudget(REPLAY_BUDGET_BYTES).share())
    this.#stall = new StallWatch(clock, this.#limits.ackTimeoutMs, () =>
      this.close('OVERLOADED', `link.ackTimeout: nothing acknowledged for ${this.#limits.ackTimeoutMs} ms`)
    )
    this.#window = new SendWindow(this.#limits.replayLimitBytes)
    this.#downSinceMs = clock.now()
  }

  override on<E extends keyof LinkEvents>(event: E, listener: (...args: LinkEvents[E]) => void): this {
    return super.on(event, listener)
  }

  override off<E extends keyof LinkEvents>(event: E, listener: (...args: LinkEvents[E]) => void): this {
    return super.off(event, listener)
  }

  override emit<E extends keyof LinkEvents>(event: E, ...args: LinkEvents[E]): boolean {
    return super.emit(event, ...args)
  }

  get state(): LinkState {
    return this.#state
  }

  get limits(): Readonly<LinkLimits> {
    return this.#limits
  }

  /** Session messages received since the link began. The other side need not send them again. */
  get received(): number {
    return this.#received
  }

  get bytesReceived(): number {
    return this.#bytesReceivedBefore + (this.#carrier?.bytesReceived ?? 0)
  }

  /** Bytes kept for a resume. */
  get replayBytes(): number {
    return this.#replay.bytes
  }

  /** Last round trip measured by the heartbeat in milliseconds; 0 before the first. */
  get roundTripMs(): number {
    return this.#heartbeat?.roundTripMs ?? 0
  }

  /** Milliseconds since the last byte; while down, since the carrier was lost. */
  get silentMs(): number {
    return this.#heartbeat?.silentMs ?? this.#clock.now() - this.#downSinceMs
  }

  // Carrier, for the session above.

  send(message: Buffer): boolean {
    if (this.#state === 'closed') return true
    this.#replay.push(message)
    this.#giveMessages()
    this.#blocked = !this.#mayGoOn
    return !this.#blocked
  }

  /**
   * While the link is down it accepts no more messages, so that streams are still scheduled fairly afterwards. While it
   * is up it accepts as much as the path carries, after the replay.
   */
  get #mayGoOn(): boolean {
    if (!this.#carrier || this.#carrierFull || this.#given < this.#replay.sent) return false
    return this.#replay.bytes < this.#window.bytes && this.#replay.hasRoom
  }

  /** Gives the carrier the messages that it has not been given, until its `send` returns false. */
  #giveMessages(): void {
    const carrier = this.#carrier
    while (carrier && !this.#carrierFull && this.#given < this.#replay.sent) {
      const number = ++this.#given
      const message = this.#replay.message(number)
      // A replayed message may be acknowledged before it arrives, which does not measure the path.
      if (number > this.#replayed) {
        this.#window.sent(number, this.#replay.bytes - message.length, this.#clock.now())
      }
      holdMessage(message)
      const full = !carrier.send(message)
      if (this.#carrier !== carrier) return
      this.#carrierFull = full
      this.#stall.waiting()
    }
    this.#forgetReceived()
  }

  /**
   * Drops messages that the peer has, except those it expects on this carrier: it counts them, and skips those it has.
   */
  #forgetReceived(): void {
    const count = Math.min(this.#peerReceived, this.#given)
    if (count > this.#replay.acknowledged) this.#acknowledged(count)
  }

  close(code: ErrorCode, detail?: string): void {
    if (this.#state === 'closed') return
    const carrier = this.#detach()
    // Messages already taken are sent first: one may be the last END of a stream.
    while (carrier && this.#given < this.#replay.sent) {
      const message = this.#replay.message(++this.#given)
      holdMessage(message)
      carrier.send(message)
    }
    this.#end(new TunnelError(code, detail))
    carrier?.close(code, detail)
  }

  pause(): void {
    this.#paused = true
    this.#carrier?.pause()
  }

  resume(): void {
    if (!this.#paused) return
    this.#paused = false
    this.#carrier?.resume()
  }

  terminate(error: TunnelError): void {
    if (this.#state === 'closed') return
    const carrier = this.#detach()
    this.#end(error)
    carrier?.terminate(error)
  }

  // Carriers, from below.

  /**
   * Where sending would continue for a peer that has received `count` of our messages, or undefined when that is not
   * possible. A peer may have acknowledged more over the old carrier than it reports over the new one.
   */
  resumePoint(count: number): number | undefined {
    if (this.#state === 'closed' || count > this.#replay.sent) return undefined
    return Math.max(count, this.#replay.acknowledged)
  }

  /**
   * Continues over `carrier`, whose handshake is done. The newest carrier is used: an older one ends with SUPERSEDED,
   * and nothing more is received over it. @throws TunnelError RESUME_REFUSED when the counts do not fit; the link is
   * then as before.
   */
  attach(carrier: Carrier, resume: ResumeCounts): void {
    const skip = this.#received - resume.peerSendsFrom
    if (skip < 0 || this.resumePoint(resume.peerReceived) !== resume.peerReceived) {
      throw new TunnelError('RESUME_REFUSED', 'the message counts of the two sides do not fit')
    }
    this.#detach()?.close('SUPERSEDED')
    this.#resumeTimer?.cancel()
    this.#skip = skip
    this.#acknowledged(resume.peerReceived)
    this.#given = resume.peerReceived
    this.#peerReceived = resume.peerReceived
    this.#replayed = this.#replay.sent
    this.#window = new SendWindow(this.#limits.replayLimitBytes)
    const quarterBytes = Math.floor(resume.peerReplayLimitBytes / 4)
    this.#ackEveryBytes = Math.max(ACK_LEAST_BYTES, Math.min(ACK_MOST_BYTES, quarterBytes))
    this.#unackedBytes = 0
    this.#carrier = carrier
    const replayedBytes = this.#attached > 0 ? this.#replay.bytes : 0

    const mine = <A extends unknown[]>(handle: (...args: A) => void) => {
      return (...args: A): void => {
        if (this.#carrier === carrier) handle(...args)
      }
    }
    carrier.on(
      'bytes',
      mine(() => this.#carrierOnBytes())
    )
    carrier.on(
      'message',
      mine((message: Buffer) => this.#carrierOnMessage(message))
    )
    carrier.on(
      'drain',
      mine(() => this.#carrierOnDrain())
    )
    carrier.on(
      'close',
      mine((error: TunnelError) => this.#carrierOnClose(error))
    )
    this.#heartbeat = new Heartbeat(this.#clock, this.#limits, {
      bytesReceived: () => carrier.bytesReceived,
      ping: id => this.#sendOwn(encodeNumber(linkType.PING, id)),
      dead: silentMs => {
        carrier.terminate(new TunnelError('LINK_LOST', `nothing heard for ${Math.round(silentMs)} ms`))
      }
    })

    const info = {
      first: this.#attached === 0,
      downMs: this.#state === 'down' ? this.#clock.now() - this.#downSinceMs : 0,
      replayedBytes
    }
    this.#attached++
    this.#state = 'up'
    if (this.#paused) carrier.pause()
    if (this.#announcement !== undefined) this.#sendOwn(encodeAnnouncement(this.#announcement))
    // It does not know that these have arrived; at its replay limit it sends nothing that would be acknowledged.
    if (skip > 0) this.#acknowledge()
    this.#heartbeat.ping()
    this.#giveMessages()
    this.emit('up', info)
    this.#resumeSending()
  }

  /** Sends a ping now and not at the next interval. Without a byte within `deadAfterMs` the link is down. */
  probe(): void {
    this.#heartbeat?.ping()
  }

  /** Ends the carrier, not the link, which waits for the next carrier. */
  drop(reason: TunnelError): void {
    this.#carrier?.terminate(reason)
  }

  /** Sends an announcement beside the session. The last one is sent again on every new carrier. */
  announce(text: string): void {
    this.#announcement = text
    this.#sendOwn(encodeAnnouncement(text))
  }

  /**
   * Sends a message of the link itself: at once, or when a full carrier has drained. A newer one replaces an older one
   * of its type, so at most one of each type waits, however many a peer causes without reading.
   */
  #sendOwn(message: Buffer): void {
    if (this.#carrierFull) this.#waiting.set(message[0] as number, message)
    else if (this.#carrier?.send(message) === false) this.#carrierFull = true
  }

  #carrierOnDrain(): void {
    this.#carrierFull = false
    for (const [type, message] of this.#waiting) {
      if (this.#carrierFull) return
      this.#waiting.delete(type)
      this.#sendOwn(message)
    }
    this.#giveMessages()
    this.#resumeSending()
  }

  /** Silence begins with the last byte, also in the middle of a message. */
  #carrierOnBytes(): void {
    this.#heartbeat?.listen()
    this.emit('bytes')
  }

  #carrierOnMessage(message: Buffer): void {
    if (isLinkMessage(message)) this.#orBreak(() => this.#onLinkMessage(message))
    else this.#onSessionMessage(message)
  }

  /** What breaks a rule ends the link, on both sides. */
  #orBreak(act: () => void): void {
    try {
      act()
    } catch (error) {
      const broken = TunnelError.from(error)
      this.close(broken.code, broken.detail)
    }
  }

  #onSessionMessage(message: Buffer): void {
    if (this.#skip > 0) {
      this.#skip--
      return
    }
    this.#received++
    this.#unackedBytes += message.length
    if (this.#unackedBytes >= this.#ackEveryBytes) this.#acknowledge()
    else this.#acknowledgeLater()
    this.emit('message', message)
  }

  #acknowledgeLater(): void {
    const soon = this.#unackedBytes >= ACK_SOON_BYTES
    if (this.#ackTimer && this.#ackSoon === soon) return
    this.#ackTimer?.cancel()
    this.#ackSoon = soon
    this.#ackTimer = this.#clock.after(soon ? ACK_SOON_MS : ACK_AFTER_MS, () => this.#acknowledge())
  }

  #acknowledge(): void {
    this.#ackTimer?.cancel()
    this.#ackTimer = undefined
    this.#unackedBytes = 0
    this.#sendOwn(encodeNumber(linkType.ACK, this.#received))
  }

  #onLinkMessage(message: Buffer): void {
    const type = message[0] as number
    if (type === linkType.PING) this.#sendOwn(encodeNumber(linkType.PONG, decodeNumber(message)))
    else if (type === linkType.PONG) this.#heartbeat?.pong(decodeNumber(message))
    else if (type === linkType.ANNOUNCEMENT) this.#onAnnouncement(decodeAnnouncement(message))
    else if (type === linkType.ACK) {
      this.#onAck(decodeNumber(message))
    } else if (type <= linkType.ANNOUNCEMENT) {
      throw new TunnelError('PROTOCOL_ERROR', `link message ${type} comes once, first`)
    }
    // Later versions may have more types of messages: ignore those that are not known.
  }

  #onAck(count: number): void {
    if (count < this.#peerReceived || count > this.#replay.sent) {
      const range = `${this.#peerReceived} to ${this.#replay.sent} fit`
      throw new TunnelError('PROTOCOL_ERROR', `${count} messages acknowledged, ${range}`)
    }
    this.#peerReceived = count
    this.#forgetReceived()
    this.#resumeSending()
  }

  /** The first is passed on at once; of those that follow soon after it, the last one, when the time is over. */
  #onAnnouncement(text: string): void {
    if (this.#announcementTimer) {
      this.#heldAnnouncement = text
      return
    }
    this.#announcementTimer = this.#clock.after(ANNOUNCEMENT_INTERVAL_MS, () => {
      this.#announcementTimer = undefined
      const newest = this.#heldAnnouncement
      this.#heldAnnouncement = undefined
      if (newest !== undefined) this.#orBreak(() => this.#onAnnouncement(newest))
    })
    this.emit('announcement', text)
  }

  #acknowledged(count: number): void {
    const before = this.#replay.acknowledged
    const bytes = this.#replay.acknowledge(count)
    if (this.#replay.acknowledged === before) return
    this.#window.acknowledged(count, bytes, this.#clock.now())
    this.#stall.moved({ waiting: this.#carrier !== undefined && this.#replay.bytes > 0 })
  }

  /** After an acknowledgement, a drain or a new carrier: lets the session send again if nothing else prevents it. */
  #resumeSending(): void {
    if (!this.#blocked || !this.#mayGoOn) return
    this.#blocked = false
    this.emit('drain')
  }

  #carrierOnClose(error: TunnelError): void {
    this.#detach()
    if (!isLoss(error)) return this.#end(error)
    this.#state = 'down'
    this.#downSinceMs = this.#clock.now()
    this.#resumeTimer = this.#clock.after(this.#limits.resumeWindowMs, () => {
      this.#end(new TunnelError('RESUME_EXPIRED', `down for ${this.#limits.resumeWindowMs} ms`))
    })
    this.emit('down', error)
  }

  #detach(): Carrier | undefined {
    const carrier = this.#carrier
    this.#carrier = undefined
    this.#carrierFull = false
    this.#waiting.clear()
    this.#bytesReceivedBefore += carrier?.bytesReceived ?? 0
    this.#heartbeat?.stop()
    this.#heartbeat = undefined
    this.#stall.pause()
    this.#ackTimer?.cancel()
    this.#ackTimer = undefined
    return carrier
  }

  #end(error: TunnelError): void {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    this.#resumeTimer?.cancel()
    this.#announcementTimer?.cancel()
    this.#replay.clear()
    this.emit('close', error)
  }
}

/** Whether the carrier was lost and not closed on purpose: then the link stays. */
function isLoss(error: TunnelError): boolean {
  return error.code === 'LINK_LOST' || error.code === 'SUPERSEDED'
}
