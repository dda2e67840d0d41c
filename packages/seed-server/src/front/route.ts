/**
 * Which cluster a request on a front reaches. Pure. Never looks at the Host field of the request, which
 * kube-apiserver fills with a constant, nor at the target: the same address exists in many clusters.
 */
import { TunnelError } from '@tendril/common'
import { foldDnsName } from '@tendril/common/identity/dns-name'

export type RouteOptions = {
  /** The cluster of this front, whatever name is asked for. */
  cluster?: string
  /** Server names (SNI) and the cluster each stands for. Compared exactly, but not by case. */
  serverNames?: Readonly<Record<string, string>>
  /** Every cluster there is: when it is only one and no name decides, it is the one. */
  clusters: readonly string[]
}

/**
 * From the server name a caller asked for in its TLS hello (undefined: none, or no TLS) to the cluster's name.
 * @throws TunnelError UNKNOWN_CLUSTER naming what was asked for.
 */
export type Route = (serverName: string | undefined) => string

/**
 * A fixed cluster wins; then a configured server name; then the only cluster. A name that is asked for while
 * names are configured has to be one of them: a typo must not end up in somebody's cluster.
 */
export function createRoute({ cluster, serverNames = {}, clusters }: RouteOptions): Route {
  if (cluster !== undefined) return () => cluster
  const byName = new Map(Object.entries(serverNames).map(([name, of]) => [foldDnsName(name), of]))

  return serverName => {
    if (serverName !== undefined && byName.size > 0) {
      const named = byName.get(foldDnsName(serverName))
      if (named !== undefined) return named
      throw new TunnelError(
        'UNKNOWN_CLUSTER',
        `the server name ${JSON.stringify(serverName)} belongs to none`
      )
    }
    const [only, ...others] = clusters
    if (only !== undefined && others.length === 0) return only
    throw new TunnelError(
      'UNKNOWN_CLUSTER',
      serverName === undefined
        ? 'this front serves several, so ask for one by its server name (SNI)'
        : `the server name ${JSON.stringify(serverName)} belongs to none`
    )
  }
}
