/**
 * The life of one caller of a front, from its first byte to its last:
 *
 *     reading the head → dialling → joined to the target        → closed
 *             └──────────────┴────→ refused, with the reason ───┘
 *
 * It knows neither TLS nor where the front listens, and of the far side only a Dial.
 */
import { randomBytes } from 'node:crypto'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import {
  type Clock,
  type Dial,
  type ErrorCode,
  type Principal,
  type Target,
  TunnelError,
  formatPrincipal
} from '@tendril/common'
import type { Log } from '@tendril/common/log'
import type { LimitedLog } from '@tendril/common/log-limiter'
import { resetSocket } from '@tendril/common/reset'
import { splice } from '@tendril/common/splice'
import { formatHostPort } from '@tendril/common/wire/host-port'
import { ESTABLISHED, refusal } from './answer.js'
import { bounded } from './bound.js'
import { type ConnectHead, ConnectParser } from './connect-head.js'
import type { Route } from './route.js'

/** Events of a front, for metrics. Every label comes from a closed set: no address, no name of a caller. */
export interface FrontObserver {
  /**
   * A request was answered. `cluster` is '' when it was refused before one was known. `dialMs`: head read to answer.
   */
  answered(event: {
    front: string
    cluster: string
    code: 'OK' | ErrorCode
    dialMs: number | undefined
  }): void
  /** A caller was joined to a target (1), or such a tunnel ended (-1). */
  open(event: { front: string; cluster: string; change: 1 | -1 }): void
  /** A tunnel ended: the bytes it carried, up to the target and down to the caller. */
  carried(event: { cluster: string; upBytes: number; downBytes: number }): void
}

export type CallerOptions = {
  front: string
  route: Route
  dial: (cluster: string) => Dial
  headerLimitBytes: number
  dialTimeoutMs: number
  firstByteDelayMs: number
  clock: Clock
  log: Log
  /** For what any caller can cause. */
  limitedLog: LimitedLog
  observer: FrontObserver | undefined
}

/** Who has connected to a front. */
export type CallerConnection = {
  socket: Socket
  /** The name that the caller asked for in its TLS hello. */
  serverName?: string | undefined
  /** Undefined: it could not be identified, and will be refused. */
  principal: Principal | undefined
}

/** A trace id is as long as W3C Trace Context has it. */
const TRACE_ID_BYTES = 16

/** Most bytes a caller may send ahead of the 200 before it is no longer read from. */
export const EARLY_LIMIT_BYTES = 65_536

/** How long a refused caller may take to read the answer, in milliseconds. */
export const LINGER_MS = 1_000

export class Caller {
  readonly #socket: Socket
  readonly #options: CallerOptions
  readonly #serverName: string | undefined
  readonly #principal: Principal | undefined
  /** Aborts when the caller has left and no longer waits for an answer. */
  readonly #left = new AbortController()
  /** What came behind the head. Kept, because reading goes on: it is how a caller's leaving is noticed. */
  readonly #early: Buffer[] = []
  #earlyBytes = 0
  #spoke = false
  #joined = false
  #cluster = ''
  #traceId: string | undefined

  constructor({ socket, serverName, principal }: CallerConnection, options: CallerOptions) {
    this.#socket = socket
    this.#serverName = serverName
    this.#principal = principal
    this.#options = options
    // 'close' reports the end; without a listener an error would end the process.
    socket.on('error', error => this.#leave(error.message))
    socket.on('close', () => this.#leave('the connection closed'))
  }

  /**
   * Serves the caller until its end; `headerMs` is what is left of the time for its head, `onHead` is called when that
   * is complete. Never rejects.
   */
  async serve(headerMs: number, onHead: () => void = () => {}): Promise<void> {
    const { front, clock, dialTimeoutMs, dial, route } = this.#options
    const principal = this.#principal
    let dialledAt: number | undefined
    try {
      if (!principal) throw new TunnelError('NOT_IDENTIFIED')
      const { target } = await this.#readHead(headerMs)
      onHead()
      this.#cluster = route(this.#serverName)
      dialledAt = clock.now()
      this.#traceId = randomBytes(TRACE_ID_BYTES).toString('hex')
      const stream = await bounded(dial(this.#cluster), clock)(target, {
        signal: this.#left.signal,
        timeoutMs: dialTimeoutMs,
        principal,
        front,
        traceId: this.#traceId,
        hops: 0
      })
      this.#answered('OK', dialledAt)
      await this.#join(stream, target)
    } catch (error) {
      // A probe that only connects is no request: nothing to answer, nothing to count.
      if (this.#left.signal.aborted && !this.#spoke) return this.destroy()
      this.refuse(TunnelError.from(error), dialledAt)
    }
  }

  /** Answers with the reason and closes. Bytes that still come are read and dropped for a short while. */
  refuse(error: TunnelError, dialledAt?: number): void {
    this.#answered(error.code, dialledAt, error)
    refuse(this.#socket, error, this.#options.clock)
  }

  /** Ends the caller at once. A tunnel is reset rather than ended, so that no half answer looks whole. */
  destroy(): void {
    if (this.#joined) resetSocket(this.#socket)
    else this.#socket.destroy()
  }

  /** Resolves at the end of the head. From then on bytes are kept for the target until `#join` takes them. */
  #readHead(headerMs: number): Promise<ConnectHead> {
    const { clock, headerLimitBytes } = this.#options
    const parser = new ConnectParser(headerLimitBytes)
    return new Promise((resolve, reject) => {
      let head: ConnectHead | undefined
      const settle = (act: () => void): void => {
        timer.cancel()
        signal.removeEventListener('abort', onLeft)
        act()
      }
      const onLeft = (): void => settle(() => reject(TunnelError.from(signal.reason)))
      const { signal } = this.#left
      const timer = clock.after(Math.max(headerMs, 0), () =>
        settle(() => {
          this.#stopReading()
          reject(new TunnelError('HEADER_TIMEOUT'))
        })
      )
      signal.addEventListener('abort', onLeft)
      if (signal.aborted) return onLeft()

      this.#socket.on('end', this.#socketOnEnd)
      this.#socket.on('data', (chunk: Buffer) => {
        this.#spoke = true
        if (head) return this.#keep(chunk)
        try {
          head = parser.feed(chunk)
        } catch (error) {
          this.#stopReading()
          return settle(() => reject(error))
        }
        if (!head) return
        const found = head
        this.#keep(found.rest)
        settle(() => resolve(found))
      })
    })
  }

  #keep(chunk: Buffer): void {
    if (chunk.length === 0) return
    this.#early.push(chunk)
    this.#earlyBytes += chunk.length
    if (this.#earlyBytes >= EARLY_LIMIT_BYTES) this.#socket.pause()
  }

  #stopReading(): void {
    this.#socket.removeAllListeners('data')
    this.#socket.off('end', this.#socketOnEnd)
    this.#socket.pause()
  }

  /**
   * An end behind bytes for the target is a half-close: the request is whole, and its answer is waited for. Behind a
   * bare head it is a caller that gave up: there is nothing that a target could answer.
   */
  readonly #socketOnEnd = (): void => {
    if (this.#earlyBytes === 0) this.#leave('the caller closed its side before the answer')
  }

  #leave(why: string): void {
    // The caller has left: every joined caller ends here.
    if (this.#joined) return
    this.#left.abort(new TunnelError('DIAL_CANCELLED', why))
  }

  /** Writes the 200 and joins caller and target until both are closed. */
  async #join(stream: Duplex, target: Target): Promise<void> {
    const socket = this.#socket
    const { front, clock, log, observer } = this.#options
    const cluster = this.#cluster
    const fields = { ...this.#logFields, target: formatHostPort(target) }
    this.#joined = true
    this.#stopReading()
    const early = this.#early.splice(0)
    // Nothing can be put back into a stream that has ended: its last bytes go to the target from here.
    const unsentBytes = socket.readableEnded ? this.#earlyBytes : 0
    if (!socket.readableEnded) for (const chunk of early.reverse()) socket.unshift(chunk)
    // An error before `splice` listens must not end the process; the stream is destroyed then, which splice sees.
    stream.on('error', () => {})

    const upBefore = socket.bytesRead - socket.readableLength - unsentBytes
    const downBefore = socket.bytesWritten + ESTABLISHED.length
    observer?.open({ front, cluster, change: 1 })
    log.debug(fields, 'tunnel opened')
    if (unsentBytes > 0) for (const chunk of early) stream.write(chunk)
    await this.#writeAlone(ESTABLISHED)
    const stopWaiting = await this.#firstByte()
    const end = splice(socket, stream, { clock })
    stopWaiting()
    const { error } = await end
    observer?.open({ front, cluster, change: -1 })
    const upBytes = Math.max(socket.bytesRead - upBefore, 0)
    const downBytes = Math.max(socket.bytesWritten - downBefore, 0)
    observer?.carried({ cluster, upBytes, downBytes })
    log.debug({ ...fields, upBytes, downBytes, err: error }, 'tunnel ended')
  }

  /** Two writes at once may leave in one segment or TLS record: this one is with the kernel before the next begins. */
  #writeAlone(bytes: Buffer): Promise<void> {
    const socket = this.#socket
    return new Promise(resolve => {
      if (socket.closed) return resolve()
      socket.once('close', resolve)
      socket.write(bytes, () => {
        socket.off('close', resolve)
        resolve()
      })
    })
  }

  /**
   * Waits for the caller to speak, but not long. kube-apiserver fails a dial when a byte of the target is in the
   * same read as the 200; once it has spoken it has read the 200. On a TLS front the delay is a courtesy, a read
   * ends with its record; on a Unix socket it is all there is, and a caller slower than it may see both at once.
   * Resolves to what sets the socket flowing again.
   */
  #firstByte(): Promise<() => void> {
    const socket = this.#socket
    const { clock, firstByteDelayMs } = this.#options
    return new Promise(resolve => {
      // 'readable', not 'data': it takes nothing out, and an early FIN stays where `splice` will find it. It is
      // let go only when `splice` listens: a stream that nobody listens to any more flows into the void.
      const onReadable = (): void => done()
      const done = (): void => {
        timer.cancel()
        socket.off('close', done)
        resolve(() => socket.off('readable', onReadable))
      }
      const timer = clock.after(firstByteDelayMs, done)
      socket.on('close', done)
      socket.on('readable', onReadable)
      if (socket.closed || socket.readableLength > 0) done()
    })
  }

  /** Who asks, and for which cluster. */
  get #logFields(): Record<string, string | undefined> {
    return {
      cluster: this.#cluster,
      remote: this.#socket.remoteAddress,
      principal: this.#principal && formatPrincipal(this.#principal),
      traceId: this.#traceId
    }
  }

  #answered(code: 'OK' | ErrorCode, dialledAt: number | undefined, error?: TunnelError): void {
    const { front, clock, log, limitedLog, observer } = this.#options
    const cluster = this.#cluster
    const dialMs = dialledAt === undefined ? undefined : clock.now() - dialledAt
    observer?.answered({ front, cluster, code, dialMs })
    if (!error) return
    const fields = { ...this.#logFields, dialMs, err: error }
    if (code === 'DIAL_CANCELLED') log.debug(fields, 'caller left')
    else limitedLog.info(fields, 'request refused')
  }
}

/** Answers and closes in stages (RFC 9112 §9.6): a close with unread input would be a RST, and eat the answer. */
export function refuse(socket: Socket, error: TunnelError, clock: Clock, lingerMs = LINGER_MS): void {
  if (socket.destroyed) return
  const timer = clock.after(lingerMs, () => socket.destroy())
  socket.once('close', () => timer.cancel())
  socket.on('error', () => {})
  socket.resume()
  socket.end(refusal(error))
}
