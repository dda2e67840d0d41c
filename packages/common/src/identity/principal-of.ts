/**
 * From a verified identity to the Principal that its dials carry: who may ask at a front is decided before
 * (assertCaller); who may have links is decided here.
 */
import { TunnelError } from '../errors.js'
import { type LinkPrincipal, type Principal, principalName } from '../principal.js'
import type { Identity } from './identity.js'
import { type TunnelIdentities, clusterOf, isOneOf, presented } from './peer.js'

/** Of a certificate that a front accepts. */
export function callerOf(identity: Identity): Principal {
  return { kind: 'caller', name: nameOf(identity) }
}

/**
 * Of a certificate that is shown at the tunnel: another server by its `tendril://server` or by `peers`, else the client
 * of one cluster. Without `peers` a server is refused like anybody who is no client. Throws `CLUSTER_DENIED`, as
 * `clusterOf` does.
 */
export function linkPrincipalOf(
  identity: Identity,
  { clusters = [], peers }: TunnelIdentities
): LinkPrincipal {
  const name = nameOf(identity)
  if (peers && identity.role === 'server') return { kind: 'server', name }
  if (identity.role !== undefined || !isOneOf(identity, peers))
    return { kind: 'client', name, cluster: clusterOf(identity, clusters) }
  const also = clusters.find(({ identities }) => isOneOf(identity, identities))
  if (!also) return { kind: 'server', name }
  throw new TunnelError(
    'CLUSTER_DENIED',
    `${presented(identity)} is an identity of cluster ${JSON.stringify(also.name)} and of a server (peers.identities); exactly one is allowed`
  )
}

/** The name in its tendril: URI, else the common name, else the first name there is. */
function nameOf({ name, commonName, dnsNames, uris, fingerprint256 }: Identity): string {
  return principalName(name ?? commonName ?? dnsNames[0] ?? uris[0] ?? fingerprint256)
}
