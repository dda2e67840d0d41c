import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { ConfigError, loadConfig } from '@tendril/common/config'
import { type SeedConfig, seedSchema } from '../src/config.js'
import { withoutNeedlessBrackets } from '../src/peers-config.js'

const TLS = 'tls: { cert: s.crt, key: s.key, clientCa: ca.crt }'
const TUNNEL = `tunnel: { listen: '127.0.0.1:8443', ${TLS} }`

async function load(t: Test, yaml: string): Promise<SeedConfig> {
  const dir = await mkdtemp(join(tmpdir(), 'seed-'))
  t.teardown(() => rm(dir, { recursive: true }))
  await writeFile(join(dir, 'seed.yaml'), yaml)
  return loadConfig(seedSchema, { file: join(dir, 'seed.yaml') })
}

async function complaints(t: Test, yaml: string): Promise<string[]> {
  const error: unknown = await load(t, yaml).catch((error: unknown) => error)
  if (!(error instanceof ConfigError))
    throw new Error(`expected a ConfigError for\n${yaml}`, { cause: error })
  return error.lines.map(line => line.replace(/^.*seed\.yaml:/, ''))
}

t.test('the shape that issue 1 promises is read', async t => {
  const config = await load(
    t,
    `tunnel:
  listen: 127.0.0.1:8443
  ${TLS}
fronts:
  - name: kube-apiserver
    listen: 127.0.0.1:9443
    ${TLS}
    cluster: demo
clusters: [ { name: demo } ]
admin: { listen: 127.0.0.1:8095 }
`
  )

  t.match(config, {
    tunnel: {
      listen: { host: '127.0.0.1', port: 8_443 },
      tls: { cert: /^\/.*\/s\.crt$/ },
      proxyProtocol: 'none'
    },
    fronts: [
      { name: 'kube-apiserver', cluster: 'demo', dialTimeout: 4_000, firstByteDelay: 50, headerLimit: 8_192 }
    ],
    clusters: [{ name: 'demo', required: false, serverNames: [], identities: { commonNames: [] } }],
    link: { linkLimit: 4_096, ackTimeout: 30_000, replayBudget: 268_435_456 },
    session: { windowInitial: 1_048_576, windowMin: 32_768, windowMax: 33_554_432, memoryBudget: 67_108_864 },
    admin: { listen: { host: '127.0.0.1', port: 8_095 } },
    log: { level: 'info' }
  })
})

t.test('the least that works is a tunnel and a cluster', async t => {
  const config = await load(t, `${TUNNEL}\nclusters: [ { name: a } ]`)

  t.same(config.fronts, [])
  t.equal(config.admin, undefined)
})

t.test('what one cluster may use has defaults, and each can be set', async t => {
  const defaults = {
    linksPerClient: 8,
    routesPerClient: 64,
    streams: 6_144,
    dialsPerSecond: 2_000
  }
  const { clusters } = await load(
    t,
    `${TUNNEL}\nclusters: [ { name: a }, { name: b, limits: { links: 1, dialsPerSecond: 7 } } ]`
  )

  t.same(clusters[0]?.limits, defaults)
  t.same(clusters[1]?.limits, { ...defaults, links: 1, dialsPerSecond: 7 })
  for (const key of ['links', 'connections', ...Object.keys(defaults)].filter(
    key => key !== 'routesPerClient'
  )) {
    t.match(await complaints(t, `${TUNNEL}\nclusters: [ { name: a, limits: { ${key}: 0 } } ]`), [
      new RegExp(`clusters\\[0\\]\\.limits\\.${key}: expected a whole number from 1 to 1000000`)
    ])
  }
})

t.test('fronts without tls stay on this machine', async t => {
  const front = (rest: string): string =>
    `${TUNNEL}\nclusters: [ { name: a } ]\nfronts:\n  - { name: f, ${rest} }`

  for (const rest of [
    "listen: '127.0.0.1:1'",
    "listen: '[::1]:1'",
    'listen: unix:/run/f.sock',
    `listen: '0.0.0.0:1', ${TLS}`
  ]) {
    await t.resolves(load(t, front(rest)), rest)
  }
  for (const rest of [
    "listen: '0.0.0.0:1'",
    "listen: ':1'",
    "listen: '10.0.0.1:1'",
    'listen: vpn.example.org:1'
  ]) {
    t.match(
      await complaints(t, front(rest)),
      [/^4:16: fronts\[0\]\.listen: a front without tls must not leave this machine/],
      rest
    )
  }
})

t.test('a socket has a mode in octal, and nothing else has one', async t => {
  const front = (rest: string): string =>
    `${TUNNEL}\nclusters: [ { name: a } ]\nfronts:\n  - { name: f, ${rest} }`

  t.equal((await load(t, front("listen: unix:/f, mode: '0600'"))).fronts[0]?.mode, 0o600)
  t.equal((await load(t, front("listen: unix:/f, mode: '666'"))).fronts[0]?.mode, 0o666)
  t.match(await complaints(t, front('listen: unix:/f, mode: 0660')), [
    /fronts\[0\]\.mode: expected octal permissions in quotes/
  ])
  t.match(await complaints(t, front("listen: unix:/f, mode: '0888'")), [/expected octal/])
  t.match(await complaints(t, front("listen: '127.0.0.1:1', mode: '0600'")), [
    /only a Unix socket has permissions/
  ])
})

t.test('a front that could reach several clusters must be told which', async t => {
  const several = (front: string, names = ''): string =>
    `${TUNNEL}\nclusters: [ { name: a${names} }, { name: b } ]\nfronts: [ { name: f, ${front} } ]`

  await t.resolves(load(t, several("listen: '127.0.0.1:1', cluster: b")))
  await t.resolves(load(t, several(`listen: '127.0.0.1:1', ${TLS}`, ', serverNames: [a.test]')))
  t.match(await complaints(t, several(`listen: '127.0.0.1:1', ${TLS}`)), [
    /which of 2 clusters is meant\? Give the front a cluster, or the clusters serverNames/
  ])
  t.match(await complaints(t, several("listen: '127.0.0.1:1'", ', serverNames: [a.test]')), [
    /A front without tls needs a cluster/
  ])
  t.match(await complaints(t, several("listen: '127.0.0.1:1', cluster: c")), [
    /there is no cluster c in clusters: a, b/
  ])
})

t.test('no two things share a name or an address', async t => {
  const yaml = `${TUNNEL}
clusters:
  - { name: a, serverNames: [x.test, X.TEST] }
  - { name: a, serverNames: [x.test] }
fronts:
  - { name: f, listen: '127.0.0.1:8443', cluster: a }
  - { name: f, listen: 'unix:/f', cluster: a }
  - { name: g, listen: 'unix:/f', cluster: a }
  - { name: h, listen: '127.0.0.1:0', cluster: a }
  - { name: i, listen: '127.0.0.1:0', cluster: a }
admin: { listen: '127.0.0.1:8443' }
`
  t.strictSame(await complaints(t, yaml), [
    '3:38: clusters[0].serverNames[1]: the server name x.test is taken already',
    '4:5: clusters[1].name: another cluster has this name already'.replace('4:5', '4:7'),
    '4:30: clusters[1].serverNames[0]: the server name x.test is taken already',
    '6:16: fronts[0].listen: 127.0.0.1:8443 is the address of tunnel.listen already',
    '7:7: fronts[1].name: another front has this name already',
    '8:16: fronts[2].listen: unix:/f is the address of fronts.1.listen already',
    '11:10: admin.listen: 127.0.0.1:8443 is the address of tunnel.listen already'
  ])
})

t.test('keys that belong elsewhere, and names that fit nowhere, are refused', async t => {
  const base = `${TUNNEL}\nclusters: [ { name: a } ]\n`
  const table: [string, RegExp][] = [
    [`${base}cluster: a`, /^3:1: cluster: unknown key; did you mean clusters\?/],
    [`${base}servers: []`, /^3:1: servers: unknown key/],
    [`${TUNNEL}\nclusters: []`, /^2:1: clusters: expected a list of at least 1, got a list/],
    [`${TUNNEL}\nclusters: [ { name: A_b } ]`, /clusters\[0\]\.name: expected 1 to 63 of a-z/],
    [`${TUNNEL}\nclusters: [ { name: 7 } ]`, /expected .*, got the number 7 \(put text in quotes: "7"\)/],
    [`${base}admin: { listen: 'unix:/a' }`, /admin\.listen: expected host:port/],
    [`${base}admin: {}`, /admin\.listen: is missing/],
    [
      `${base}session: { windowMin: 1MiB, windowInitial: 64KiB, windowMax: 64KiB }`,
      /windowMin: is larger than windowMax/
    ],
    [
      `${base}fronts: [ { name: f, listen: '127.0.0.1:1', callers: [x] } ]`,
      /callers: without tls nobody shows a certificate/
    ],
    [
      `${TUNNEL.replace('listen', 'proxyProtocol: maybe, listen')}\nclusters: [ { name: a } ]`,
      /proxyProtocol: expected one of none, required/
    ]
  ]
  for (const [yaml, message] of table) t.match(await complaints(t, yaml), [message], yaml)
})

t.test('a name of a client or of a server is not among the callers', async t => {
  const tls = '{ cert: c, key: k, clientCa: a }'
  const yaml = `${TUNNEL}
clusters:
  - { name: a, identities: { commonNames: [vpn], dnsNames: [Shoot.test.] } }
peers: { static: ['b:1'], identities: { commonNames: [seed] } }
fronts:
  - { name: f, listen: ':1', tls: ${tls}, cluster: a, callers: [VPN, vpn, shoot.test, seed, other] }
`
  t.strictSame(await complaints(t, yaml), [
    '6:96: fronts[0].callers[1]: vpn is one of the identities of cluster a, and these are never callers',
    '6:101: fronts[0].callers[2]: shoot.test is one of the identities of cluster a, and these are never callers',
    '6:113: fronts[0].callers[3]: seed is one of peers.identities, and these are never callers'
  ])
})

t.test('where the other servers are is said in exactly one way', async t => {
  const base = `${TUNNEL}\nclusters: [ { name: a } ]\n`
  const table: [string, RegExp][] = [
    [`${base}peers: {}`, /^3:1: peers: where are the other servers\? Give one of static, dns and leases/],
    [`${base}peers: { static: ['a:1'], dns: 'b:1' }`, /peers: static and dns exclude each other: give one/],
    [`${base}peers: { static: [] }`, /peers\.static: expected a list of at least 1/],
    [`${base}peers: { static: [a] }`, /peers\.static\[0\]: expected host:port such as 10\.0\.0\.7:8443/],
    [`${base}peers: { dns: ':8443' }`, /peers\.dns: expected host:port/],
    [`${base}peers: { leases: { namespace: a } }`, /peers\.leases\.address: is missing/],
    [`${base}peers: { leases: { namespace: a, address: 'fd00::1:8443' } }`, /address: expected host:port/],
    [`${base}peers: { leases: { namespace: a, address: '[a]:8443' } }`, /address: expected host:port/],
    [
      `${base}peers: { leases: { namespace: A, address: 'a:1' } }`,
      /namespace: expected the name of a namespace/
    ],
    [
      `${base}peers: { leases: { namespace: a, address: 'a:1', label: x } }`,
      /label: expected a label such as app\.kubernetes\.io\/name=tendril/
    ]
  ]
  for (const [yaml, message] of table) t.match(await complaints(t, yaml), [message], yaml)

  for (const good of [
    `static: ['a:1', '[fd00::1]:8443']`,
    `dns: 'seed.garden.svc:8443'`,
    `leases: { namespace: a, address: '10.0.0.1:8443' }`
  ]) {
    t.ok((await load(t, `${base}peers: { ${good} }`)).peers, good)
  }
  // The address of a pod, as a manifest writes it: [$(POD_IP)]:8443.
  for (const [ip, address] of [
    ['10.0.0.1', '10.0.0.1:8443'],
    ['fd00::1', '[fd00::1]:8443']
  ] as const) {
    const { peers } = await load(t, `${base}peers: { leases: { namespace: a, address: '[${ip}]:8443' } }`)
    t.equal(withoutNeedlessBrackets(peers?.leases?.address ?? ''), address)
  }
  t.equal((await load(t, base)).peers, undefined)
})

t.test('what clients may announce is a list of routes', async t => {
  const yaml = `${TUNNEL}\nclusters: [ { name: a, routes: [10.0.0.0/8, '*.svc', 10.0.0.1/8] } ]`

  t.match(await complaints(t, yaml), [
    /clusters\[0\]\.routes\[2\]: expected a network \(10\.0\.0\.0\/8\), an address/
  ])
})

t.test('workers is auto or a number; one process, if not given', async t => {
  const yaml = `${TUNNEL}\nclusters: [ { name: a } ]\nworkers: `

  t.equal((await load(t, `${TUNNEL}\nclusters: [ { name: a } ]`)).workers, 1)
  t.equal((await load(t, `${yaml}auto`)).workers, 'auto')
  for (const count of [1, 64]) t.equal((await load(t, `${yaml}${count}`)).workers, count)
  for (const wrong of ['0', '65', '1.5', 'all', '[2]', '"2"']) {
    const [line] = await complaints(t, yaml + wrong)
    t.match(line, /^3:1: workers: expected auto, or a whole number from 1 to 64, got /, wrong)
  }
})
