/**
 * Reads and verifies the identity of a TLS peer, and says which role its certificate allows. Servers run with
 * `requestCert: true, rejectUnauthorized: false`, so that they can answer a refusal over HTTP. That is safe because
 * this file returns no Identity for a socket whose certificate was not verified.
 */
import type { X509Certificate } from 'node:crypto'
import { X509Certificate as Certificate } from 'node:crypto'
import tls from 'node:tls'
import type { PeerCertificate, TLSSocket } from 'node:tls'
import { TunnelError } from '../errors.js'
import { issuersOf } from './authorities.js'
import { foldDnsName } from './dns-name.js'
import { describe, describeIssuer, formatMoment, quote, readIdentity } from './identity.js'
import type { Identity } from './identity.js'
import { KnownCertificates } from './known.js'

export { readIdentity } from './identity.js'
export type { Identity } from './identity.js'

export type VerifyOptions = {
  /**
   * Code of the refusal: `NOT_IDENTIFIED` for callers of a front (default), `CLIENT_NOT_IDENTIFIED` for tunnel clients.
   */
  code?: 'NOT_IDENTIFIED' | 'CLIENT_NOT_IDENTIFIED'
  /** Names of the authorities that would have been accepted, for the message: `Bundle.authorities`. */
  authorities?: readonly string[]
  /** Refuses a certificate without an extended key usage, which may be for anything. Default true. */
  requireClientAuth?: boolean
  /** The moment to judge validity at. Default: now. */
  now?: Date
}

/** Names in certificates that our PKI did not make. Any one of them suffices. */
export type Identities = {
  commonNames?: readonly string[]
  dnsNames?: readonly string[]
  uris?: readonly string[]
}

/** Extra identities of one cluster. */
export type ClusterIdentities = { name: string; identities?: Identities }

/** All who connect at the tunnel with certificates that our PKI did not make. */
export type TunnelIdentities = { clusters?: readonly ClusterIdentities[]; peers?: Identities | undefined }

// RFC 5280 §4.2.1.12: id-kp-clientAuth.
const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2'
/** NIST SP 800-131A: shorter RSA keys are disallowed. */
export const RSA_LEAST_BITS = 2_048

const known = new KnownCertificates()

/**
 * The verified identity behind a server's TLS socket. Throws `NOT_IDENTIFIED` (or the code asked for) with a
 * sentence that its reader can act on. Two things are asked beyond `socket.authorized`: a certificate must be
 * there, because Node calls a resumed TLS 1.3 session without one authorised; and it must be valid now, because a
 * resumed session repeats an old verdict.
 */
export function verifyPeer(socket: TLSSocket, options: VerifyOptions = {}): Identity {
  const { code = 'NOT_IDENTIFIED', authorities, now = new Date(), requireClientAuth = true } = options
  const certificate = socket.getPeerX509Certificate()
  if (certificate === undefined) throw new TunnelError(code, 'no client certificate was presented')
  const facts = known.get(certificate)
  const isFit = (clientAuth: boolean): boolean => clientAuth || !requireClientAuth
  if (
    facts &&
    socket.authorized === true &&
    now >= facts.notBefore &&
    now <= facts.notAfter &&
    isFit(facts.clientAuth)
  )
    return facts.identity

  const notBefore = new Date(certificate.validFrom)
  const notAfter = new Date(certificate.validTo)
  // Node's `keyUsage` is the extended one: undefined when the certificate has none.
  const clientAuth = certificate.keyUsage?.includes(CLIENT_AUTH) === true
  const reason =
    refusalByDate(certificate, notBefore, notAfter, now) ??
    refusalByKey(certificate) ??
    refusalByTls(socket, certificate, authorities) ??
    (isFit(clientAuth)
      ? undefined
      : `certificate of ${describe(certificate)} has no extended key usage, and clientAuth is required (requireClientAuth)`)
  if (reason !== undefined) throw new TunnelError(code, reason)
  const identity = readIdentity(certificate, code)
  known.add({ identity, notBefore, notAfter, clientAuth })
  return identity
}

/**
 * The cluster a tunnel client belongs to: the one in its tendril: URI, else the only one whose `identities` name its
 * common name (exactly), a DNS name (in any case) or a URI (exactly). Throws `CLUSTER_DENIED` saying what was
 * presented: no such cluster, no match, several matches, or a certificate of a server or a caller.
 */
export function clusterOf(identity: Identity, clusters: readonly ClusterIdentities[]): string {
  if (identity.role === 'server' || identity.role === 'caller') {
    throw new TunnelError(
      'CLUSTER_DENIED',
      `${presented(identity)} is the certificate of a ${identity.role}, not of a client`
    )
  }
  if (identity.role === 'client') {
    const { cluster = '' } = identity
    if (clusters.some(({ name }) => name === cluster)) return cluster
    throw new TunnelError(
      'CLUSTER_DENIED',
      `the certificate is for cluster ${quote(cluster)}, which is not configured here`
    )
  }
  const matches = clusters.filter(({ identities }) => isOneOf(identity, identities))
  const [match] = matches
  if (match === undefined) {
    throw new TunnelError(
      'CLUSTER_DENIED',
      `${presented(identity)} is not an identity of any cluster configured here`
    )
  }
  if (matches.length > 1) {
    const names = matches.map(({ name }) => quote(name)).join(' and ')
    throw new TunnelError(
      'CLUSTER_DENIED',
      `${presented(identity)} is an identity of clusters ${names}; exactly one is allowed`
    )
  }
  return match.name
}

/**
 * Refuses, at a front, the certificates of those who connect at the tunnel: by their role, or by a name that maps them
 * to a cluster or to the other servers. What a cluster's nodes hold must never open a way into a control plane,
 * whatever authority it comes from. Throws `CALLER_DENIED`.
 */
export function assertCaller(identity: Identity, { clusters = [], peers }: TunnelIdentities = {}): void {
  const refuse = (why: string): never => {
    throw new TunnelError('CALLER_DENIED', `${presented(identity)} ${why}`)
  }
  if (identity.role === 'client' || identity.role === 'server') {
    refuse(`is the certificate of a ${identity.role}, not of a caller`)
  }
  const cluster = clusters.find(({ identities }) => isOneOf(identity, identities))
  if (cluster) refuse(`is an identity of a client of cluster ${quote(cluster.name)}, not of a caller`)
  if (isOneOf(identity, peers)) refuse('is an identity of a server (peers.identities), not of a caller')
}

/**
 * For clients: a server certificate that carries a tendril: URI must be a server's, so that a stolen client or caller
 * certificate cannot play the server. Host names stay Node's business. Throws `SERVER_NOT_IDENTIFIED`.
 */
export function checkServerRole(certificate: X509Certificate): void {
  const identity = readIdentity(certificate, 'SERVER_NOT_IDENTIFIED')
  if (identity.role === undefined || identity.role === 'server') return
  throw new TunnelError(
    'SERVER_NOT_IDENTIFIED',
    `${presented(identity)} is the certificate of a ${identity.role}, not of a server`
  )
}

/** The `checkServerIdentity` option of `tls.connect`: Node's check of the host name, then `checkServerRole`. */
export function checkServerIdentity(host: string, peer: PeerCertificate): Error | undefined {
  const mismatch = tls.checkServerIdentity(host, peer)
  if (mismatch !== undefined) return mismatch
  try {
    checkServerRole(new Certificate(peer.raw))
    return undefined
  } catch (error) {
    return TunnelError.from(error, 'SERVER_NOT_IDENTIFIED')
  }
}

// Written so that a date that cannot be read (NaN) refuses.
function refusalByDate(
  certificate: X509Certificate,
  notBefore: Date,
  notAfter: Date,
  now: Date
): string | undefined {
  if (!(now <= notAfter))
    return `certificate of ${describe(certificate)} expired on ${formatMoment(notAfter)}`
  if (!(now >= notBefore)) {
    return `certificate of ${describe(certificate)} is not valid before ${formatMoment(notBefore)}; check the clocks`
  }
  return undefined
}

/** The leaf, and what was shown with it. OpenSSL refuses these as well (tls.ts), in no words that reach us. */
function refusalByKey(certificate: X509Certificate): string | undefined {
  const weak = [certificate, ...issuersOf(certificate)].find(one => rsaBitsOf(one) < RSA_LEAST_BITS)
  if (!weak) return undefined
  const whose = weak === certificate ? '' : ` comes from an authority, ${describe(weak)}, that`
  return `certificate of ${describe(certificate)}${whose} has an RSA key of ${rsaBitsOf(weak)} bits; at least ${RSA_LEAST_BITS} are required`
}

/** Infinity for keys of other kinds. */
function rsaBitsOf({ publicKey }: X509Certificate): number {
  return publicKey.asymmetricKeyDetails?.modulusLength ?? Infinity
}

function refusalByTls(
  socket: TLSSocket,
  certificate: X509Certificate,
  authorities: readonly string[] | undefined
): string | undefined {
  if (socket.authorized === true) return undefined
  const who = `certificate of ${describe(certificate)}`
  // Typed as Error, but servers put OpenSSL's name of the verdict here.
  const verdict = String(socket.authorizationError ?? 'no verdict')
  switch (verdict) {
    case 'UNABLE_TO_GET_ISSUER_CERT':
    case 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY':
    case 'UNABLE_TO_VERIFY_LEAF_SIGNATURE':
    case 'SELF_SIGNED_CERT_IN_CHAIN': {
      const known = authorities?.length ? authorities.map(quote).join(', ') : 'the authorities in clientCa'
      return `${who} is signed by an unknown authority, ${describeIssuer(certificate)}; expected one of: ${known}`
    }
    case 'DEPTH_ZERO_SELF_SIGNED_CERT':
      return `${who} is signed by itself, not by an authority known here`
    case 'CERT_HAS_EXPIRED':
      return `${who} was issued under an authority whose certificate has expired`
    case 'CERT_NOT_YET_VALID':
      return `${who} was issued under an authority whose certificate is not valid yet; check the clocks`
    case 'INVALID_PURPOSE':
      // Node's `keyUsage` is the extended one: undefined when the certificate has none.
      return certificate.keyUsage?.includes(CLIENT_AUTH) === false
        ? `${who} is not meant for clients: its extended key usage lacks clientAuth`
        : `${who} may not be used by clients: its key usage says otherwise`
    case 'CERT_SIGNATURE_FAILURE':
      return `${who} was not signed by the authority that it names, ${describeIssuer(certificate)}`
    case 'UNSPECIFIED':
      // What Node has no name for: X509_V_ERR_CA_KEY_TOO_SMALL and its like.
      return `${who} did not verify: an authority above it, or a signature, may be too weak (RSA below ${RSA_LEAST_BITS} bits, SHA-1)`
    default:
      return `${who} did not verify (${verdict})`
  }
}

/** Whether any of the names is that of the identity. */
export function isOneOf(identity: Identity, identities: Identities = {}): boolean {
  const { commonNames = [], dnsNames = [], uris = [] } = identities
  const wanted = new Set(dnsNames.map(foldDnsName))
  return (
    (identity.commonName !== undefined && commonNames.includes(identity.commonName)) ||
    identity.dnsNames.some(name => wanted.has(foldDnsName(name))) ||
    identity.uris.some(uri => uris.includes(uri))
  )
}

/** The names of an identity, for a sentence. */
export function presented(identity: Identity): string {
  const names = [
    identity.commonName !== undefined && `CN ${quote(identity.commonName)}`,
    identity.dnsNames.length > 0 && `DNS ${quote(identity.dnsNames.join(' '))}`,
    identity.uris.length > 0 && `URI ${quote(identity.uris.join(' '))}`
  ].filter(name => name !== false)
  return names.length > 0 ? names.join(', ') : `a certificate without names (${identity.fingerprint256})`
}
