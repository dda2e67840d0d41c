/**
 * Which proxy leads to each server of a configuration, by the file and the environment together: what `check-config`
 * prints, and what a start refuses. Opens nothing. The rules are in transport/proxy.
 */
import { MASK } from '@tendril/common/config/fields'
import { connectTargetOf } from '@tendril/common/transport/destination'
import type { ShootConfig } from './config.js'
import { type Environment, type ProxyChoice, ignoredVariables, proxyTo } from './transport/proxy.js'

export type Proxies = {
  servers: (ProxyChoice & { server: string })[]
  /** Variables that name a SOCKS proxy. */
  ignored: string[]
}

/** Throws `BAD_CONFIG` with the name of the key or variable when what leads to a server is no usable proxy. */
export function findProxies(
  { servers, proxy, upstreamProxy }: Pick<ShootConfig, 'servers' | 'proxy' | 'upstreamProxy'>,
  env: Environment
): Proxies {
  return {
    servers: servers.map(server => ({
      server: server.url,
      ...proxyTo(connectTargetOf(server), { proxy, env, ...(upstreamProxy && { upstreamProxy }) })
    })),
    ignored: ignoredVariables(proxy, env)
  }
}

/** As comments of YAML, to stand behind a configuration. User and password are masked. */
export function showProxies({ servers, ignored }: Proxies): string {
  const lines = [
    'Proxies, by the configuration and the environment of this command:',
    ...servers.map(({ server, proxy, source }) => {
      const by = source === undefined ? '' : ` (${source})`
      return `  ${server}  ${proxy ? `through ${showUrl(proxy)}` : 'directly'}${by}`
    }),
    ...ignored.map(
      variable => `  ${variable} is a SOCKS proxy and is ignored: only HTTP proxies are supported`
    )
  ]
  return lines.map(line => `# ${line}\n`).join('')
}

function showUrl({ protocol, username, password, host }: URL): string {
  const user = username === '' && password === '' ? '' : `${MASK}@`
  return `${protocol}//${user}${host}`
}
