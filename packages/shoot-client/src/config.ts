/**
 * The configuration of shoot-client: one schema that is its types, its defaults, its checks and its chapter in
 * docs/configuration.md. The files that use a value describe its effect.
 */
import {
  field,
  count,
  duration,
  filePath,
  headers,
  list,
  section,
  text,
  url
} from '@tendril/common/config/fields'
import {
  adminSection,
  dnsSection,
  expiryChoice,
  linkSection,
  logSection,
  sessionSection
} from '@tendril/common/config/sections'
import { TunnelError } from '@tendril/common'
import { isName, NAME_RULE } from '@tendril/common/identity/role'
import { isLoopback, parseListen } from '@tendril/common/listen-address'
import { createPolicy } from '@tendril/common/policy/policy'
import * as z from 'zod'

const RULE_FORM = 'a network such as 10.0.0.0/8, or { cidr: 10.0.0.0/8, ports: [443, "8000-9000"] }'

const rule = field(
  z.union([
    z.string(),
    z.strictObject({
      cidr: z.string(),
      ports: z
        .array(z.union([z.number(), z.string()]))
        .min(1)
        .optional()
    })
  ]),
  { type: 'rule', expected: RULE_FORM }
).superRefine((written, context) => {
  try {
    createPolicy({ allow: [written] })
  } catch (error) {
    context.addIssue({
      code: 'custom',
      message: error instanceof TunnelError ? (error.detail ?? error.message) : String(error)
    })
  }
})

const server = section('', {
  url: url({
    about:
      'Where the server is reached: `wss://name:port`. Its certificate must carry this name, and load balancers route by it. `ws://`, without TLS, only on loopback.',
    schemes: ['wss', 'ws']
  }),
  address: text({
    about: 'host:port to connect to instead of the host of `url`. The name to verify stays that of `url`.'
  }).optional(),
  serverName: text({
    about:
      "Name to ask for in the TLS handshake and to find in the server's certificate, instead of the host of `url`."
  }).optional()
}).superRefine(({ url, address }, context) => {
  const { protocol, hostname } = new URL(url)
  if (protocol === 'ws:' && !isLoopback({ host: hostname.replace(/^\[|\]$/g, ''), port: 0 })) {
    context.addIssue({
      code: 'custom',
      path: ['url'],
      message: `ws:// has no TLS and must not leave this machine: write wss://${hostname}`
    })
  }
  if (address !== undefined && !isDialAddress(address)) {
    context.addIssue({
      code: 'custom',
      path: ['address'],
      message: `expected host:port such as 192.0.2.7:443, got "${address}"`
    })
  }
})

const targets = section(
  'What may be reached through this client. A name is resolved first, and the rules are applied to each of its addresses.',
  {
    allow: list(
      'Networks that may be reached, as CIDR, optionally for some ports only. Without it: every address that is not special. Special addresses (loopback, link-local, multicast, unspecified, reserved, site-local, and other metadata services of clouds) are only reached when a rule inside their range names them. The listeners of the client itself are never reached.',
      rule
    ).optional(),
    deny: list(
      'Networks that may not be reached, written the same way. A deny rule takes precedence over every allow rule.',
      rule
    ).default([]),
    dialTimeout: duration({
      about: 'Longest time to connect to a target, including the resolution of its name.',
      min: '100ms',
      max: '10m'
    }).prefault('4s'),
    maxPendingDials: count({
      about: 'Connection attempts under way at once; one more is refused with OVERLOADED.',
      min: 1,
      max: 100_000
    }).default(8192)
  }
).prefault({})

const upstreamProxy = (about: string, options?: { renamedTo: string }) =>
  section(
    about,
    {
      url: url({
        about:
          'Where the upstream proxy is reached. TLS to the server goes through it unopened, so `http://` is safe.',
        schemes: ['http', 'https']
      }),
      headers: headers({ about: 'Headers of that CONNECT, such as `X-Gardener-Destination`.' }).prefault({})
    },
    options
  )

export const shootSchema = section('', {
  cluster: text({
    about: 'The cluster of this client: its `clusters[].name` in the server’s configuration.',
    fits: isName,
    expected: NAME_RULE
  }),
  name: text({
    about:
      'Name of this client in logs, unique among the clients of its cluster. Default: the host name, which in a pod is the name of the pod.',
    fits: name => /^[\x21-\x7e]{1,253}$/.test(name),
    expected: '1 to 253 printable characters without blanks'
  }).optional(),
  servers: list(
    'The servers to connect to, all of them at the same time. An entry may lead to one server, or to a load balancer with many.',
    server,
    {
      min: 1
    }
  ),
  connections: count({
    about:
      'Links to each server. Streams are spread over them, so that a lost packet, or a slow proxy on the path, delays only some of the streams. A server accepts at most its `clusters[].limits.linksPerClient`, 8 by default. With at most half of that a client that was killed can connect again at once.',
    min: 1,
    max: 16
  }).default(1),
  routes: list(
    'Networks (CIDR), addresses and names that this client announces: dials to them go to this client first. The server’s `clusters[].routes` lists those that a client may announce.',
    text()
  ).default([]),
  tls: section('Certificates of the tunnel.', {
    ca: filePath({
      about:
        "PEM file: the authorities that the server's certificate must come from. An intermediate one suffices, without its root."
    }),
    cert: filePath({ about: 'PEM file: the certificate of this client, which names its cluster.' }),
    key: filePath({
      about: 'PEM file: the private key of `cert`. The file must not be readable by all users.'
    }),
    onExpiry: expiryChoice({
      opened: 'it drops the connections to servers',
      authorities: 'ca',
      more: 'Links go on over new connections, for which servers must have a valid certificate, within `link.resumeWindow`.'
    })
  }),
  proxy: url({
    about:
      'Proxy on the way out. `env` uses HTTPS_PROXY, HTTP_PROXY, ALL_PROXY (ignored if it names a SOCKS proxy) and NO_PROXY; `none` connects directly; or the URL of a proxy, with user and password if it asks for them.',
    schemes: ['http', 'https'],
    credentials: true,
    words: ['env', 'none']
  }).default('env'),
  proxyCa: filePath({
    about:
      'PEM file: the authorities that the certificate of an `https://` proxy or upstream proxy must come from, instead of those built into Node (to which NODE_EXTRA_CA_CERTS adds). Read at every attempt to connect.'
  }).optional(),
  upstreamProxy: upstreamProxy(
    'A proxy on the way to the server that is asked with an HTTP CONNECT of its own, by headers that it routes by, such as the Istio gateway of Gardener. It comes after `proxy`.'
  ).optional(),
  gateway: upstreamProxy('The old name of `upstreamProxy`. It logs a warning.', {
    renamedTo: 'upstreamProxy'
  }).optional(),
  connectTimeout: duration({
    about: 'Longest time of one attempt to connect, up to the established tunnel.',
    min: '100ms',
    max: '5m'
  }).prefault('10s'),
  reconnect: section('Waits between attempts to connect. The first attempt after a loss is made at once.', {
    maxDelay: duration({
      about: 'Longest wait between two attempts. Waits are random and grow up to this.',
      min: '100ms',
      max: '1h'
    }).prefault('30s')
  }).prefault({}),
  maxConnectionAge: duration({
    about:
      'Replace connections before they are this old, without an interruption. For proxies that cut connections at a certain age (Istio after 24h). 0s: never.',
    min: '0ms',
    max: '30d'
  }).prefault('0s'),
  drainTimeout: duration({
    about: 'On SIGTERM: how long to wait until open streams have ended. After that they are reset.',
    min: '0ms',
    max: '24h'
  }).prefault('30s'),
  targets,
  dns: dnsSection,
  session: sessionSection,
  link: linkSection,
  admin: adminSection,
  log: logSection
})

/** Without the old names of keys, which `loadConfig` replaces. */
export type ShootConfig = Omit<z.output<typeof shootSchema>, 'gateway'>

function isDialAddress(address: string): boolean {
  try {
    const parsed = parseListen(address)
    return 'port' in parsed && parsed.port > 0 && parsed.host !== ''
  } catch {
    return false
  }
}
