/**
 * What certificates say, read once each: kube-apiserver shows the same one with every CONNECT, and reading its names
 * took a tenth of the server's time for one. Facts of the bytes only; whether they are believed is asked every time.
 */
import type { X509Certificate } from 'node:crypto'
import type { Identity } from './identity.js'

export type Known = {
  readonly identity: Identity
  readonly notBefore: Date
  readonly notAfter: Date
  /** Its extended key usage says that it is for clients. */
  readonly clientAuth: boolean
}

/** Certificates remembered, about a KiB each; at the limit the one known longest is forgotten, and read again. */
const LIMIT = 1_024

export class KnownCertificates {
  readonly #limit: number
  readonly #byFingerprint = new Map<string, Known>()

  constructor(limit = LIMIT) {
    this.#limit = limit
  }

  get({ fingerprint256 }: Pick<X509Certificate, 'fingerprint256'>): Known | undefined {
    return this.#byFingerprint.get(fingerprint256)
  }

  add(known: Known): void {
    const [longest] = this.#byFingerprint.keys()
    if (longest !== undefined && this.#byFingerprint.size >= this.#limit) this.#byFingerprint.delete(longest)
    this.#byFingerprint.set(known.identity.fingerprint256, known)
  }
}
