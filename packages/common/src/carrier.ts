/**
 * An ordered pipe of whole messages: what the multiplexer needs from below. One WebSocket is a Carrier; a
 * resumable link, made of successive Carriers, is one too.
 */
import type { ErrorCode, TunnelError } from './errors.js'

/** Most bytes of one message, on every Carrier. A larger one ends the pipe before it is buffered. */
export const MESSAGE_LIMIT_BYTES = 1_048_576

export interface CarrierEvents {
  /** One whole message, in order. The receiver owns the bytes; a Carrier never writes to them again. */
  message: [message: Buffer]
  /**
   * Bytes were received, even if they are only part of a message. At most once in a turn of the event loop, before its
   * messages.
   */
  bytes: []
  /** After `send` returned false: there is room again. */
  drain: []
  /**
   * Once, last: after all messages that came before it. No `message` follows. The error says why; code `CLOSED` is the
   * normal end.
   */
  close: [error: TunnelError]
}

export interface Carrier {
  /**
   * Queues one message, and takes over the caller's hold on it (message-buffer.ts): the Carrier reads its bytes until
   * they have left, may write its header in front of them, and then lets go. What arrives at the other side is other
   * memory.
   * @returns false when the caller should wait for `drain`; the message is queued all the same. After the end
   * the message is dropped and the result is true: `close` has reported the end.
   */
  send(message: Buffer): boolean
  /** Ends the pipe after what was sent. The other side's `close` has the same code and detail. May be called twice. */
  close(code: ErrorCode, detail?: string): void
  /** Ends at once without a message to the peer, which is gone. `close` has `error`. */
  terminate(error: TunnelError): void
  /**
   * No `message` until `resume`, and no `close` while messages wait. What the peer sends meanwhile waits mostly outside
   * of this process. For short pauses: a receiver whose share of this turn is used up. Idempotent.
   */
  pause(): void
  /** Messages come again, in a later turn of the event loop. Idempotent. */
  resume(): void
  /** Bytes received so far, parts of messages included. Any byte shows that the peer is alive. */
  readonly bytesReceived: number
  on<E extends keyof CarrierEvents>(event: E, listener: (...args: CarrierEvents[E]) => void): this
  off<E extends keyof CarrierEvents>(event: E, listener: (...args: CarrierEvents[E]) => void): this
}
