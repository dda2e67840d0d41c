/**
 * The configuration of seed-server: one schema that is its types, its defaults, its checks and its chapter in
 * docs/configuration.md. The files that use a value describe its effect.
 */
import {
  choice,
  count,
  duration,
  field,
  filePath,
  list,
  listen,
  section,
  size,
  text,
  yesNo
} from '@tendril/common/config/fields'
import {
  acceptedLinkSection,
  adminSection,
  dnsSection,
  expiryChoice,
  logSection,
  sessionSection
} from '@tendril/common/config/sections'
import { foldDnsName } from '@tendril/common/identity/dns-name'
import { isName, NAME_RULE } from '@tendril/common/identity/role'
import { formatListen, isLoopback } from '@tendril/common/listen-address'
import { ROUTE_FORM, readRoute } from '@tendril/common/policy/routes'
import * as z from 'zod'
import { peersSection } from './peers-config.js'

const FRONT_NAME = /^(?=.{1,63}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?$/
const FRONT_NAME_RULE = '1 to 63 of a-z, 0-9 and "-", beginning and ending with a letter or digit'

// Quotes are asked for because YAML 1.1 tools read 0660 as the number 432, and YAML 1.2 ones as 660.
const socketMode = field(
  z
    .string()
    .regex(/^0?[0-7]{3}$/)
    .transform(octal => Number.parseInt(octal, 8)),
  {
    type: 'octal text',
    expected: 'octal permissions in quotes, such as "0660"',
    about:
      'Permissions of the Unix socket, `"0660"` if not given. Every process that may open the socket may dial through it.',
    plainText: true,
    show: mode => Number(mode).toString(8).padStart(4, '0')
  }
)

const WORKERS_MAX = 64

const tls = (who: string, opened: string, more?: string) => ({
  cert: filePath({
    about: 'PEM file: the certificate of this listener, followed by intermediate certificates.'
  }),
  key: filePath({
    about: 'PEM file: the private key of `cert`. The file must not be readable by all users.'
  }),
  clientCa: filePath({
    about: `PEM file: the authorities whose certificates ${who} must show. An intermediate one suffices, without its root.`
  }),
  onExpiry: expiryChoice({ opened, authorities: 'clientCa', ...(more !== undefined && { more }) }),
  requireClientAuth: yesNo({
    about: `Certificates of ${who} must have clientAuth in their extended key usage. \`false\` also accepts certificates without an extended key usage.`
  }).default(true)
})

const limits = (maxConnections: string) => ({
  headerLimit: size({
    about: 'Largest HTTP request header; a larger one is answered 431.',
    min: '256B',
    max: '1MiB'
  }).prefault('8KiB'),
  maxConnections: count({
    about: `Connections open at once; one more is refused. ${maxConnections}`,
    min: 1,
    max: 1_000_000
  }).default(8192),
  maxPending: count({
    about:
      'Most connections whose TLS handshake or request header is not complete. One more closes the oldest of them, so that connections without a request do not keep others out.',
    min: 1,
    max: 1_000_000
  }).default(2048)
})

/** How the clusters of a server share a limit (SharedLimit). */
const SHARED =
  'Half of it is kept for the clusters, the same number for each, and the other half is for those that ask first: with two clusters each may use three quarters, with ten each may use 55 %, and what is kept for a cluster no other one can take.'

/** What one cluster may use of a server that serves several. */
const clusterLimits = section(
  'What this cluster may use, so that enough is left for other clusters. What goes beyond a limit is refused with OVERLOADED and the name of the key; `tendril_server_limit_refusals_total` counts refusals. With `workers` each worker has these limits.',
  {
    links: count({
      about:
        'Most links of its clients, including those that are down and may be resumed. A client has one link for each of its `connections` to each server. Without this key only `link.linkLimit` limits them, which clusters share.',
      min: 1,
      max: 1_000_000
    }).optional(),
    linksPerClient: count({
      about:
        'Most links of one client, which is one certificate subject and one `name`. At least the `connections` of the client. With twice that, a client that was killed can connect again before the server has noticed that its old links are lost.',
      min: 1,
      max: 1_000_000
    }).default(8),
    routesPerClient: count({
      about:
        'Most different routes that the links of one client may announce together. The first ones are used, the others are ignored with a warning until there is room again.',
      min: 0,
      max: 1_024
    }).default(64),
    connections: count({
      about:
        'Most connections of its clients to the tunnel, from the TLS handshake on. Twice `links` lets all clients replace their connections at once. Without this key only `tunnel.maxConnections` limits them, which clusters share.',
      min: 1,
      max: 1_000_000
    }).optional(),
    streams: count({
      about:
        'Most streams, open or being dialled, of all its callers together. At a front that several clusters share, `fronts[].maxConnections` limits them as well.',
      min: 1,
      max: 1_000_000
    }).default(6144),
    dialsPerSecond: count({
      about: 'Most dials in a second. After a second without dials that many may come at once.',
      min: 1,
      max: 1_000_000
    }).default(2000)
  }
).prefault({})

const tunnel = section(
  'Where the clients of the workload clusters arrive, usually behind an SNI load balancer.',
  {
    listen: listen({
      about: 'Address at which the server accepts the connections of clients, usually from a load balancer.'
    }),
    tls: section(
      'Certificates of the tunnel. The server ends TLS itself: the load balancer must pass it through.',
      tls(
        'clients',
        'it ends the links',
        "Connections to other servers (`peers`) are held to these servers' certificates in the same way, and to the `ca` of `peers.tls`; their links go on over new connections."
      )
    ),
    proxyProtocol: choice({
      about:
        "`required`: each connection begins with a PROXY protocol header (v1 or v2), which tells the client's real address. Only for a load balancer that always sends it.",
      values: ['none', 'required']
    }).default('none'),
    proxyHeaderLimit: size({
      about:
        'Largest PROXY protocol header of version 2, extensions included; a connection that announces a larger one is closed.',
      min: '536B',
      max: '64KiB'
    }).prefault('4KiB'),
    handshakeTimeout: duration({
      about: 'Longest time from the TCP connection to the end of the TLS handshake.',
      min: '100ms',
      max: '5m'
    }).prefault('10s'),
    ...limits(
      `Connections of clients and of other servers count from the end of the TLS handshake. ${SHARED} Other servers count as one cluster more.`
    )
  }
)

const front = section('', {
  name: text({
    about: 'Name of the front in logs and metrics.',
    fits: name => FRONT_NAME.test(name),
    expected: FRONT_NAME_RULE
  }),
  listen: listen({
    about:
      'Address of the front. Without `tls` only a Unix socket or a loopback address is allowed. A Unix socket has no reset: when a target or the tunnel breaks, a caller that only reads sees a normal end, so that half of an answer without a length looks complete. Only a caller with bytes that were not read yet gets ECONNRESET. Over TCP, with or without TLS, every caller sees the reset.'
  }),
  tls: section('Certificates of this front.', tls('callers', 'it resets the tunnels')).optional(),
  mode: socketMode.optional(),
  cluster: text({
    about:
      'The cluster that is reached here. Without it the server name a caller asks for in its TLS handshake decides (`clusters[].serverNames`); where there is only one cluster, it is that one.',
    fits: isName,
    expected: NAME_RULE
  }).optional(),
  callers: list(
    'Names in certificates that may call here: common name, DNS name, or NAME of a `tendril://caller/NAME`. Without this list every certificate from `clientCa` may call; but if `clientCa` and `tunnel.tls.clientCa` have an authority in common, only those with `tendril://caller/NAME` may. Certificates of clients and servers (`clusters[].identities`, `peers.identities`, `tendril://client/NAME`, `tendril://server`) may never call.',
    text(),
    { min: 1 }
  ).optional(),
  dialTimeout: duration({
    about:
      'Longest time from CONNECT to its answer. After that the answer is 504, or 503 with the reason if no client could be asked. Keep it below 5s: the aggregator of kube-apiserver waits no longer, and would not get the reason.',
    min: '100ms',
    max: '10m'
  }).prefault('4s'),
  headerTimeout: duration({
    about:
      'Longest time from the TCP connection to the end of the CONNECT header, TLS handshake included. After that the answer is 408.',
    min: '100ms',
    max: '5m'
  }).prefault('10s'),
  firstByteDelay: duration({
    about:
      'How long the front holds back the first bytes of the target after the 200, while the caller has sent nothing. kube-apiserver fails when both arrive in one read.',
    min: '0ms',
    max: '1s'
  }).prefault('50ms'),
  ...limits(
    `At a front that several clusters share, \`maxPending\` of them (half at most) are for connections without a request, and the others for streams, which the clusters share. ${SHARED}`
  )
})

const cluster = section('', {
  name: text({
    about: 'Name of the cluster. Clients send it, and certificates made by `seed-server pki` contain it.',
    fits: isName,
    expected: NAME_RULE
  }),
  required: yesNo({
    about:
      '`/readyz` answers 200 only while a client of this cluster is connected. If no cluster is required, any client at all will do.'
  }).default(false),
  routes: list(
    'Networks (CIDR), addresses and names that clients of this cluster may announce; a name may begin with `*.`. Other routes are ignored, with a warning.',
    text({ fits: route => readRoute(route) !== undefined, expected: ROUTE_FORM })
  ).default(['0.0.0.0/0', '::/0', '*']),
  serverNames: list(
    'TLS server names that select this cluster on fronts that name no cluster.',
    text()
  ).default([]),
  limits: clusterLimits,
  identities: section(
    'Certificates that others issued and that belong to clients of this cluster. One match is enough.',
    {
      commonNames: list('Common names of the subject, compared exactly.', text()).default([]),
      dnsNames: list(
        'DNS names among the subject alternative names, compared without regard to case.',
        text()
      ).default([]),
      uris: list('URIs among the subject alternative names, compared exactly.', text()).default([])
    }
  ).prefault({})
})

export const seedSchema = section('', {
  tunnel,
  fronts: list(
    'Listeners where kube-apiserver and other callers ask for a connection into a cluster, with HTTP CONNECT.',
    front
  ).default([]),
  clusters: list('The workload clusters that are served.', cluster, { min: 1 }),
  peers: peersSection,
  workers: field(z.union([z.literal('auto'), z.number().int().min(1).max(WORKERS_MAX)]), {
    type: 'auto \\| number',
    expected: `auto, or a whole number from 1 to ${WORKERS_MAX}`,
    about:
      'Processes that serve behind the same listeners, each for one core. `auto`: as many as there are cores, by CPU affinity and the CPU quota of the cgroup. Limits such as `maxConnections` and `link.replayBudget` are those of each.'
  }).default(1),
  drainDelay: duration({
    about:
      'On SIGTERM: how long the server is unready but still serves before it drains, for load balancers that ask `/readyz`. Three of their intervals are enough. With a `preStop` hook in Kubernetes 0s is enough.',
    min: '0ms',
    max: '10m'
  }).prefault('0ms'),
  drainTimeout: duration({
    about: 'On SIGTERM: how long to wait until open streams have ended. After that they are reset.',
    min: '0ms',
    max: '24h'
  }).prefault('30s'),
  dns: dnsSection,
  session: sessionSection,
  link: acceptedLinkSection,
  admin: adminSection,
  log: logSection
}).superRefine((config, context) => {
  const complain = (path: (string | number)[], message: string) =>
    context.addIssue({ code: 'custom', path, message })
  const clusters = config.clusters.map(({ name }) => name)

  twins(clusters).forEach(at => complain(['clusters', at, 'name'], 'another cluster has this name already'))
  const serverNames = config.clusters.flatMap(({ serverNames }, cluster) =>
    serverNames.map((name, at) => ({
      name: foldDnsName(name),
      path: ['clusters', cluster, 'serverNames', at]
    }))
  )
  twins(serverNames.map(({ name }) => name)).forEach(at => {
    const twin = serverNames[at]
    if (twin) complain(twin.path, `the server name ${twin.name} is taken already`)
  })

  const fronts = config.fronts.map(({ name }) => name)
  twins(fronts).forEach(at => complain(['fronts', at, 'name'], 'another front has this name already'))
  config.fronts.forEach((front, at) => {
    for (const { path, message } of frontProblems(front, clusters, serverNames.length > 0)) {
      complain(['fronts', at, ...path], message)
    }
    front.callers?.forEach((name, index) => {
      const owner = holderOf(name, config)
      if (owner === undefined) return
      complain(['fronts', at, 'callers', index], `${name} is one of ${owner}, and these are never callers`)
    })
  })

  const listeners = [
    { path: ['tunnel', 'listen'], listen: config.tunnel.listen },
    ...config.fronts.map(({ listen }, at) => ({ path: ['fronts', at, 'listen'], listen })),
    ...(config.admin ? [{ path: ['admin', 'listen'], listen: config.admin.listen }] : [])
  ]
    // Any number of listeners may ask for "any free port".
    .filter(({ listen }) => 'path' in listen || listen.port !== 0)
    .map(({ path, listen }) => ({ path, address: formatListen(listen) }))
  listeners.forEach(({ path, address }, at) => {
    const first = listeners.findIndex(other => other.address === address)
    if (first < at) complain(path, `${address} is the address of ${listeners[first]!.path.join('.')} already`)
  })
})

export type SeedConfig = z.output<typeof seedSchema>
export type FrontConfig = z.output<typeof front>
export type ClusterConfig = z.output<typeof cluster>

type FrontProblem = { path: string[]; message: string }

function frontProblems(front: FrontConfig, clusters: string[], namesSelect: boolean): FrontProblem[] {
  const problems: FrontProblem[] = []
  const isSocket = 'path' in front.listen
  if (!front.tls && !isLoopback(front.listen)) {
    problems.push({
      path: ['listen'],
      message: `a front without tls must not leave this machine: give it tls, or a loopback address or Unix socket instead of ${formatListen(front.listen)}`
    })
  }
  if (front.mode !== undefined && !isSocket) {
    problems.push({ path: ['mode'], message: 'only a Unix socket has permissions' })
  }
  if (front.callers && !front.tls) {
    problems.push({
      path: ['callers'],
      message: 'without tls nobody shows a certificate: give the front tls, or use mode'
    })
  }
  if (front.cluster !== undefined && !clusters.includes(front.cluster)) {
    problems.push({
      path: ['cluster'],
      message: `there is no cluster ${front.cluster} in clusters: ${clusters.join(', ')}`
    })
  }
  if (front.cluster === undefined && clusters.length > 1 && (!front.tls || !namesSelect)) {
    problems.push({
      path: front.tls ? [] : ['name'],
      message: front.tls
        ? `which of ${clusters.length} clusters is meant? Give the front a cluster, or the clusters serverNames`
        : `which of ${clusters.length} clusters is meant? A front without tls needs a cluster`
    })
  }
  return problems
}

/** The list of identities that a caller's name is in: where whoever has it connects at the tunnel. */
function holderOf(name: string, { clusters, peers }: SeedConfig): string | undefined {
  const lists = [
    ...clusters.map(({ name, identities }) => ({ where: `the identities of cluster ${name}`, identities })),
    ...(peers ? [{ where: 'peers.identities', identities: peers.identities }] : [])
  ]
  return lists.find(
    ({ identities: { commonNames, dnsNames } }) =>
      commonNames.includes(name) || dnsNames.some(dnsName => foldDnsName(dnsName) === foldDnsName(name))
  )?.where
}

/** The indices of entries that an earlier one equals. */
function twins(names: string[]): number[] {
  return names.flatMap((name, at) => (names.indexOf(name) < at ? [at] : []))
}
