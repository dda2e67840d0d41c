/**
 * How both ends of every TLS connection speak: versions, ciphers, curves, and that servers explain their refusals. Not
 * who is let in (identity/peer decides, after the handshake) and not which certificate is shown (a bundle does).
 */
import { constants } from 'node:crypto'
import { createSecureContext } from 'node:tls'
import type { SecureContext, SecureContextOptions, Server, TlsOptions } from 'node:tls'
import { TunnelError } from './errors.js'

/** The part of a certificate bundle that a listener needs: the current files, and an event when they change. */
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
  'ECDHE-RSA-CHACHA20-POLY1305',
  // No RSA below 2048 bits and no SHA-1 in the peer's chain; OpenSSL's own configuration may have set less.
  '@SECLEVEL=2'
].join(':')

/**
 * X25519 costs least; P-256 is for stacks that may use nothing else (FIPS). The others are for those that must: over
 * TLS 1.2 the curve of a peer's certificate has to be among them (RFC 8422 §5.1), and some insist on P-384 (CNSA).
 */
export const TLS_CURVES = 'X25519:P-256:P-384:P-521'

/**
 * What no environment changes: each is set on every connection, because a default of Node is what `--tls-min-v1.0`,
 * `--tls-cipher-list` and a file named by OPENSSL_CONF set.
 */
export const TLS_POLICY = {
  minVersion: 'TLSv1.2',
  maxVersion: 'TLSv1.3',
  ciphers: TLS_CIPHERS,
  ecdhCurve: TLS_CURVES,
  // Each authority of the file is a trust anchor, an intermediate one as well (RFC 5280 §6.1.1 (d)), as Go does it.
  allowPartialTrustChain: true,
  // No renegotiation (TLS 1.2): a handshake costs this side more than the other, and a peer's identity is asked once.
  // No tickets: kube-apiserver never resumes a session, they would be made and encrypted for nobody.
  secureOptions: constants.SSL_OP_NO_RENEGOTIATION | constants.SSL_OP_NO_TICKET
} as const satisfies SecureContextOptions

/**
 * Options for `tls.createServer`. A client certificate is always asked for, and a missing or wrong one does not
 * fail the handshake: the listener must ask `verifyPeer` before anything else, and can then say over HTTP what
 * is wrong, where OpenSSL would only send a number.
 */
export function serverTlsOptions(certificates: Certificates): TlsOptions {
  return {
    ...certificates.tlsOptions(),
    ...TLS_POLICY,
    honorCipherOrder: true,
    requestCert: true,
    rejectUnauthorized: false
  }
}

/**
 * Shows the certificates to new connections, new ones whenever the bundle changes; open connections keep theirs. Every
 * listener with `serverTlsOptions` needs it, see `use`.
 * @returns the release; calling it twice is fine.
 */
export function followCertificates(server: Server, certificates: Certificates): () => void {
  const onChange = (): void => use(server, serverTlsOptions(certificates))
  onChange()
  certificates.on('change', onChange)
  return () => void certificates.off('change', onChange)
}

/**
 * `setSecureContext` with `allowPartialTrustChain`. `createSecureContext` takes this option since Node 20.18, but no
 * public way hands such a context to a `tls.Server`: `createServer` and `setSecureContext` copy a closed list of
 * options in which it is missing (Node 20.20, 24.21), and `addContext` and `SNICallback` serve only clients that send
 * SNI. So the private field is replaced that both set and each new connection reads. Without it nothing listens:
 * intermediate anchors would be refused, with no word of why.
 */
function use(server: Server & { _sharedCreds?: SecureContext }, options: TlsOptions): void {
  server.setSecureContext(options)
  if (server._sharedCreds === undefined) {
    throw new TunnelError(
      'LISTEN_FAILED',
      `Node ${process.version} keeps the TLS context of a listener elsewhere than Node 20 to 24 do, so that intermediate authorities cannot be accepted; use one of these`
    )
  }
  // Without it OpenSSL refuses to resume sessions of clients with certificates. Any text, the same in all workers.
  server._sharedCreds = createSecureContext({ ...options, sessionIdContext: 'tendril' })
}
