/**
 * One WebSocket as a Carrier: a binary message is a message, the close code carries ours. It knows neither who
 * connected nor how; both ends make it from an open socket. The options here are the ones measured to matter.
 */
import { EventEmitter } from 'node:events'
import type { Duplex } from 'node:stream'
import { WebSocket, type ClientOptions, type RawData } from 'ws'
import { type Carrier, type CarrierEvents, MESSAGE_LIMIT_BYTES } from '../carrier.js'
import { type ErrorCode, TunnelError, errorCodeOf, errors } from '../errors.js'
import { receiveScheduler } from '../fair-scheduler.js'
import { headroomOf, releaseMessage } from '../message-buffer.js'
import { Queue } from '../queue.js'
import { SlicedReads } from './sliced-reads.js'

/** Name of the protocol in `Sec-WebSocket-Protocol`: both sides insist on it. */
export const WEBSOCKET_PROTOCOL = 'tendril.v1'

/** Path of the upgrade request. */
export const TUNNEL_PATH = '/tunnel'

/** Header of the server's answer to the upgrade: the id of the server. */
export const SERVER_HEADER = 'tendril-server'

/** Bytes queued towards the network before `send` answers false. More would only make short messages wait. */
const SEND_BUFFER_BYTES = 256 << 10

/** What a message on its way keeps alive beside its bytes: four objects here and in Node. Counted with them. */
const SEND_OVERHEAD_BYTES = 512

/**
 * A message takes one unit of the share of its carrier, and one more for each of these bytes: what costs is the
 * message, not its bytes. With 4 KiB a bulk transfer paused its socket after each message, for 10 % more CPU per GiB.
 */
const UNIT_BYTES = 32 << 10

/**
 * Most pieces that one message may come in, as WebSocket fragments or as reads of the socket: each keeps a few hundred
 * bytes beside its own. Ours come in one fragment, and 1 MiB in packets of 536 bytes makes 2000 reads.
 */
const FRAGMENT_LIMIT = 1_024
const CHUNK_LIMIT = 4_096

/** How long the closing handshake may take, in milliseconds, before the socket is destroyed. */
const CLOSE_TIMEOUT_MS = 2_000

/** RFC 6455 §7.4.2: 4000-4999 are for private use. */
const CLOSE_CODE_BASE = 4_000

/** Options for `ws` on both ends. */
export const websocketOptions = {
  /** Streams carry TLS mostly: deflating costs memory and finds nothing. */
  perMessageDeflate: false,
  maxPayload: MESSAGE_LIMIT_BYTES,
  maxFragments: FRAGMENT_LIMIT,
  maxBufferedChunks: CHUNK_LIMIT,
  /** `ws` would queue an answer to every ping, without end for a peer that does not read them. */
  autoPong: false,
  closeTimeout: CLOSE_TIMEOUT_MS
} as const

/** Client only: TLS protects the bytes already, and with a mask of zeros `ws` skips the masking pass. */
export const websocketClientOptions: ClientOptions = {
  ...websocketOptions,
  generateMask: mask => mask.fill(0)
}

export class WebSocketCarrier extends EventEmitter<CarrierEvents> implements Carrier {
  readonly #websocket: WebSocket
  readonly #socket: Duplex & { readonly bytesRead: number }
  /** Clients mask, servers do not (RFC 6455 §5.1). */
  readonly #masked: boolean
  readonly #reads: SlicedReads
  /** Messages that the socket has not let go of, in order. */
  readonly #leaving = new Queue<Buffer>()
  #blocked = false
  /**
   * Messages that have come and wait for their turn. The socket is paused as soon as one does: what waits are those of
   * one slice of a read, and before they are parsed the rest of that read, 16 KiB over TLS and 64 KiB without.
   */
  readonly #inbox = new Queue<Buffer>()
  readonly #share = receiveScheduler.share(() => this.#takeShare())
  /** The receiver has asked for a pause. */
  #paused = false
  /** We do not read the socket for now. */
  #holding = false
  /** Why the carrier ended, while messages that were received before wait. */
  #lastly: TunnelError | undefined
  /** The newest ping's answer, while the one before it is on its way. */
  #pong: Buffer | undefined
  #isPonging = false
  /** The turn for which `bytes` was said. */
  #bytesTurn = -1
  #over = false
  #cause: Error | undefined
  /** What our side closed with; the peer's echo of it says nothing new. */
  #closing: TunnelError | undefined

  /**
   * An open WebSocket and the socket under it (TLS or TCP). `ws` shakes hands, reads, and speaks control frames; data
   * frames are written here, header and message in one piece. A client must have been made with
   * `websocketClientOptions`.
   */
  constructor(websocket: WebSocket, socket: Duplex & { readonly bytesRead: number }) {
    super()
    this.#websocket = websocket
    this.#socket = socket
    // Only the side that connected knows a URL.
    this.#masked = Boolean(websocket.url)
    websocket.binaryType = 'nodebuffer'
    websocket.on('message', (data, isBinary) => this.#websocketOnMessage(data, isBinary))
    websocket.on('ping', data => this.#websocketOnPing(data))
    websocket.on('error', error => (this.#cause = error))
    websocket.on('close', (code, reason) => this.#endLast(this.#closing ?? this.#reasonOf(code, reason)))
    this.#reads = new SlicedReads(socket, {
      onBytes: () => this.#socketOnBytes(),
      mayGoOn: () => !this.#holding || this.#over || this.#closing !== undefined
    })
  }

  get bytesReceived(): number {
    return this.#socket.bytesRead
  }

  send(message: Buffer): boolean {
    if (this.#over || this.#closing || this.#websocket.readyState !== WebSocket.OPEN) {
      releaseMessage(message)
      return true
    }
    this.#leaving.push(message)
    writeFrame(this.#socket, message, this.#masked, this.#sent)
    if (this.#sendingBytes < SEND_BUFFER_BYTES) return true
    this.#blocked = true
    return false
  }

  /** Memory of what has not left for the kernel. */
  get #sendingBytes(): number {
    return this.#socket.writableLength + this.#leaving.length * SEND_OVERHEAD_BYTES
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    if (!this.#paused) return
    this.#paused = false
    this.#share.wait()
  }

  close(code: ErrorCode, detail = ''): void {
    if (this.#over || this.#closing) return
    this.#closing = new TunnelError(code, detail || undefined)
    if (this.#lastly) return this.#end(this.#closing)
    // The peer's answer to it must be read.
    this.#inbox.clear()
    this.#reads.goOn()
    this.#websocket.resume()
    this.#websocket.close(CLOSE_CODE_BASE + errors[code].reset, cutReason(detail))
  }

  terminate(error: TunnelError): void {
    this.#end(error)
    this.#websocket.terminate()
  }

  /** Called when a message has left for the kernel; made once, not per message. */
  readonly #sent = (error?: Error | null): void => {
    const message = this.#leaving.shift()
    // A socket that failed may still read what it was given: that memory is left to the garbage collector.
    if (message && !error) releaseMessage(message)
    if (this.#blocked && this.#sendingBytes < SEND_BUFFER_BYTES / 2) {
      this.#blocked = false
      this.emit('drain')
    }
  }

  /** Bulk over TLS is read in pieces of 16 KiB, a hundred in one turn: the first says all that the others would. */
  #socketOnBytes(): void {
    const turn = receiveScheduler.enter()
    if (turn === this.#bytesTurn) return
    this.#bytesTurn = turn
    this.emit('bytes')
  }

  #websocketOnMessage(data: RawData, isBinary: boolean): void {
    if (this.#over || this.#closing) return
    if (!isBinary) return this.close('PROTOCOL_ERROR', 'messages are binary')
    this.#reads.count()
    if (!this.#paused && this.#inbox.length === 0 && !this.#share.isExhausted)
      return this.#receive(data as Buffer)
    this.#inbox.push(data as Buffer)
    this.#hold()
  }

  #receive(message: Buffer): void {
    this.#share.charge(1 + Math.floor(message.length / UNIT_BYTES))
    this.emit('message', message)
  }

  /** No more from the socket until the next turn of this carrier. */
  #hold(): void {
    if (!this.#holding) this.#websocket.pause()
    this.#holding = true
    if (!this.#paused) this.#share.wait()
  }

  /** Delivers a share of what waits; when nothing is left, reads the socket again or reports the end. */
  #takeShare(): void {
    while (!this.#over && !this.#closing && !this.#paused && !this.#share.isExhausted) {
      const message = this.#inbox.shift()
      if (!message) break
      this.#receive(message)
    }
    if (this.#over || this.#closing || this.#paused) return
    if (this.#inbox.length > 0) return this.#share.wait()
    if (this.#lastly) return this.#end(this.#lastly)
    this.#holding = false
    this.#reads.goOn()
    if (!this.#holding) this.#websocket.resume()
  }

  /** RFC 6455 §5.5.3: a pong to the newest ping will do. One is on its way, one waits; `ws` would queue them all. */
  #websocketOnPing(data: Buffer): void {
    if (this.#over || this.#closing) return
    this.#reads.count()
    this.#share.charge(1)
    if (this.#share.isExhausted) this.#hold()
    // `data` is a view of all that was read.
    this.#pong = Buffer.from(data)
    this.#sendPong()
  }

  #sendPong(): void {
    if (!this.#pong || this.#isPonging) return
    this.#isPonging = true
    this.#websocket.pong(this.#pong, undefined, () => {
      this.#isPonging = false
      this.#sendPong()
    })
    this.#pong = undefined
  }

  #reasonOf(code: number, reason: Buffer): TunnelError {
    const cause = this.#cause
    if (isRule(cause)) return new TunnelError('PROTOCOL_ERROR', cause?.message, { cause })
    if (code === 1009)
      return new TunnelError('PROTOCOL_ERROR', `a message has at most ${MESSAGE_LIMIT_BYTES} bytes`)
    if (code >= CLOSE_CODE_BASE)
      return new TunnelError(errorCodeOf(code - CLOSE_CODE_BASE), reason.toString() || undefined)
    if (code === 1006) return new TunnelError('LINK_LOST', cause?.message, { cause })
    return new TunnelError('LINK_LOST', `closed with WebSocket code ${code}`)
  }

  /** The WebSocket is closed; messages that were received before are delivered first. */
  #endLast(error: TunnelError): void {
    if (this.#closing || (this.#inbox.length === 0 && !this.#paused)) this.#end(error)
    else this.#lastly = error
  }

  #end(error: TunnelError): void {
    if (this.#over) return
    this.#over = true
    this.#inbox.clear()
    this.emit('close', error)
  }
}

/** Smaller messages are copied behind their header; larger ones have room for it in front. */
const COPIED_BYTES = 4_096

/**
 * Writes one binary message as one unfragmented frame (RFC 6455 §5.2): FIN and opcode 2, the length in 7, 16 or 64
 * bits, a masking key of zeros when masked. One write is one pass of TLS over the bytes; the two writes that `ws`
 * makes were first copied together in fresh, zeroed memory.
 */
function writeFrame(
  socket: Duplex,
  message: Buffer,
  masked: boolean,
  sent: (error?: Error | null) => void
): void {
  const { length } = message
  const lengthBytes = length < 126 ? 0 : length < 65_536 ? 2 : 8
  const headerBytes = 2 + lengthBytes + (masked ? 4 : 0)
  const inPlace = headroomOf(message) >= headerBytes
  const frame = inPlace
    ? Buffer.from(message.buffer, message.byteOffset - headerBytes, headerBytes + length)
    : Buffer.allocUnsafe(headerBytes + (length <= COPIED_BYTES ? length : 0))

  frame[0] = 0x82
  frame[1] = (masked ? 0x80 : 0) | (lengthBytes === 0 ? length : lengthBytes === 2 ? 126 : 127)
  if (lengthBytes === 2) frame.writeUInt16BE(length, 2)
  if (lengthBytes === 8) frame.writeBigUInt64BE(BigInt(length), 2)
  if (masked) frame.writeUInt32BE(0, 2 + lengthBytes)

  if (inPlace) return void socket.write(frame, sent)
  if (length <= COPIED_BYTES) {
    message.copy(frame, headerBytes)
    return void socket.write(frame, sent)
  }
  socket.cork()
  socket.write(frame)
  socket.write(message, sent)
  socket.uncork()
}

/** `ws` found a broken WebSocket frame, rather than a broken line. */
function isRule(cause: (Error & { code?: string }) | undefined): boolean {
  return cause?.code?.startsWith('WS_ERR_') === true
}

/** RFC 6455 §5.5: a control frame carries 125 bytes at most, two of them the code. */
function cutReason(text: string): Buffer {
  const bytes = Buffer.from(text)
  if (bytes.length <= 123) return bytes
  let end = 123
  while (((bytes[end] as number) & 0xc0) === 0x80) end--
  return bytes.subarray(0, end)
}
