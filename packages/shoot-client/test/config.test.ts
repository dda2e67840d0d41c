import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { ConfigError, type LoadOptions, loadConfig, parseSet, showConfig } from '@tendril/common/config'
import { type ShootConfig, shootSchema } from '../src/config.js'

const BASE = 'cluster: demo\ntls: { ca: ca.crt, cert: c.crt, key: c.key }\n'
const SERVER = 'servers: [ { url: wss://vpn.demo.test:443 } ]\n'

async function load(t: Test, yaml: string): Promise<ShootConfig> {
  const dir = await mkdtemp(join(tmpdir(), 'shoot-'))
  t.teardown(() => rm(dir, { recursive: true }))
  await writeFile(join(dir, 'shoot.yaml'), yaml)
  return loadConfig(shootSchema, { file: join(dir, 'shoot.yaml') })
}

async function complaints(t: Test, yaml: string): Promise<string[]> {
  const error: unknown = await load(t, yaml).catch((error: unknown) => error)
  if (!(error instanceof ConfigError))
    throw new Error(`expected a ConfigError for\n${yaml}`, { cause: error })
  return error.lines.map(line => line.replace(/^.*shoot\.yaml:/, ''))
}

t.test('the shape that issue 1 promises is read', async t => {
  const config = await load(
    t,
    `cluster: demo
servers:
  - url: wss://vpn.demo.test:443
    address: 127.0.0.1:10443
tls: { ca: ca.crt, cert: c.crt, key: c.key }
proxy: env
upstreamProxy: { url: http://proxy.test:8443, headers: { X-Gardener-Destination: outbound|1194||x } }
targets: { allow: [127.0.0.0/8], deny: [] }
admin: { listen: 127.0.0.1:8096 }
`
  )

  t.match(config, {
    cluster: 'demo',
    servers: [{ url: 'wss://vpn.demo.test:443', address: '127.0.0.1:10443' }],
    tls: { ca: /^\/.*\/ca\.crt$/, onExpiry: 'end' },
    proxy: 'env',
    upstreamProxy: {
      url: 'http://proxy.test:8443',
      headers: { 'X-Gardener-Destination': 'outbound|1194||x' }
    },
    connectTimeout: 10_000,
    reconnect: { maxDelay: 30_000 },
    targets: { allow: ['127.0.0.0/8'], deny: [], dialTimeout: 4_000 },
    admin: { listen: { host: '127.0.0.1', port: 8_096 } }
  })
})

t.test('without an allow list the policy decides, and nothing is made up', async t => {
  const config = await load(t, BASE + SERVER)

  t.notOk('allow' in config.targets)
  t.same(config.targets.deny, [])
  t.equal(config.proxy, 'env')
})

t.test('rules are networks, with or without ports', async t => {
  const config = await load(
    t,
    `${BASE}${SERVER}targets: { allow: [10.0.0.0/8, 'fd00::/8', 192.0.2.7, { cidr: 10.9.0.0/16, ports: [443, '8000-9000'] }] }`
  )
  t.equal(config.targets.allow?.length, 4)

  const table: [string, RegExp][] = [
    ['10.0.0.1/8', /targets\.allow\[0\]: allow rule "10\.0\.0\.1\/8" is not a network/],
    ['127.1', /targets\.allow\[0\]: expected a network such as .*, got the number 127\.1/],
    ["'0x7f.1'", /is not a network/],
    ['example.org', /is not a network/],
    ['10.0.0.0/33', /is not a network/],
    ['{ cidr: 10.0.0.0/8, ports: [0] }', /has the port "0"/],
    ['{ cidr: 10.0.0.0/8, ports: [65536] }', /has the port "65536"/],
    ["{ cidr: 10.0.0.0/8, ports: ['9-8'] }", /has the port "9-8"/],
    ['{ cidr: 10.0.0.0/8, ports: [] }', /expected a network such as/],
    ['{ cdir: 10.0.0.0/8 }', /expected a network such as .*, got a mapping/]
  ]
  for (const [rule, message] of table)
    t.match(await complaints(t, `${BASE}${SERVER}targets: { allow: [${rule}] }`), [message], rule)
})

t.test('servers are reached by wss, by ws on this machine only', async t => {
  const servers = (entry: string): string => `${BASE}servers: [ { ${entry} } ]`

  for (const entry of [
    'url: wss://vpn.demo.test',
    'url: ws://127.0.0.1:80',
    "url: 'ws://[::1]:80'",
    'url: ws://localhost:80',
    "url: 'wss://a', address: '[2001:db8::1]:443'",
    "url: 'wss://a', address: 'lb.example.org:443', serverName: b"
  ]) {
    await t.resolves(load(t, servers(entry)), entry)
  }
  const table: [string, RegExp][] = [
    ['url: ws://vpn.demo.test', /ws:\/\/ has no TLS .* write wss:\/\/vpn\.demo\.test/],
    ['url: https://vpn.demo.test', /expected a URL that begins with wss:\/\/ or ws:\/\//],
    ['url: vpn.demo.test:443', /expected a URL/],
    ['url: wss://me:secret@vpn.demo.test', /a user or password has no place/],
    ['url: wss://vpn.demo.test/path', /a path has no place/],
    ['url: wss://vpn.demo.test/?a', /a query or fragment has no place/],
    ['url: wss://a, address: a', /servers\[0\]\.address: expected host:port/],
    ["url: wss://a, address: 'a:0'", /expected host:port/],
    ["url: wss://a, address: ':443'", /expected host:port/],
    ["url: wss://a, address: 'unix:/x'", /expected host:port/]
  ]
  for (const [entry, message] of table) t.match(await complaints(t, servers(entry)), [message], entry)
  t.match(await complaints(t, `${BASE}servers: []`), [/servers: expected a list of at least 1/])
})

t.test("what happens when a server's certificate expires is one of two words", async t => {
  const written = (word: string): string => BASE.replace(' }', `, onExpiry: ${word} }`) + SERVER
  t.equal((await load(t, written('keep'))).tls.onExpiry, 'keep')
  t.match(await complaints(t, written('close')), [/tls\.onExpiry: expected .*end.*keep/])
})

t.test('a proxy is env, none or a URL, and its password is shown to nobody', async t => {
  for (const proxy of ['env', 'none', 'http://proxy:3128', 'https://me:secret@proxy']) {
    await t.resolves(load(t, `${BASE}${SERVER}proxy: ${proxy}`), proxy)
  }
  for (const proxy of ['direct', 'proxy:3128', 'socks5://proxy:1080', 'true']) {
    t.match(
      await complaints(t, `${BASE}${SERVER}proxy: ${proxy}`),
      [/proxy: expected env, none, a URL that begins with http:\/\/ or https:\/\//],
      proxy
    )
  }
  const config = await load(
    t,
    `${BASE}${SERVER}proxy: https://me:secret@proxy\ngateway: { url: http://g, headers: { Proxy-Authorization: secret } }`
  )
  t.notMatch(showConfig(shootSchema, config), /secret/)
})

t.test(
  'what cannot be sent to a proxy or upstream proxy is refused here, and the secret is not repeated',
  async t => {
    const read = (extra: string) => load(t, BASE + SERVER + extra)
    for (const url of [
      'http://user:50%@proxy:3128',
      'http://us%er:x@proxy',
      'http://u:geheim%zz@proxy',
      'http://u:a%0db@proxy'
    ]) {
      const failure = (await read(`proxy: '${url}'\n`).catch((error: unknown) => error)) as Error
      t.match(
        failure.message,
        /proxy: a % in the user or password stands for itself only when it is written as %25/,
        url
      )
      t.notMatch(failure.message, 'geheim')
    }
    for (const url of ['http://user:50%25@proxy:3128', 'http://u:%FF%3A%20@proxy'])
      t.equal((await read(`proxy: '${url}'\n`)).proxy, url)
    const upstreamProxy = (value: string) =>
      `upstreamProxy: { url: 'http://gw', headers: { X: '${value}' } }\n`
    for (const value of ['\u0100', 'a\u{1F600}'])
      await t.rejects(read(upstreamProxy(value)), {
        message: /upstreamProxy\.headers\.X: the value of a header has no .* above U\+00FF/
      })
    t.equal((await read(upstreamProxy('caf\u00e9 \u00ff'))).upstreamProxy?.headers['X'], 'caf\u00e9 \u00ff')
  }
)

t.test('gateway is the old name of upstreamProxy, in the file, in variables and flags', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'shoot-'))
  t.teardown(() => rm(dir, { recursive: true }))
  const file = join(dir, 'shoot.yaml')
  const read = async (yaml: string, options: Omit<LoadOptions, 'file' | 'onWarning'> = {}) => {
    const warnings: string[] = []
    await writeFile(file, `${BASE}${SERVER}${yaml}`)
    const config = await loadConfig(shootSchema, { file, ...options, onWarning: line => warnings.push(line) })
    t.notOk('gateway' in config)
    return { url: config.upstreamProxy?.url, warnings }
  }
  const renamed = 'gateway: renamed to upstreamProxy; the old name will go'

  t.same(await read('upstreamProxy: { url: http://a }'), { url: 'http://a', warnings: [] })
  t.same(await read('gateway: { url: http://a }'), { url: 'http://a', warnings: [`${file}:4:1: ${renamed}`] })
  t.same(await read('', { env: { TENDRIL_GATEWAY_URL: 'http://b' } }), {
    url: 'http://b',
    warnings: [`TENDRIL_GATEWAY_URL: ${renamed}`]
  })
  t.same(await read('', { overrides: [parseSet('gateway.url=http://c')] }), {
    url: 'http://c',
    warnings: [`--set gateway.url: ${renamed}`]
  })
  await t.rejects(read('gateway: { url: http://a }\nupstreamProxy: { url: http://a }'), {
    message: /shoot.yaml:4:1: gateway: renamed to upstreamProxy, which is given as well/
  })
  await t.rejects(read('gateway: { url: http://a }', { env: { TENDRIL_UPSTREAM_PROXY_URL: 'http://b' } }), {
    message: /shoot.yaml:4:1: gateway: renamed to upstreamProxy, which is given as well/
  })
  await t.rejects(read('gateway: { ulr: http://a }'), {
    message: /gateway\.ulr: unknown key; did you mean url/
  })
})
