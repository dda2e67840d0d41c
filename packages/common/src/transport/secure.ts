/**
 * TLS on a connected socket: to the server, or to a proxy that uses TLS itself. And the errors of OpenSSL as sentences.
 * Verification is never optional.
 */
import { isIP } from 'node:net'
import type { Socket } from 'node:net'
import { checkServerIdentity, connect } from 'node:tls'
import type { ConnectionOptions, PeerCertificate, TLSSocket } from 'node:tls'
import { TunnelError } from '../errors.js'
import { withoutFinalDot } from '../identity/dns-name.js'
import { TLS_POLICY } from '../tls.js'

export type SecureOptions = {
  /** Name to ask for (SNI) and to find in the certificate; or an address, which is not asked for but found. */
  serverName: string
  /** Certificates; without `ca` the system's authorities count. */
  ca?: ConnectionOptions['ca']
  cert?: ConnectionOptions['cert']
  key?: ConnectionOptions['key']
  /** What a failure calls the authorities that count. Default: `in our ca file`. */
  authoritiesAre?: string
  /** Default: Node's check of the name. */
  checkServerIdentity?: (host: string, peer: PeerCertificate) => Error | undefined
  signal: AbortSignal
}

/**
 * Resolves when the handshake is done and the certificate verified. Rejects with `SERVER_NOT_IDENTIFIED`,
 * `SERVER_UNREACHABLE` or the signal's reason; both sockets are destroyed then.
 */
export function secure(socket: Socket, options: SecureOptions): Promise<TLSSocket> {
  const { ca, cert, key, authoritiesAre, signal } = options
  // RFC 6066 section 3: the name is sent without a trailing dot, and certificates have none.
  const serverName = withoutFinalDot(options.serverName)
  return new Promise((resolve, reject) => {
    const secured = connect({
      socket,
      host: serverName,
      // RFC 6066 section 3: literal addresses are not permitted in SNI.
      servername: isIP(serverName) ? '' : serverName,
      ALPNProtocols: ['http/1.1'],
      ...TLS_POLICY,
      // Said here, since NODE_TLS_REJECT_UNAUTHORIZED=0 is only another default.
      rejectUnauthorized: true,
      checkServerIdentity: options.checkServerIdentity ?? checkServerIdentity,
      ...(ca !== undefined && { ca }),
      ...(cert !== undefined && { cert }),
      ...(key !== undefined && { key })
    })
    const settle = (): void => {
      signal.removeEventListener('abort', onAbort)
      secured.off('close', onClose)
    }
    const fail = (error: unknown): void => {
      settle()
      secured.destroy()
      socket.destroy()
      reject(error)
    }
    const onAbort = (): void => fail(signal.reason)
    const onClose = (): void => fail(explainTls({ code: 'ECONNRESET' }, serverName))
    signal.addEventListener('abort', onAbort)
    secured.once('close', onClose)
    // Stays: a connection broken before its new owner listens must not end the process.
    secured.on('error', (error: TlsError) => fail(explainTls(error, serverName, authoritiesAre)))
    secured.once('secureConnect', () => {
      if (!secured.authorized)
        return fail(explainTls({ code: String(secured.authorizationError) }, serverName, authoritiesAre))
      settle()
      resolve(secured)
    })
    if (signal.aborted) onAbort()
  })
}

const reasonByCode: Record<string, string> = {
  // OpenSSL does not say which, and Node has none to look at any more.
  CERT_HAS_EXPIRED: 'its certificate, or that of an authority above it, has expired',
  CERT_NOT_YET_VALID: 'its certificate is not valid yet (is the clock right?)',
  CERT_REVOKED: 'its certificate was revoked',
  INVALID_PURPOSE: 'its certificate is not meant for servers',
  UNSPECIFIED:
    'its certificate, or that of an authority above it, is too weak (RSA below 2048 bits, or signed with SHA-1)',
  CERT_SIGNATURE_FAILURE: 'its certificate was not signed by the authority it names'
}

const UNKNOWN_AUTHORITY = 'its certificate comes from an authority that is not'

/** What an authority that is missing among ours makes OpenSSL say, up to where ours are. */
const untrustedByCode: Record<string, string> = {
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is self-signed and not',
  SELF_SIGNED_CERT_IN_CHAIN: UNKNOWN_AUTHORITY,
  UNABLE_TO_GET_ISSUER_CERT: UNKNOWN_AUTHORITY,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: UNKNOWN_AUTHORITY,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: UNKNOWN_AUTHORITY
}

type TlsError = { code?: string; message?: string; reason?: string; cert?: PeerCertificate }

/** A failed handshake as a sentence: which side refused, and what to check. */
export function explainTls(
  error: TlsError,
  serverName: string,
  authoritiesAre = 'in our ca file'
): TunnelError {
  if (error instanceof TunnelError) return error
  const { code = '' } = error
  const identity = (why: string) =>
    new TunnelError('SERVER_NOT_IDENTIFIED', `${serverName}: ${why}`, { cause: error })
  const unreachable = (why: string) =>
    new TunnelError('SERVER_UNREACHABLE', `${serverName} ${why}`, { cause: error })

  const known = reasonByCode[code]
  if (known !== undefined) return identity(known)
  const untrusted = untrustedByCode[code]
  if (untrusted !== undefined) return identity(`${untrusted} ${authoritiesAre}`)
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    const names = error.cert?.subjectaltname?.slice(0, 200) ?? 'no name at all'
    return identity(`its certificate is for other names (${names})`)
  }
  if (code === 'ECONNRESET' || code === 'EPIPE') {
    return unreachable('closed the connection during the TLS handshake: is this name routed there?')
  }
  if (code === 'ERR_SSL_WRONG_VERSION_NUMBER' || code === 'ERR_SSL_PACKET_LENGTH_TOO_LONG') {
    return unreachable('does not speak TLS there')
  }
  return unreachable(`failed the TLS handshake: ${error.reason ?? error.message ?? code}`)
}
