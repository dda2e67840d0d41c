/**
 * Connects to the first of several addresses that answers ("happy eyeballs", RFC 8305 sections 4 and 5). Takes
 * addresses, never names, so that it cannot connect to one that nobody checked. Written by hand because Node's own
 * race (autoSelectFamily) breaks an attempt off after its delay instead of letting it run beside the next.
 */
import { connect as connectTcp, isIPv6 } from 'node:net'
import type { Socket, TcpNetConnectOpts } from 'node:net'
import type { Clock, Timer } from './clock.js'

export type RaceOptions = {
  /** IP literals, most preferred first; at least one. */
  addresses: readonly string[]
  port: number
  /** Aborting destroys every attempt; the race then rejects with the signal's reason. */
  signal: AbortSignal
  clock: Clock
  /** How long an attempt runs alone, in milliseconds. Default 250 (RFC 8305 section 8). */
  attemptDelayMs?: number
  /** Half-close of the sockets. Default false. */
  allowHalfOpen?: boolean
  /** Makes and connects a socket. Default net.connect. */
  connect?: (options: TcpNetConnectOpts) => Socket
}

export type Failure = { address: string; error: NodeJS.ErrnoException }

/** Every address failed: `failures` says how, in the order of events. */
export class RaceError extends Error {
  override readonly name = 'RaceError'
  readonly failures: readonly Failure[]

  constructor(failures: readonly Failure[]) {
    super(failures.map(({ address, error }) => `${address}: ${error.code ?? error.message}`).join(', '))
    this.failures = failures
  }
}

export const ATTEMPT_DELAY_MS = 250
/** Below the 60 s and 350 s after which load balancers and NAT forget an idle connection. */
export const KEEP_ALIVE_MS = 55_000

const ignore = (): void => {}

/** RFC 8305 section 4: the families take turns, beginning with that of the most preferred address. */
export function interleave(addresses: readonly string[]): string[] {
  const first = addresses.filter(address => isIPv6(address) === isIPv6(addresses[0] ?? ''))
  const second = addresses.filter(address => !first.includes(address))
  const longer = Math.max(first.length, second.length)
  return Array.from({ length: longer }, (_, i) => [first[i], second[i]])
    .flat()
    .filter(address => address !== undefined)
}

/**
 * Resolves with a connected socket from which nothing was read. It keeps an error listener, so that a connection
 * broken before its new owner listens does not end the process: look at `destroyed` before use.
 */
export function race(options: RaceOptions): Promise<Socket> {
  const { addresses, port, signal, clock, attemptDelayMs = ATTEMPT_DELAY_MS, connect = connectTcp } = options
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason)
    const waiting = interleave(addresses)
    const running = new Set<Socket>()
    const failures: Failure[] = []
    let timer: Timer | undefined

    const finish = (): void => {
      timer?.cancel()
      signal.removeEventListener('abort', onAbort)
      for (const socket of running) socket.destroy()
      running.clear()
    }
    const onAbort = (): void => {
      finish()
      reject(signal.reason)
    }
    const startNext = (): void => {
      timer?.cancel()
      const address = waiting.shift()
      if (address !== undefined) start(address)
      else if (running.size === 0) {
        finish()
        reject(new RaceError(failures))
      }
    }
    const start = (address: string): void => {
      const { allowHalfOpen = false } = options
      const keepAlive = { keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE_MS }
      const socket = connect({ host: address, port, allowHalfOpen, noDelay: true, ...keepAlive })
      running.add(socket)
      // The listener that stays holds nothing of the race.
      socket.on('error', ignore)
      const onError = (error: Error): void => {
        if (!running.delete(socket)) return
        failures.push({ address, error })
        startNext()
      }
      socket.once('error', onError)
      socket.once('connect', () => {
        socket.off('error', onError)
        running.delete(socket)
        finish()
        resolve(socket)
      })
      if (waiting.length > 0) timer = clock.after(attemptDelayMs, startNext)
    }

    signal.addEventListener('abort', onAbort)
    startNext()
  })
}
