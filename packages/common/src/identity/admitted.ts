/**
 * Ends what was opened with a certificate when the certificate expires, or when its authority has been removed. A TLS
 * handshake checks both only once, but a link or a tunnel may live for months. This file does not decide who is
 * accepted, and not how a link or tunnel is ended.
 */
import type { X509Certificate } from 'node:crypto'
import type { TLSSocket } from 'node:tls'
import type { Clock, Timer } from '../clock.js'
import { systemClock } from '../clock.js'
import { TunnelError } from '../errors.js'
import type { Log } from '../log.js'
import { comesFrom, readAuthorities } from './authorities.js'
import { describe, formatMoment } from './identity.js'
import type { Identity } from './identity.js'

/** The part of a certificate bundle that is followed here. */
export interface Authorities {
  tlsOptions(): { ca?: string[] }
  /** Those that have expired since. */
  readonly expiredAuthorities?: readonly string[]
  on(event: 'change', listener: () => void): unknown
  off(event: 'change', listener: () => void): unknown
}

/** What happens when a certificate expires. What the authorities no longer accept ends in any case. */
export type OnExpiry = 'end' | 'keep'

export type AdmittedOptions = {
  authorities: Authorities
  /** Default `end`. */
  onExpiry?: OnExpiry
  /**
   * Code of the end: see `verifyPeer`; of servers that were connected to, `SERVER_NOT_IDENTIFIED`. Default
   * `NOT_IDENTIFIED`.
   */
  code?: 'NOT_IDENTIFIED' | 'CLIENT_NOT_IDENTIFIED' | 'SERVER_NOT_IDENTIFIED'
  clock?: Clock
  /** The wall clock that validity is judged by. Default: the system's. */
  today?: () => Date
  log: Log
}

/** One certificate, and the functions that end what was opened with it. */
type Admitted = { certificate: X509Certificate; notAfter: Date; ends: Set<(why: TunnelError) => void> }

/**
 * The wall clock may be set, and a timer of Node holds 2^31 ms: it is looked at anew after so long, in milliseconds.
 */
export const LOOK_AGAIN_MS = 60 * 60_000
/** Certificates whose signatures are verified in one turn of the event loop, about a quarter of a millisecond each. */
const VERIFIED_AT_ONCE = 16

export class AdmittedCertificates {
  readonly #options: AdmittedOptions
  readonly #clock: Clock
  readonly #today: () => Date
  readonly #byFingerprint = new Map<string, Admitted>()
  #authorities: readonly string[]
  /** Counts how often an authority was taken away. */
  #round = 0
  #timer: Timer | undefined
  /** What the timer waits for: the next certificate that expires. */
  #nextMs = Infinity

  constructor(options: AdmittedOptions) {
    const { clock = systemClock, today = () => new Date(), authorities } = options
    this.#options = options
    this.#clock = clock
    this.#today = today
    this.#authorities = pemsOf(authorities)
    authorities.on('change', this.#authoritiesOnChange)
  }

  /** Certificates with which something is open. */
  get size(): number {
    return this.#byFingerprint.size
  }

  /** How long what is opened with a certificate may stay open, in milliseconds. */
  leftMs({ notAfter }: Pick<Identity, 'notAfter'>): number {
    return this.#options.onExpiry === 'keep' ? Infinity : notAfter.getTime() - this.#today().getTime()
  }

  /**
   * Something was opened over `socket`, whose peer was verified as `identity`. `end` is called when the certificate
   * comes to its end, never before this returns.
   * @returns the release, for when it ends by itself. Calling it twice is fine.
   */
  add(
    socket: Pick<TLSSocket, 'getPeerX509Certificate'>,
    { fingerprint256, notAfter }: Identity,
    end: (why: TunnelError) => void
  ): () => void {
    let admitted = this.#byFingerprint.get(fingerprint256)
    if (!admitted) {
      const certificate = socket.getPeerX509Certificate()
      // A socket that is closed has none, and whatever was to be opened over it has ended.
      if (!certificate) return () => {}
      admitted = { certificate, notAfter, ends: new Set() }
      this.#byFingerprint.set(fingerprint256, admitted)
      this.#waitFor(notAfter)
    }
    const { ends } = admitted
    // Two may end by one function.
    const own = (why: TunnelError): void => end(why)
    ends.add(own)
    return () => {
      ends.delete(own)
      if (ends.size === 0 && this.#byFingerprint.get(fingerprint256) === admitted)
        this.#byFingerprint.delete(fingerprint256)
    }
  }

  /** Ends nothing from now on. May be called twice. */
  close(): void {
    this.#options.authorities.off('change', this.#authoritiesOnChange)
    this.#timer?.cancel()
    this.#byFingerprint.clear()
  }

  #waitFor(notAfter: Date): void {
    if (this.#options.onExpiry === 'keep' || notAfter.getTime() >= this.#nextMs) return
    this.#nextMs = notAfter.getTime()
    this.#timer?.cancel()
    // Still valid in the last millisecond (RFC 5280 §4.1.2.5).
    const leftMs = this.#nextMs + 1 - this.#today().getTime()
    this.#timer = this.#clock.after(Math.min(Math.max(leftMs, 0), LOOK_AGAIN_MS), () => this.#timerOnEnd())
  }

  #timerOnEnd(): void {
    this.#nextMs = Infinity
    const now = this.#today()
    for (const admitted of [...this.#byFingerprint.values()]) {
      const { certificate, notAfter } = admitted
      if (now <= notAfter) this.#waitFor(notAfter)
      else this.#end(admitted, `certificate of ${describe(certificate)} expired on ${formatMoment(notAfter)}`)
    }
  }

  readonly #authoritiesOnChange = (): void => {
    const pems = pemsOf(this.#options.authorities)
    const gone = this.#authorities.some(pem => !pems.includes(pem))
    this.#authorities = pems
    // Whom the others vouched for they vouch for still.
    if (gone) this.#verify(++this.#round, [...this.#byFingerprint.values()])
  }

  /** A few each turn: thousands at once would hold up every stream. */
  #verify(round: number, waiting: Admitted[]): void {
    // One more is gone meanwhile: a newer round asks about all.
    if (round !== this.#round) return
    const authorities = readAuthorities(this.#authorities)
    const now = this.#today()
    for (const admitted of waiting.splice(0, VERIFIED_AT_ONCE)) {
      const { certificate, notAfter, ends } = admitted
      if (ends.size === 0) continue
      // One that has expired and is kept is judged as of its last day: its issuers may have expired with it.
      if (comesFrom(certificate, authorities, now < notAfter ? now : notAfter)) continue
      this.#end(
        admitted,
        `certificate of ${describe(certificate)} comes from an authority that is no longer accepted`
      )
    }
    if (waiting.length > 0) this.#clock.after(0, () => this.#verify(round, waiting))
  }

  #end({ certificate, ends }: Admitted, reason: string): void {
    const { code = 'NOT_IDENTIFIED', log } = this.#options
    this.#byFingerprint.delete(certificate.fingerprint256)
    log.warn({ reason, open: ends.size }, 'certificate ended, and with it what it had opened')
    for (const end of [...ends]) end(new TunnelError(code, reason))
    ends.clear()
  }
}

function pemsOf(authorities: Authorities): readonly string[] {
  return [...(authorities.tlsOptions().ca ?? []), ...(authorities.expiredAuthorities ?? [])]
}
