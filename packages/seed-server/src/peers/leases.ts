/**
 * Finds the other replicas by Kubernetes Leases: each server renews a Lease with its address, and watches those of the
 * others. Serving does not need the API: while it fails or refuses, the known addresses stay and the request is
 * repeated. A Lease is valid as long as it changes, by the clock of the server that watches: wall clocks need not
 * agree.
 */
import { type Clock, type Timer, TunnelError, systemClock } from '@tendril/common'
import { createBackoff } from '@tendril/common/backoff'
import type { Log } from '@tendril/common/log'
import { type Lease, type LeaseApi, type LeaseApiOptions, openLeaseApi } from './lease-api.js'
import type { PeerSource } from './source.js'

export type LeaseSourceOptions = LeaseApiOptions & {
  /** Id of this server. */
  holder: string
  /** `host:port` at which the others reach its tunnel listener. */
  address: string
  /** A Lease that has not changed for this long is ignored, in milliseconds. Default 30 000. */
  durationMs?: number
  clock?: Clock
  log: Log
}

export const LEASE_DURATION_MS = 30_000

/** How often a Lease is renewed within its duration. */
const RENEWALS = 3
/** Every server deletes Leases that have not changed for so many durations: their holders were killed. */
const DURATIONS_KEPT = 4
/** Longest time of each request except a watch, in milliseconds. */
const REQUEST_TIMEOUT_MS = 10_000
/** Longest time for deleting the own Lease at the end, in milliseconds. */
const LEAVE_TIMEOUT_MS = 3_000
/** Longest wait after failures, in milliseconds. */
const RETRY_CAP_MS = 10_000

/** Another server's Lease, and when it was last seen to change. */
type Known = { address: string | undefined; version: string; changedAtMs: number }

export function leaseSource(options: LeaseSourceOptions): PeerSource {
  return new LeaseSource(options)
}

class LeaseSource implements PeerSource {
  readonly #options: LeaseSourceOptions
  readonly #durationMs: number
  readonly #clock: Clock
  readonly #log: Log
  readonly #name: string
  readonly #over = new AbortController()
  readonly #leaving = new AbortController()
  #api: Promise<LeaseApi> | undefined
  readonly #since = new Date()
  /** Version of the own Lease in the last answer of the API. Undefined: there is none. */
  #version: string | undefined
  /** Whether the Leases have been read once. Before that, an empty list means nothing. */
  #listed = false
  /** By the name of the Lease. */
  readonly #known = new Map<string, Known>()
  #onAddresses: (addresses: readonly string[]) => void = () => {}
  #announced: string | undefined
  #renewing: Promise<void> = Promise.resolve()
  #watching: Promise<void> = Promise.resolve()
  #left: Promise<void> | undefined

  constructor(options: LeaseSourceOptions) {
    this.#options = options
    this.#durationMs = options.durationMs ?? LEASE_DURATION_MS
    this.#clock = options.clock ?? systemClock
    this.#log = options.log.child({ namespace: options.namespace })
    this.#name = `tendril-${options.holder}`
  }

  start(onAddresses: (addresses: readonly string[]) => void, onFailure: () => void): void {
    this.#onAddresses = onAddresses
    this.#renewing = this.#repeat(this.#leaving.signal, 'own lease not renewed, trying again', async () => {
      await this.#renew()
      this.#look()
      await this.#wait(this.#durationMs / RENEWALS, this.#leaving.signal)
    })
    this.#watching = this.#repeat(this.#over.signal, 'leases of peers not read, trying again', async () => {
      try {
        await this.#follow()
      } catch (error) {
        onFailure()
        throw error
      }
    })
  }

  leave(): Promise<void> {
    this.#left ??= this.#leave()
    return this.#left
  }

  async stop(): Promise<void> {
    await this.leave()
    this.#over.abort()
    await this.#watching
  }

  async #leave(): Promise<void> {
    this.#leaving.abort()
    await this.#renewing
    if (this.#version === undefined) return
    try {
      await this.#request(LEAVE_TIMEOUT_MS, this.#over.signal, (api, signal) =>
        api.remove(this.#name, undefined, signal)
      )
    } catch (error) {
      this.#log.warn({ reason: why(error) }, 'own lease not deleted, it will expire')
    }
  }

  async #renew(): Promise<void> {
    const { holder, address } = this.#options
    const { signal } = this.#leaving
    const own = { name: this.#name, holder, address, durationMs: this.#durationMs, since: this.#since }
    try {
      this.#version = await this.#request(REQUEST_TIMEOUT_MS, signal, (api, signal) =>
        api.renew({ ...own, version: this.#version }, signal)
      )
    } catch (error) {
      // Somebody deleted or changed the Lease. Its name belongs to this server, so it is overwritten.
      const status = statusOf(error)
      if (status === 404) this.#version = undefined
      if (status === 409) {
        const { leases } = await this.#request(REQUEST_TIMEOUT_MS, signal, (api, signal) => api.list(signal))
        this.#version = leases.find(({ name }) => name === this.#name)?.version
      }
      throw error
    }
  }

  /** Lists all, then follows the changes until the API ends the watch. */
  async #follow(): Promise<void> {
    const { leases, version } = await this.#request(REQUEST_TIMEOUT_MS, this.#over.signal, (api, signal) =>
      api.list(signal)
    )
    const names = leases.map(({ name }) => name)
    for (const name of this.#known.keys()) if (!names.includes(name)) this.#known.delete(name)
    for (const lease of leases) this.#learn(lease)
    this.#listed = true
    this.#look()
    const api = await this.#open()
    await api.watch(
      version,
      (lease, gone) => {
        if (gone) this.#known.delete(lease.name)
        else this.#learn(lease)
        this.#look()
      },
      this.#over.signal
    )
    // The API ended the watch at once: wait before the next one.
    await this.#wait(Math.random() * 1_000, this.#over.signal)
  }

  #learn({ name, version, address }: Lease): void {
    if (name === this.#name || this.#known.get(name)?.version === version) return
    this.#known.set(name, { address, version, changedAtMs: this.#clock.now() })
  }

  /** Reports the addresses of valid Leases, and deletes Leases that have expired. */
  #look(): void {
    const nowMs = this.#clock.now()
    const addresses: string[] = []
    for (const [name, { address, version, changedAtMs }] of this.#known) {
      const ageMs = nowMs - changedAtMs
      if (ageMs < this.#durationMs && address !== undefined) addresses.push(address)
      if (ageMs >= this.#durationMs * DURATIONS_KEPT) this.#deleteExpired(name, version)
    }
    const announced = addresses.sort().join()
    if (!this.#listed || announced === this.#announced || this.#over.signal.aborted) return
    this.#announced = announced
    this.#onAddresses(addresses)
  }

  #deleteExpired(name: string, version: string): void {
    this.#known.delete(name)
    this.#request(REQUEST_TIMEOUT_MS, this.#over.signal, (api, signal) =>
      api.remove(name, version, signal)
    ).then(
      () => this.#log.info({ lease: name }, 'expired lease deleted'),
      // Another server has deleted it, or its holder has renewed it.
      (error: unknown) => this.#log.debug({ lease: name, reason: why(error) }, 'expired lease not deleted')
    )
  }

  /** Repeats `act` until the signal aborts, with growing waits after failures. Each cause is logged once. */
  async #repeat(signal: AbortSignal, complaint: string, act: () => Promise<void>): Promise<void> {
    let backoff = createBackoff({ capMs: RETRY_CAP_MS })
    let logged: string | undefined
    while (!signal.aborted) {
      try {
        await act()
        backoff = createBackoff({ capMs: RETRY_CAP_MS })
        logged = undefined
      } catch (error) {
        if (signal.aborted) return
        const reason = why(error)
        if (reason !== logged) this.#log.error({ reason }, complaint)
        logged = reason
        await this.#wait(backoff.delayAfter(0), signal)
      }
    }
  }

  #open(): Promise<LeaseApi> {
    this.#api ??= openLeaseApi(this.#options).catch((error: unknown) => {
      this.#api = undefined
      throw error
    })
    return this.#api
  }

  async #request<R>(
    timeoutMs: number,
    outer: AbortSignal,
    ask: (api: LeaseApi, signal: AbortSignal) => Promise<R>
  ): Promise<R> {
    const api = await this.#open()
    const bound = new AbortController()
    const abort = (): void => bound.abort()
    const timer = this.#clock.after(timeoutMs, abort, { ref: true })
    outer.addEventListener('abort', abort, { once: true })
    if (outer.aborted) abort()
    try {
      return await ask(api, bound.signal)
    } catch (error) {
      if (bound.signal.aborted && !outer.aborted) {
        throw new TunnelError(
          'SERVER_UNREACHABLE',
          `the Kubernetes API did not answer within ${timeoutMs} ms`
        )
      }
      throw error
    } finally {
      timer.cancel()
      outer.removeEventListener('abort', abort)
    }
  }

  #wait(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise(resolve => {
      const done = (): void => {
        timer.cancel()
        signal.removeEventListener('abort', done)
        resolve()
      }
      const timer: Timer = this.#clock.after(ms, done)
      signal.addEventListener('abort', done, { once: true })
      if (signal.aborted) done()
    })
  }
}

/** The HTTP status that the API answered with. */
function statusOf(error: unknown): number | undefined {
  const { code, statusCode = code } = error as { code?: unknown; statusCode?: unknown }
  return typeof statusCode === 'number' ? statusCode : undefined
}

function why(error: unknown): string {
  const status = statusOf(error)
  if (status === 401 || status === 403) {
    return `the Kubernetes API answers ${status}: the ServiceAccount needs list, watch, create, update and delete on leases`
  }
  if (status !== undefined) return `the Kubernetes API answers ${status}`
  return TunnelError.from(error).message
}
