/**
 * One reading of a certificate, its key and its authorities from files, with every check that can be made before a
 * handshake. Plain data: following changes is bundle.ts's task.
 */
import { X509Certificate } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { createSecureContext } from 'node:tls'
import { TunnelError } from '../errors.js'
import { indistinguishable } from './authorities.js'
import { describe, formatMoment, nameOf, readIdentity } from './identity.js'
import type { Identity } from './identity.js'
import { encodePrivateKey, readPrivateKeyFile } from './keys.js'
import { PEM_FILE_LIMIT_BYTES, formatPem, readPemFile } from './pem.js'

export type CredentialFiles = {
  /** The certificate, leaf first, then its intermediates. */
  cert: string
  /** The private key of the leaf, readable by nobody else (see `assertUnexposed`). */
  key: string
  /** The authorities that the other side's certificate must come from; any number in one file. */
  ca?: string
}

/** PEM, cleaned: what node:tls takes. */
export type TlsOptions = { cert: string; key: string; ca?: string[] }

export type Credentials = {
  tls: TlsOptions
  leaf: X509Certificate
  /** What the leaf says its holder is. */
  identity: Identity
  /** Names of the authorities in `ca`; empty without one. */
  authorities: string[]
  /** Authorities of the file that have expired, as PEM. They are not in `ca`. */
  expiredAuthorities: string[]
  /** Sentences about authorities that are not used, or that may not be found. */
  warnings: string[]
}

type Chain = [leaf: X509Certificate, ...X509Certificate[]]

/** Reads and checks. Throws `BAD_IDENTITY` naming the file and what to do. `now` is the moment to judge validity at. */
export async function loadCredentials(
  files: CredentialFiles,
  options: { limitBytes: number; now: Date }
): Promise<Credentials> {
  const { limitBytes, now } = options
  const chain = await readCertificates(files.cert, limitBytes, '; cert and key swapped?')
  const key = await readPrivateKeyFile(files.key, { limitBytes })
  const authorities = files.ca === undefined ? [] : await readCertificates(files.ca, limitBytes)
  const { anchors, expired } = sortByExpiry(authorities, now)

  assertPair(chain, key, files)
  assertCurrent(chain[0], files.cert, now)
  if (files.ca !== undefined) assertAnchored(files.ca, anchors, expired)

  const tls: TlsOptions = {
    cert: chain.map(String).join(''),
    key: encodePrivateKey(key),
    ...(files.ca !== undefined && { ca: anchors.map(String) })
  }
  assertAcceptable(tls, files)
  return {
    tls,
    leaf: chain[0],
    identity: readIdentity(chain[0], 'BAD_IDENTITY'),
    authorities: anchors.map(nameOf),
    expiredAuthorities: expired.map(String),
    warnings: files.ca === undefined ? [] : warningsOf(files.ca, anchors, expired)
  }
}

function sortByExpiry(authorities: X509Certificate[], now: Date) {
  const isExpired = ({ validTo }: X509Certificate): boolean => !(now <= new Date(validTo))
  return {
    expired: authorities.filter(isExpired),
    // OpenSSL would take an expired one instead of the renewed one that a peer shows, and then refuse it.
    anchors: authorities.filter(authority => !isExpired(authority))
  }
}

function assertAnchored(path: string, anchors: X509Certificate[], [first]: X509Certificate[]): void {
  if (!first || anchors.length > 0) return
  throw new TunnelError(
    'BAD_IDENTITY',
    `every authority in ${path} has expired: ${describe(first)} on ${expiryOf(first)}`
  )
}

function warningsOf(path: string, anchors: X509Certificate[], expired: X509Certificate[]): string[] {
  return [
    ...expired.map(
      one => `authority ${describe(one)} in ${path} expired on ${expiryOf(one)} and is not used; remove it`
    ),
    ...indistinguishable(anchors).map(
      one =>
        `${path} has several authorities with the name ${describe(one)} and not in each a subject key identifier: ` +
        'for a certificate without an authority key identifier only the first of them is tried'
    )
  ]
}

function expiryOf({ validTo }: X509Certificate): string {
  return formatMoment(new Date(validTo))
}

/** What a file of authorities holds. */
export type Authorities = {
  /** PEM, as node:tls takes them. Those that have expired are not among them. */
  ca: string[]
  /** As those of `Credentials`. */
  warnings: string[]
}

/**
 * The authorities in a PEM file, without a certificate of our own. Throws `BAD_IDENTITY` naming the file, also when all
 * of them have expired. `now` is the moment to judge validity at.
 */
export async function loadAuthorities(path: string, now = new Date()): Promise<Authorities> {
  const { anchors, expired } = sortByExpiry(await readCertificates(path, PEM_FILE_LIMIT_BYTES), now)
  assertAnchored(path, anchors, expired)
  return { ca: anchors.map(String), warnings: warningsOf(path, anchors, expired) }
}

/**
 * The certificates of a PEM file, at least one. Throws `BAD_IDENTITY`; `hint` ends the sentence when it holds a key
 * only.
 */
async function readCertificates(path: string, limitBytes: number, hint = ''): Promise<Chain> {
  const blocks = await readPemFile(path, { limitBytes })
  const certificates = blocks
    .filter(({ label }) => label === 'CERTIFICATE')
    .map(({ body }, index) => {
      try {
        return new X509Certificate(formatPem('CERTIFICATE', Buffer.from(body, 'base64')))
      } catch (error) {
        throw new TunnelError(
          'BAD_IDENTITY',
          `certificate ${index + 1} in ${path} is broken: OpenSSL cannot read it`,
          { cause: error }
        )
      }
    })
  const [first, ...rest] = certificates
  if (first !== undefined) return [first, ...rest]
  const holdsKey = blocks.some(({ label }) => label.endsWith('PRIVATE KEY'))
  const holds = holdsKey
    ? `a private key but no certificate${hint}`
    : `no certificate, only: ${blocks.map(({ label }) => label).join(', ')}`
  throw new TunnelError('BAD_IDENTITY', `${path} holds ${holds}`)
}

function assertPair(chain: Chain, key: KeyObject, { cert, key: keyPath }: CredentialFiles): void {
  const owner = chain.findIndex(certificate => certificate.checkPrivateKey(key))
  if (owner === 0) return
  throw new TunnelError(
    'BAD_IDENTITY',
    owner > 0
      ? `${keyPath} is the key of certificate ${owner + 1} in ${cert}; put that certificate first, its issuers after it`
      : `${keyPath} is not the key of the certificate in ${cert} (${describe(chain[0])})`
  )
}

// Written so that a date that cannot be read (NaN) refuses.
function assertCurrent(leaf: X509Certificate, path: string, now: Date): void {
  const notBefore = new Date(leaf.validFrom)
  const notAfter = new Date(leaf.validTo)
  if (!(now <= notAfter)) {
    throw new TunnelError(
      'BAD_IDENTITY',
      `the certificate in ${path} expired on ${formatMoment(notAfter)}; renew it`
    )
  }
  if (!(now >= notBefore)) {
    throw new TunnelError(
      'BAD_IDENTITY',
      `the certificate in ${path} is not valid before ${formatMoment(notBefore)}; check this machine's clock`
    )
  }
}

/**
 * OpenSSL has demands of its own, on key sizes and signature hashes for instance: heard now, not at the first
 * handshake.
 */
function assertAcceptable(tls: TlsOptions, { cert, key }: CredentialFiles): void {
  try {
    createSecureContext(tls)
  } catch (error) {
    const reason = (error as { reason?: string }).reason ?? String(error)
    throw new TunnelError('BAD_IDENTITY', `OpenSSL refuses ${cert} with ${key}: ${reason}`, { cause: error })
  }
}
