/**
 * Dials targets inside the workload cluster: validates, resolves, asks the policy about every address, connects to
 * one that passed. The innermost Dial of the tunnel; speaks TCP. The order is the point: a name is resolved before
 * the policy is asked, and the socket goes to the address that was checked (DNS rebinding has no second answer).
 */
import type { Socket, TcpNetConnectOpts } from 'node:net'
import { isIP } from 'node:net'
import { TunnelError } from '@tendril/common'
import type { Clock, Dial, ErrorCode, Target } from '@tendril/common'
import type { Policy } from '@tendril/common/policy/policy'
import { ATTEMPT_DELAY_MS, race, RaceError } from '@tendril/common/race'
import { createResolve } from '@tendril/common/resolve'
import type { Resolve } from '@tendril/common/resolve'
import { formatHostPort, parseHostPort } from '@tendril/common/wire/host-port'
import { codeOf, connectFailed, resolveFailed } from './failure.js'
import { connectTarget } from './tcp.js'

export type TargetDialOptions = {
  policy: Policy
  clock: Clock
  /** Default: that of common/resolve. */
  resolve?: Resolve
  limits?: {
    /** Dials under way at once. Beyond it a dial is refused with `OVERLOADED`. Default 8192, as many as streams. */
    maxPendingDials?: number
    /** How long an address is tried alone, in milliseconds. Default 250. */
    attemptDelayMs?: number
  }
  metrics?: TargetMetrics
  /** When a link of this client last came back, in milliseconds of `clock`. Default: never. */
  resumedAtMs?: () => number
  /** Makes and connects a socket; for tests. */
  connect?: (options: TcpNetConnectOpts) => Socket
}

/** What is counted here, said by whom it happens to. */
export interface TargetMetrics {
  /** A dial ended, well or not, after `durationMs`. */
  dialEnded(code: ErrorCode | 'OK', durationMs: number): void
  /** A connection is open from now until it closes. */
  connectionOpened(socket: Socket): void
}

export const MAX_PENDING_DIALS = 8192
/** Most addresses of one name that are tried: a name with more is somebody's test of our patience. */
export const MAX_ADDRESSES = 32

/**
 * Makes the Dial. Rejects with `BAD_TARGET`, `TARGET_DENIED`, `TARGET_NOT_FOUND`, `TARGET_REFUSED`,
 * `TARGET_UNREACHABLE`, `TARGET_RESET`, `DIAL_TIMEOUT`, `DIAL_CANCELLED` or `OVERLOADED`. The Duplex is a socket
 * with half-close, paused, nothing read.
 */
export function createTargetDial(options: TargetDialOptions): Dial {
  const { policy, clock, resolve = createResolve(), limits = {}, metrics } = options
  const { resumedAtMs } = options
  const { connect = (where: TcpNetConnectOpts) => connectTarget(where, { clock, resumedAtMs }) } = options
  const { maxPendingDials = MAX_PENDING_DIALS, attemptDelayMs = ATTEMPT_DELAY_MS } = limits
  let pendingDials = 0

  /** The addresses that may be connected to. */
  async function addressesOf(host: string, port: number, signal: AbortSignal): Promise<string[]> {
    const named = isIP(host) === 0
    const found = named ? await lookUp(host, signal) : [host]
    let refusal = ''
    const allowed = found.filter(address => {
      const verdict = policy.check(address, port)
      if (!verdict.allowed)
        refusal ||= `${named ? `${host} is ${address}, ` : ''}by the client's policy (${verdict.rule})`
      return verdict.allowed
    })
    if (allowed.length === 0) throw new TunnelError('TARGET_DENIED', refusal)
    return allowed.slice(0, MAX_ADDRESSES)
  }

  async function lookUp(name: string, signal: AbortSignal): Promise<string[]> {
    try {
      const addresses = await resolve(name, signal)
      if (addresses.length > 0) return addresses
    } catch (error) {
      throw signal.aborted ? signal.reason : resolveFailed(name, error as NodeJS.ErrnoException)
    }
    throw new TunnelError('TARGET_NOT_FOUND', `${name} has no address`)
  }

  async function dialTcp(target: Target, { signal, progress }: Bound): Promise<Socket> {
    const { host, port } = readTarget(target)
    const where = progress.waitingFor
    if (isIP(host) === 0) progress.waitingFor = `the nameserver asked for ${host}`
    const addresses = await addressesOf(host, port, signal)
    progress.waitingFor = where
    try {
      const socket = await race({
        addresses,
        port,
        signal,
        clock,
        attemptDelayMs,
        allowHalfOpen: true,
        connect
      })
      // Reset in the very turn of the loop in which it connected.
      if (socket.destroyed)
        throw new TunnelError(codeOf(socket.errored ?? resetError), formatHostPort({ host, port }))
      return socket
    } catch (error) {
      if (!(error instanceof RaceError)) throw error
      throw connectFailed(formatHostPort({ host, port }), isIP(host) === 0, error.failures, error)
    }
  }

  return async (target, { signal, timeoutMs }) => {
    const startedMs = clock.now()
    const bound = bounded(signal, clock, timeoutMs, describe(target))
    let code: ErrorCode | 'OK' = 'OK'
    pendingDials++
    try {
      if (target.proto !== 'tcp')
        throw new TunnelError('BAD_TARGET', `${target.proto} is not supported by this client`)
      if (pendingDials > maxPendingDials) {
        throw new TunnelError('OVERLOADED', `the client has ${maxPendingDials} dials under way`)
      }
      const socket = await dialTcp(target, bound)
      metrics?.connectionOpened(socket)
      return socket
    } catch (error) {
      const failure = TunnelError.from(error)
      code = failure.code
      throw failure
    } finally {
      pendingDials--
      bound.release()
      metrics?.dialEnded(code, clock.now() - startedMs)
    }
  }
}

const resetError: NodeJS.ErrnoException = Object.assign(new Error('closed'), { code: 'ECONNRESET' })

/** Accepts only what has one meaning: the same rule as for the authority of a CONNECT. */
function readTarget({ host, port }: Target): { host: string; port: number } {
  return parseHostPort(formatHostPort({ host, port }))
}

/** For sentences that are made before the target is known to be well formed. */
function describe({ host, port }: Target): string {
  return formatHostPort({ host, port }).slice(0, 300)
}

/** A signal that aborts with the caller's, or when time is up; its reason is the TunnelError to reject with. */
function bounded(outer: AbortSignal, clock: Clock, timeoutMs: number, where: string) {
  const controller = new AbortController()
  /** Who has to answer next, kept up to date so that a timeout can say it. */
  const progress = { waitingFor: where }
  const onAbort = (): void =>
    controller.abort(new TunnelError('DIAL_CANCELLED', where, { cause: outer.reason }))
  const timer = clock.after(timeoutMs, () =>
    controller.abort(
      new TunnelError(
        'DIAL_TIMEOUT',
        `${progress.waitingFor} did not answer within ${Math.round(timeoutMs)} ms`
      )
    )
  )
  if (outer.aborted) onAbort()
  else outer.addEventListener('abort', onAbort, { once: true })
  const release = (): void => {
    timer.cancel()
    outer.removeEventListener('abort', onAbort)
  }
  return { signal: controller.signal, progress, release }
}

type Bound = Pick<ReturnType<typeof bounded>, 'signal' | 'progress'>
