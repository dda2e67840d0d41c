/**
 * The socket towards a TCP target: a net.Socket that loses nothing of what a target said, as far as TCP has it.
 *
 * - Destroyed with an error it sends RST instead of FIN, as the Dial contract asks: half a request is not a whole one.
 * - A RST that comes together with the last bytes is not taken for an end.
 * - When writing fails, what the target said before is still read: the kernel keeps that, Node would close on it.
 * - A target that has ended answers a late word with RST, and its kernel drops what it had yet to send. So when it had
 * to   wait for us because the link was down, it is read before it is written to. One that waits for a caller who does
 * not   read is written to at once: Ctrl-C must not wait for what it interrupts.
 */
import { readSync } from 'node:fs'
import { Socket } from 'node:net'
import type { SocketConstructorOpts, TcpNetConnectOpts } from 'node:net'
import { type Clock, systemClock } from '@tendril/common'
import { UNREAD_TIMEOUT_MS, whileMoving } from '@tendril/common/linger'
import { allocMessage } from '@tendril/common/message-buffer'

/** Who could not speak for so long, while the link was down, is read before anything is said to it, in milliseconds. */
export const STALLED_MS = 2_000
/** But for no longer than this: not everyone is about to end. Once per stall, in milliseconds. */
export const CATCH_UP_MS = 5_000
/** Nothing came for so long while we read: caught up. In milliseconds. */
const QUIET_MS = 100

type Written = (error?: Error | null) => void
type SystemError = NodeJS.ErrnoException

/**
 * A full message. libuv by itself asks for half of it, and the kernel wakes both sides twice as often (5 % of CPU in
 * bulk).
 */
const READ_BYTES = 128 << 10

/**
 * All sockets read into this one, and what came is copied at once into memory that is used again when it was sent.
 * Node's own way, new memory for each read, costs the client a tenth more CPU time.
 */
const readBuffer = Buffer.allocUnsafeSlow(READ_BYTES)

export type TargetSocketOptions = SocketConstructorOpts & {
  clock?: Clock | undefined
  /** How long last words wait for a reader who takes nothing, in milliseconds. Default 300 000. */
  unreadTimeoutMs?: number | undefined
  /** When a link last came back, by the same clock. Default: never. */
  resumedAtMs?: (() => number) | undefined
}

const never = (): number => -Infinity

export class TargetSocket extends Socket {
  readonly #clock: Clock
  readonly #unreadTimeoutMs: number
  readonly #resumedAtMs: () => number
  #pausedAtMs = 0
  /** The stall that writing has waited for. */
  #heldForMs: number | undefined
  /** A write found the target gone, while there is more to be read. */
  #writeFailed: { error: SystemError; done: Written } | undefined

  constructor(options: TargetSocketOptions) {
    const { clock = systemClock, unreadTimeoutMs = UNREAD_TIMEOUT_MS, resumedAtMs = never, ...rest } = options
    const onread = { buffer: readBuffer, callback: (bytes: number) => this.#received(bytes) }
    super({ ...rest, onread } as SocketConstructorOpts)
    this.#clock = clock
    this.#unreadTimeoutMs = unreadTimeoutMs
    this.#resumedAtMs = resumedAtMs
  }

  /** As Node does it, but for the memory. */
  #received(bytes: number): boolean {
    const chunk = allocMessage(bytes)
    readBuffer.copy(chunk, 0, 0, bytes)
    return this.push(chunk)
  }

  override _write(chunk: Buffer, encoding: BufferEncoding, done: Written): void {
    this.#caughtUp(() => super._write(chunk, encoding, error => this.#written(error, done)))
  }

  override _writev(chunks: { chunk: Buffer; encoding: BufferEncoding }[], done: Written): void {
    this.#caughtUp(() => super._writev?.(chunks, error => this.#written(error, done)))
  }

  override pause(): this {
    if (!this.isPaused()) this.#pausedAtMs = this.#clock.now()
    return super.pause()
  }

  /** Writes now, or after a stall when what the target had to say is read. */
  #caughtUp(write: () => void): void {
    if (!this.isPaused()) return write()
    const now = this.#clock.now()
    const stalled = this.#resumedAtMs() >= this.#pausedAtMs + STALLED_MS
    if (!stalled || this.#heldForMs === this.#pausedAtMs) return write()
    this.#heldForMs = this.#pausedAtMs
    let readBefore = this.bytesRead
    const look = (): void => {
      if (this.destroyed) return
      const moving = this.isPaused() || this.bytesRead !== readBefore
      if (!moving || this.readableEnded || this.#clock.now() - now >= CATCH_UP_MS) return write()
      readBefore = this.bytesRead
      this.#clock.after(QUIET_MS, look)
    }
    this.#clock.after(QUIET_MS, look)
  }

  #written(error: SystemError | null | undefined, done: Written): void {
    const goneWhileReading = error?.syscall === 'write' && !this.readableEnded && !this.destroyed
    if (!goneWhileReading) return done(error)
    this.#writeFailed = { error, done }
    const giveUp = (): void => done(error)
    const bound = whileMoving(this.#clock, this.#unreadTimeoutMs, () => this.bytesRead, giveUp)
    this.once('end', giveUp).once('close', () => bound.cancel())
  }

  override push(chunk: Buffer | null, encoding?: BufferEncoding): boolean {
    const broken = chunk === null ? this.#brokenAtEnd() : undefined
    if (!broken) return super.push(chunk, encoding)
    if (this.#writeFailed) this.#writeFailed.done(broken)
    else this.destroy(broken)
    return false
  }

  /** Why the end that the kernel speaks of is none. */
  #brokenAtEnd(): SystemError | undefined {
    // It says each error once. EPIPE (Linux): the target's FIN was here before its RST, its answer is whole.
    if (this.#writeFailed) {
      const { error } = this.#writeFailed
      return error.code === 'EPIPE' && process.platform === 'linux' ? undefined : error
    }
    // libuv takes a hang-up right behind bytes for an end and asks no further; a RST is then still to be heard. Only
    // the handle knows the descriptor: Node has no public name for it, and without one (elsewhere than on Unix) nobody
    // is asked.
    const { fd = -1 } = (this as unknown as { _handle: { fd?: number } | null })._handle ?? {}
    if (fd < 0 || this.connecting) return undefined
    try {
      readSync(fd, Buffer.alloc(1))
      return undefined
    } catch (error) {
      return (error as SystemError).code === 'EAGAIN' ? undefined : (error as SystemError)
    }
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    // Being destroyed already, this call only chooses how the handle is closed.
    if (error && !this.connecting) this.resetAndDestroy()
    super._destroy(error, callback)
  }

  override resetAndDestroy(): this {
    // While libuv is shutting down the writing side (one turn of its loop) it refuses to reset (EINVAL), and Node
    // then forgets the handle unclosed. All bytes and the FIN are with the kernel by then: closing loses nothing.
    const shuttingDown = this.writableEnded && this.writableLength === 0 && !this.writableFinished
    return shuttingDown ? this.destroy() : super.resetAndDestroy()
  }
}

/** Makes the socket and begins to connect it. Node reads `noDelay` and `keepAlive` in the constructor only. */
export function connectTarget(
  options: TcpNetConnectOpts,
  own: Pick<TargetSocketOptions, 'clock' | 'resumedAtMs'> = {}
): TargetSocket {
  const { allowHalfOpen, noDelay, keepAlive, keepAliveInitialDelay } = options
  const socketOptions = { allowHalfOpen, noDelay, keepAlive, keepAliveInitialDelay } as SocketConstructorOpts
  return new TargetSocket({ ...socketOptions, ...own }).connect(options)
}
