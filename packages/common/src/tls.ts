/**
 * How every TLS server of Tendril speaks: versions, ciphers, curves, and that refusals are explained. Not who
 * is let in (identity/peer decides, after the handshake) and not which certificate is shown (a bundle does).
 */
import { constants } from 'node:crypto'
import type { Server, TlsOptions } from 'node:tls'

/** The part of a certificate bundle that a listener needs: the files now, and a word when they changed. */
export interface Certificates {
  tlsOptions(): { cert: string; key: string; ca?: string[] }
  /** Names of the authorities in `ca`, for the sentence of a refusal. */
  readonly authorities?: readonly string[]
  on(event: 'change', listener: () => void): unknown
  off(event: 'change', listener: () => void): unknown
}

/** AES-128 first: with hardware AES it carries most bytes per core, and nothing here needs more than 128 bits. */
export const TLS_CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305'
].join(':')

/** X25519 costs least; P-256 is for stacks that may use nothing else (FIPS). */
export const TLS_CURVES = 'X25519:P-256'

/**
 * Options for `tls.createServer`. A client certificate is always asked for, and a missing or wrong one does not
 * fail the handshake: the listener must ask `verifyPeer` before anything else, and can then say over HTTP what
 * is wrong, where OpenSSL would only send a number.
 */
export function serverTlsOptions(certificates: Certificates): TlsOptions {
  return {
    ...certificates.tlsOptions(),
    minVersion: 'TLSv1.2',
    ciphers: TLS_CIPHERS,
    ecdhCurve: TLS_CURVES,
    honorCipherOrder: true,
    // kube-apiserver never resumes a session: tickets would be made and encrypted for nobody.
    secureOptions: constants.SSL_OP_NO_TICKET,
    requestCert: true,
    rejectUnauthorized: false
  }
}

/**
 * Shows new certificates to new connections whenever the bundle changes; open connections keep theirs.
 * @returns the release; calling it twice is fine.
 */
export function followCertificates(server: Server, certificates: Certificates): () => void {
  const onChange = (): void => server.setSecureContext(serverTlsOptions(certificates))
  certificates.on('change', onChange)
  return () => void certificates.off('change', onChange)
}
