/**
 * X.509 v3 certificates of our own PKI: a self-signed authority and the leaves under it, laid out as RFC 5280 §4
 * says. forge supplies the ASN.1 only, since it signs nothing but RSA; keys and signatures are node:crypto's.
 */
import { X509Certificate, createHash, randomBytes, sign } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'
import { TunnelError } from '../errors.js'
import { bits, bool, child, content, explicit, extensionValue, implicit, integer } from './der.js'
import { nothing, octets, oid, read, sequence, set, time, utf8, write } from './der.js'
import type { Der } from './der.js'
import { foldDnsName } from './dns-name.js'
import { formatPem } from './pem.js'

export type Usage = 'serverAuth' | 'clientAuth'

/** An authority that signs: its certificate and the key of it. */
export type Issuer = { certificate: X509Certificate; key: KeyObject }

export type AuthorityOptions = {
  commonName: string
  keys: { privateKey: KeyObject; publicKey: KeyObject }
  /** Default 3650 days. */
  validityDays?: number
  /** How many authorities may follow below this one. Default 0: leaves only. */
  pathLength?: number
  /** Default: now. */
  now?: Date
}

export type LeafOptions = {
  commonName: string
  publicKey: KeyObject
  usages: readonly Usage[]
  /** DNS names (a leading `*.` may stand for one label) and IP addresses, in one list. */
  hosts?: readonly string[]
  uris?: readonly string[]
  /** Default 365 days; never beyond the end of the issuer. */
  validityDays?: number
  /** Default: now. */
  now?: Date
}

export const AUTHORITY_VALIDITY_DAYS = 3650
export const LEAF_VALIDITY_DAYS = 365
/** How far back validity begins, in milliseconds: forgives clocks that are a little slow. */
export const BACKDATE_MS = 5 * 60_000

const DAY_MS = 24 * 60 * 60_000
// RFC 5280 appendix A: ub-common-name.
const COMMON_NAME_LIMIT = 64
const SERIAL_BYTES = 16
const KEY_ID_BYTES = 20
// RFC 1123 §2.1, with the underscore that real zones have; the last label is not a number, or it would be an address.
const DNS_NAME =
  /^(?:\*\.)?(?:[a-z0-9_](?:[-a-z0-9_]{0,61}[a-z0-9_])?\.)*(?!\d+$)[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$/i
const DNS_NAME_LIMIT = 253

const OID = {
  commonName: '2.5.4.3',
  subjectKeyId: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  authorityKeyId: '2.5.29.35',
  extendedKeyUsage: '2.5.29.37',
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2'
} as const

/** A new self-signed authority, as PEM. May sign certificates and revocation lists, nothing else. */
export function createAuthority(options: AuthorityOptions): string {
  const {
    commonName,
    keys,
    validityDays = AUTHORITY_VALIDITY_DAYS,
    pathLength = 0,
    now = new Date()
  } = options
  const spki = spkiOf(keys.publicKey)
  const keyId = keyIdOf(spki)
  const subject = nameOf(commonName)
  return assemble(
    {
      issuer: subject,
      subject,
      spki,
      notBefore: new Date(now.getTime() - BACKDATE_MS),
      notAfter: new Date(now.getTime() + validityDays * DAY_MS),
      extensions: [
        extension(OID.basicConstraints, sequence(bool(true), integer(Buffer.from([pathLength]))), true),
        // keyCertSign (5) and cRLSign (6): RFC 5280 §4.2.1.3. The last bit is unused.
        extension(OID.keyUsage, bits(Buffer.from([0b0000_0110]), 1), true),
        extension(OID.subjectKeyId, octets(keyId)),
        extension(OID.authorityKeyId, sequence(implicit(0, keyId)))
      ]
    },
    keys.privateKey
  )
}

/**
 * A new leaf under an authority, as PEM. Throws `BAD_CONFIG` on a host that is neither a DNS name nor an IP
 * address, and `BAD_IDENTITY` when the issuer is no authority.
 */
export function issueLeaf(issuer: Issuer, options: LeafOptions): string {
  const {
    commonName,
    publicKey,
    usages,
    hosts = [],
    uris = [],
    validityDays = LEAF_VALIDITY_DAYS,
    now = new Date()
  } = options
  if (!issuer.certificate.ca)
    throw new TunnelError('BAD_IDENTITY', 'the issuing certificate is not an authority (CA:FALSE)')
  const spki = spkiOf(publicKey)
  const altNames = [...hosts.map(hostName), ...uris.map(uri => implicit(6, Buffer.from(uri, 'latin1')))]
  const issuerEnd = new Date(issuer.certificate.validTo).getTime()
  const issuerTbs = child(read(issuer.certificate.raw), 0)
  return assemble(
    {
      // Byte for byte the issuer's subject: verifiers compare the encoding. Field 5 since a v3 certificate states its
      // version.
      issuer: child(issuerTbs, 5),
      subject: nameOf(commonName),
      spki,
      notBefore: new Date(now.getTime() - BACKDATE_MS),
      notAfter: new Date(Math.min(now.getTime() + validityDays * DAY_MS, issuerEnd)),
      extensions: [
        extension(OID.basicConstraints, sequence(), true),
        // digitalSignature (0), all that TLS 1.3 and ECDHE suites ask of a leaf.
        extension(OID.keyUsage, bits(Buffer.from([0b1000_0000]), 7), true),
        // RFC 5280 §4.2.1.12: at least one, or no extension.
        ...(usages.length > 0
          ? [extension(OID.extendedKeyUsage, sequence(...usages.map(usage => oid(OID[usage]))))]
          : []),
        extension(OID.subjectKeyId, octets(keyIdOf(spki))),
        ...authorityKeyId(issuerTbs),
        ...(altNames.length > 0 ? [extension(OID.subjectAltName, sequence(...altNames))] : [])
      ]
    },
    issuer.key
  )
}

type Parts = { issuer: Der; subject: Der; spki: Der; notBefore: Date; notAfter: Date; extensions: Der[] }

function assemble(parts: Parts, key: KeyObject): string {
  const { algorithm, digest } = signatureOf(key)
  const tbs = sequence(
    explicit(0, integer(Buffer.from([2]))), // v3
    integer(serial()),
    algorithm,
    parts.issuer,
    sequence(time(parts.notBefore), time(parts.notAfter)),
    parts.subject,
    parts.spki,
    explicit(3, sequence(...parts.extensions))
  )
  const signature = sign(digest, write(tbs), key)
  return formatPem('CERTIFICATE', write(sequence(tbs, algorithm, bits(signature))))
}

/** Positive and without a leading zero, whatever comes: the top bits are 01. RFC 5280 §4.1.2.2 allows 20 bytes. */
function serial(): Buffer {
  const bytes = randomBytes(SERIAL_BYTES)
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40
  return bytes
}

function signatureOf(key: KeyObject): { algorithm: Der; digest: 'sha256' | 'sha384' | 'sha512' | null } {
  switch (key.asymmetricKeyType) {
    case 'ec':
      switch (key.asymmetricKeyDetails?.namedCurve) {
        case 'prime256v1':
          return { algorithm: sequence(oid('1.2.840.10045.4.3.2')), digest: 'sha256' }
        case 'secp384r1':
          return { algorithm: sequence(oid('1.2.840.10045.4.3.3')), digest: 'sha384' }
        case 'secp521r1':
          return { algorithm: sequence(oid('1.2.840.10045.4.3.4')), digest: 'sha512' }
      }
      break
    case 'rsa':
      // RFC 4055 §5: the parameters of this one are NULL, not absent.
      return { algorithm: sequence(oid('1.2.840.113549.1.1.11'), nothing()), digest: 'sha256' }
    case 'ed25519':
      return { algorithm: sequence(oid('1.3.101.112')), digest: null }
  }
  throw new TunnelError(
    'BAD_IDENTITY',
    'the key of the authority must be RSA, ECDSA P-256, P-384, P-521 or Ed25519'
  )
}

function nameOf(commonName: string): Der {
  const text = commonName.slice(0, COMMON_NAME_LIMIT)
  return sequence(set(sequence(oid(OID.commonName), utf8(text))))
}

function spkiOf(publicKey: KeyObject): Der {
  return read(publicKey.export({ type: 'spki', format: 'der' }))
}

/** RFC 7093 §2 method 1: the leftmost 160 bits of SHA-256 over the key; SHA-1 is gone from FIPS builds. */
function keyIdOf(spki: Der): Buffer {
  // The BIT STRING's first byte counts its unused bits and is no part of the key.
  const publicKey = content(child(spki, 1)).subarray(1)
  return createHash('sha256').update(publicKey).digest().subarray(0, KEY_ID_BYTES)
}

/** The issuer's subject key id, repeated; an issuer without one is found by its name. */
function authorityKeyId(issuerTbs: Der): Der[] {
  const keyId = extensionValue(issuerTbs, OID.subjectKeyId)
  return keyId === undefined
    ? []
    : [extension(OID.authorityKeyId, sequence(implicit(0, content(read(keyId)))))]
}

function extension(id: string, value: Der, critical = false): Der {
  return critical
    ? sequence(oid(id), bool(true), octets(write(value)))
    : sequence(oid(id), octets(write(value)))
}

function hostName(host: string): Der {
  if (isIP(host) !== 0 && !host.includes('%'))
    return implicit(7, Buffer.from(ipaddr.parse(host).toByteArray()))
  // RFC 5280 §4.2.1.6: in the preferred name syntax, which has no final dot.
  const name = foldDnsName(host)
  if (name.length <= DNS_NAME_LIMIT && DNS_NAME.test(name)) return implicit(2, Buffer.from(name, 'latin1'))
  throw new TunnelError(
    'BAD_CONFIG',
    `${JSON.stringify(host)} is neither a DNS name nor an IP address (no scheme, port, brackets or zone; punycode for other alphabets)`
  )
}
