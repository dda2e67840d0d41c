/**
 * Questions about authorities that OpenSSL answers only inside a handshake: whether two sets of them have one in
 * common, and whether a certificate that was accepted once still comes from one of a set. Signatures and names only
 * (RFC 5280 §6.1.3); whatever else a handshake checks (purpose, name constraints) was checked by the handshake.
 */
import { X509Certificate } from 'node:crypto'

/** Longest chain that is followed, as OpenSSL's default depth is far more than any PKI has. */
const CHAIN_LIMIT = 16

/** DER of the identifier of the extension subjectKeyIdentifier, 2.5.29.14 (RFC 5280 §4.2.1.2). */
const SUBJECT_KEY_ID = Buffer.from('0603551d0e', 'hex')

export function readAuthorities(pems: readonly string[]): X509Certificate[] {
  return pems.map(pem => new X509Certificate(pem))
}

/**
 * Whether a certificate may come from an authority of each set: they have a key in common (an authority that was
 * renewed keeps it), or one of them was issued by one of the other set.
 */
export function haveCommonAuthority(
  some: readonly X509Certificate[],
  others: readonly X509Certificate[]
): boolean {
  return some.some(one =>
    others.some(
      other => one.publicKey.equals(other.publicKey) || isIssuedBy(one, other) || isIssuedBy(other, one)
    )
  )
}

/**
 * Whether `leaf` comes from one of `authorities`, by way of the certificates that its holder showed with it
 * (`X509Certificate.issuerCertificate`). `at`: the moment at which those in between must be valid.
 */
export function comesFrom(
  leaf: X509Certificate,
  authorities: readonly X509Certificate[],
  at: Date = new Date()
): boolean {
  const shown = issuersOf(leaf)
  // Each is followed once: of sixteen that have issued one another there are more ways than time.
  const followed = new Set<X509Certificate>()
  const isAnchored = (certificate: X509Certificate): boolean => {
    const hasIssuedIt = (issuer: X509Certificate): boolean =>
      isCurrent(issuer, at) && isIssuedBy(certificate, issuer)
    return (
      authorities.some(issuer => mayIssue(issuer) && hasIssuedIt(issuer)) ||
      shown.some(issuer => {
        if (followed.has(issuer) || !issuer.ca || !hasIssuedIt(issuer)) return false
        followed.add(issuer)
        return isAnchored(issuer)
      })
    )
  }
  return authorities.some(({ fingerprint256 }) => fingerprint256 === leaf.fingerprint256) || isAnchored(leaf)
}

/**
 * One authority of each set that OpenSSL may mix up: it looks for issuers by name and key identifier, and takes the
 * first that fits without asking whether its key has made the signature.
 */
export function indistinguishable(authorities: readonly X509Certificate[]): X509Certificate[] {
  const bySubject = new Map<string, [X509Certificate, ...X509Certificate[]]>()
  for (const one of authorities) {
    const namesakes = bySubject.get(one.subject)
    if (namesakes) namesakes.push(one)
    else bySubject.set(one.subject, [one])
  }
  return [...bySubject.values()]
    .filter(
      ([first, ...others]) =>
        others.some(other => !other.publicKey.equals(first.publicKey)) &&
        [first, ...others].some(({ raw }) => !raw.includes(SUBJECT_KEY_ID))
    )
    .map(([first]) => first)
}

/**
 * The certificates above it that its holder showed, at most 16. Node 20 and 22 tell them; Node 24 does not on a
 * server's side: there a leaf under an intermediate comes only from authorities that are the intermediate itself.
 */
export function issuersOf(leaf: X509Certificate): X509Certificate[] {
  const issuers: X509Certificate[] = []
  let next = leaf.issuerCertificate
  while (next !== undefined && issuers.length < CHAIN_LIMIT) {
    // A self-signed one is its own issuer.
    if (issuers.some(({ fingerprint256 }) => fingerprint256 === next?.fingerprint256)) break
    issuers.push(next)
    next = next.issuerCertificate
  }
  return issuers
}

function isIssuedBy(certificate: X509Certificate, issuer: X509Certificate): boolean {
  return certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey)
}

/** Roots of X.509 version 1 have no CA flag; OpenSSL accepts them as anchors. */
function mayIssue({ ca, subject, issuer }: X509Certificate): boolean {
  return ca || subject === issuer
}

// Written so that a date that cannot be read (NaN) refuses.
function isCurrent({ validFrom, validTo }: X509Certificate, at: Date): boolean {
  return at >= new Date(validFrom) && at <= new Date(validTo)
}
