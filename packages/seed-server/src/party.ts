/** Who shares the limits and budgets of this process: each cluster, and the links between servers as one more. */
import type { LinkPrincipal } from '@tendril/common'

/** The links between servers. */
export const SERVERS = Symbol('servers')

/** The name of a cluster, or `SERVERS`. */
export type Party = string | typeof SERVERS

export function partyOf(principal: LinkPrincipal): Party {
  return principal.kind === 'client' ? principal.cluster : SERVERS
}

/** As the header Tendril-Cluster and the label `cluster` of metrics have it. No cluster has the name `*`. */
export function formatParty(party: Party): string {
  return party === SERVERS ? '*' : party
}

/** All there can be. */
export function partiesOf(clusters: readonly { name: string }[], hasPeers: boolean): Party[] {
  const parties: Party[] = clusters.map(({ name }) => name)
  return hasPeers ? [...parties, SERVERS] : parties
}
