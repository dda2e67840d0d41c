/**
 * The part a certificate plays in a tunnel, written as one URI in its subject alternative names:
 * `tendril://client/CLUSTER`, `tendril://server` or `tendril://caller/NAME`. Only certificates of our own PKI carry
 * one; what it grants is decided elsewhere (peer.ts).
 */
import { TunnelError } from '../errors.js'

/** `client` dials in for a cluster, `server` is a seed-server, `caller` asks a front for dials. */
export type Role = 'client' | 'server' | 'caller'

export type RoleClaim =
  { role: 'client'; cluster: string } | { role: 'server' } | { role: 'caller'; name: string }

/** What `isName` accepts, in words, for error messages. */
export const NAME_RULE = '1 to 63 of a-z, 0-9, "-" and ".", beginning and ending with a letter or digit'

const NAME = /^[a-z0-9](?:[-a-z0-9.]{0,61}[a-z0-9])?$/
const SCHEME = /^tendril:/i
const CLAIM = /^tendril:\/\/(?:(server)|(client|caller)\/([^/]*))$/

/** Names of clusters and callers: close to DNS-1123, so that they fit host names, file names and metric labels. */
export function isName(text: string): boolean {
  return NAME.test(text)
}

/** The URI of a role. Throws `BAD_CONFIG` on a name outside `NAME_RULE`. */
export function formatRole(claim: RoleClaim): string {
  if (claim.role === 'server') return 'tendril://server'
  const name = claim.role === 'client' ? claim.cluster : claim.name
  if (!isName(name))
    throw new TunnelError('BAD_CONFIG', `${JSON.stringify(name)} cannot name a ${claim.role}: ${NAME_RULE}`)
  return `tendril://${claim.role}/${name}`
}

/**
 * The one role among the URIs of a certificate; undefined when none of them is ours.
 * @returns a string, the reason, when a URI of ours is malformed or there are several: such a certificate is nobody's.
 */
export function parseRole(uris: readonly string[]): RoleClaim | undefined | string {
  // Schemes are case-insensitive (RFC 3986 §3.1): `TENDRIL:` must not slip by as somebody else's URI.
  const ours = uris.filter(uri => SCHEME.test(uri))
  if (ours.length > 1) return 'it carries several tendril: URIs, exactly one is allowed'
  const [uri] = ours
  if (uri === undefined) return undefined
  const [, server, role, name = ''] = CLAIM.exec(uri) ?? []
  if (server !== undefined) return { role: 'server' }
  if (role === undefined || !isName(name)) return 'it carries a malformed tendril: URI'
  return role === 'client' ? { role, cluster: name } : { role: 'caller', name }
}
