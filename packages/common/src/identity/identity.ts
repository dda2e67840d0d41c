/**
 * Who a certificate says its holder is. Reading only: whether the certificate may be believed is verifyPeer's
 * question (peer.ts). The subject alternative names come from Node's text form, whose quoting (CVE-2021-44532)
 * is undone here so that no name can pretend to be two.
 */
import type { X509Certificate } from 'node:crypto'
import { TunnelError } from '../errors.js'
import type { ErrorCode } from '../errors.js'
import { parseRole } from './role.js'
import type { Role } from './role.js'

/** Shared by all connections that show the same certificate. */
export type Identity = Readonly<{
  /** From our URI; undefined for certificates that our PKI did not make. */
  role: Role | undefined
  /** Of a `caller`. */
  name?: string
  /** Of a `client`. */
  cluster?: string
  /** Undefined when the subject has none, or more than one. */
  commonName?: string
  dnsNames: readonly string[]
  uris: readonly string[]
  /** Upper-case hex pairs, colons between. */
  fingerprint256: string
  notAfter: Date
}>

const ALT_NAME = /([^:,"]+):((?:"(?:[^"\\]|\\.)*"|[^",])*)(?:, |$)/y
const LABEL_LIMIT = 64

/** What the legacy object really holds: no name at all, or several values of one kind, are possible. */
type LegacyNames = { subject?: { CN?: string | string[] }; issuer?: { CN?: string | string[] } }

/**
 * Reads an identity. Throws a TunnelError of the given code (default `NOT_IDENTIFIED`) when the certificate carries
 * a malformed tendril: URI, or several, or names that cannot be read.
 */
export function readIdentity(certificate: X509Certificate, code: ErrorCode = 'NOT_IDENTIFIED'): Identity {
  const { dnsNames, uris } = altNames(certificate, code)
  const claim = parseRole(uris)
  if (typeof claim === 'string') {
    throw new TunnelError(code, `certificate of ${describe(certificate)} is refused: ${claim}`)
  }
  const commonName = commonNameOf(certificate)
  return {
    role: claim?.role,
    ...(claim?.role === 'caller' && { name: claim.name }),
    ...(claim?.role === 'client' && { cluster: claim.cluster }),
    ...(commonName !== undefined && { commonName }),
    dnsNames,
    uris,
    fingerprint256: certificate.fingerprint256,
    notAfter: new Date(certificate.validTo)
  }
}

/** The holder in quotes, short and printable: safe in a status line whatever is in the certificate. */
export function describe(certificate: X509Certificate): string {
  return quote(nameOf(certificate))
}

/** The common name, else the serial number. Raw: `quote` it before it goes into a message. */
export function nameOf(certificate: X509Certificate): string {
  return commonNameOf(certificate) ?? `serial ${certificate.serialNumber}`
}

/** The issuer in quotes, short and printable. */
export function describeIssuer(certificate: X509Certificate): string {
  const { issuer } = certificate.toLegacyObject() as LegacyNames
  return quote(typeof issuer?.CN === 'string' ? issuer.CN : 'an issuer without a common name')
}

/** Text of an untrusted peer in quotes: printable ASCII, at most 64 characters. */
export function quote(text: string): string {
  // Printable ASCII only: control characters would end a header line, the rest fares badly in a reason phrase.
  const printable = text.replace(/[^\x20-\x7e]|["\\]/g, '?')
  return `"${printable.length > LABEL_LIMIT ? `${printable.slice(0, LABEL_LIMIT)}...` : printable}"`
}

/** A moment as people and logs read it: `2030-01-31T12:00:00Z`. */
export function formatMoment(moment: Date): string {
  return Number.isNaN(moment.getTime()) ? 'an unreadable date' : moment.toISOString().replace(/\.\d+Z$/, 'Z')
}

function commonNameOf(certificate: X509Certificate): string | undefined {
  // The legacy object holds raw values; the text form of `subject` would have to be unescaped. Several CNs: an array.
  const { subject } = certificate.toLegacyObject() as LegacyNames
  return typeof subject?.CN === 'string' ? subject.CN : undefined
}

function altNames(certificate: X509Certificate, code: ErrorCode): { dnsNames: string[]; uris: string[] } {
  const dnsNames: string[] = []
  const uris: string[] = []
  const text = certificate.subjectAltName ?? ''
  ALT_NAME.lastIndex = 0
  while (ALT_NAME.lastIndex < text.length) {
    const [, type, value = ''] = ALT_NAME.exec(text) ?? []
    if (type === undefined) {
      throw new TunnelError(
        code,
        `certificate of ${describe(certificate)} is refused: its alternative names cannot be read`
      )
    }
    if (type === 'DNS') dnsNames.push(unquote(value))
    if (type === 'URI') uris.push(unquote(value))
  }
  return { dnsNames, uris }
}

/** Node writes a name with special characters as a JSON string. */
function unquote(value: string): string {
  return value.startsWith('"') ? (JSON.parse(value) as string) : value
}
