/**
 * Sources of the addresses of the other replicas: a static list, or a DNS name that resolves to all of them (a headless
 * Service). Addresses may appear and disappear, and this server's own may be among them. A source does not know which
 * server answers at an address. The third source, Kubernetes Leases, is leases.ts.
 */
import { type Clock, type Timer, TunnelError, systemClock } from '@tendril/common'
import type { Log } from '@tendril/common/log'
import { type Resolve, createResolve } from '@tendril/common/resolve'
import { formatHostPort } from '@tendril/common/wire/host-port'

export interface PeerSource {
  /**
   * Calls `onAddresses` with all addresses (`host:port`) as soon as they are known, and again when they change. Calls
   * `onFailure` each time that they could not be read, and tries again.
   */
  start(onAddresses: (addresses: readonly string[]) => void, onFailure: () => void): void
  /** Removes this server from the source, so that others no longer find it. */
  leave(): Promise<void>
  /** Makes no more calls from now on. May be called twice. */
  stop(): Promise<void>
}

export function staticSource(addresses: readonly string[]): PeerSource {
  return { start: onAddresses => onAddresses(addresses), leave: async () => {}, stop: async () => {} }
}

export type DnsSourceOptions = {
  /** A name that resolves to the addresses of all replicas. */
  host: string
  port: number
  /** Time between two lookups, in milliseconds. Default 2000. */
  intervalMs?: number
  resolve?: Resolve
  clock?: Clock
  log: Log
}

export const RESOLVE_INTERVAL_MS = 2_000

export function dnsSource(options: DnsSourceOptions): PeerSource {
  const { host, port, intervalMs = RESOLVE_INTERVAL_MS, clock = systemClock, log } = options
  const resolve = options.resolve ?? createResolve()
  const over = new AbortController()
  let timer: Timer | undefined
  let logged: string | undefined

  const ask = async (
    onAddresses: (addresses: readonly string[]) => void,
    onFailure: () => void
  ): Promise<void> => {
    try {
      const hosts = await resolve(host, over.signal)
      if (over.signal.aborted) return
      logged = undefined
      onAddresses([...hosts].sort().map(host => formatHostPort({ host, port })))
    } catch (error) {
      if (over.signal.aborted) return
      // The known addresses stay: links continue while DNS fails.
      const { message } = TunnelError.from(error)
      if (message !== logged) log.warn({ name: host, reason: message }, 'peers not resolved, asking again')
      logged = message
      onFailure()
    }
    timer = clock.after(intervalMs, () => void ask(onAddresses, onFailure))
  }
  return {
    start: (onAddresses, onFailure) => void ask(onAddresses, onFailure),
    leave: async () => {},
    async stop() {
      over.abort(new TunnelError('CLOSED', 'stopped'))
      timer?.cancel()
    }
  }
}
