import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import type { FrontConfig, SeedConfig } from '../src/config.js'
import { egressConfig, type EgressOptions } from '../src/egress.js'
import { writePki } from '../src/identity/authority.js'

type Listen = FrontConfig['listen']

/** A configuration of which only the front matters here; with a certificate for `hosts`. */
async function seed(
  t: Test,
  listen: Listen,
  { hosts = ['vpn-seed-server', '127.0.0.1', '::1'], tls = true } = {}
): Promise<SeedConfig> {
  const dir = await mkdtemp(join(tmpdir(), 'egress-'))
  t.teardown(() => rm(dir, { recursive: true }))
  if (hosts.length > 0) await writePki({ dir, hosts, clusters: [] })
  const files = { cert: join(dir, 'server.crt'), key: join(dir, 'server.key'), clientCa: join(dir, 'ca.crt') }
  const front = { name: 'kube-apiserver', listen, ...(tls && { tls: files }) }
  return { fronts: [front as FrontConfig] } as SeedConfig
}

async function print(
  t: Test,
  listen: Listen,
  options: EgressOptions = {}
): Promise<{ text: string; connection: unknown }> {
  const text = await egressConfig(await seed(t, listen), options)
  const document = parse(text)
  t.same(Object.keys(document), ['apiVersion', 'kind', 'egressSelections'])
  t.match(document, { apiVersion: 'apiserver.k8s.io/v1beta1', kind: 'EgressSelectorConfiguration' })
  t.equal(document.egressSelections.length, 1)
  t.equal(document.egressSelections[0].name, 'cluster')
  return { text, connection: document.egressSelections[0].connection }
}

t.test('a TLS front becomes HTTPConnect over TCP, with the three files it needs', async t => {
  const { text, connection } = await print(t, { host: '127.0.0.1', port: 9_443 })

  t.strictSame(connection, {
    proxyProtocol: 'HTTPConnect',
    transport: {
      tcp: {
        url: 'https://127.0.0.1:9443',
        tlsConfig: {
          caBundle: '/etc/kubernetes/tendril/ca.crt',
          clientCert: '/etc/kubernetes/tendril/kube-apiserver.crt',
          clientKey: '/etc/kubernetes/tendril/kube-apiserver.key'
        }
      }
    }
  })
  t.match(text, /^# .*--egress-selector-config-file=\/etc\/kubernetes\/tendril\/egress\.yaml$/m)
  t.notMatch(text, /tlsServerName/)
})

t.test('a Unix socket becomes HTTPConnect over UDS, path without a scheme', async t => {
  const { connection } = await print(t, { path: '/run/tendril/front.sock' })

  t.strictSame(connection, {
    proxyProtocol: 'HTTPConnect',
    transport: { uds: { udsName: '/run/tendril/front.sock' } }
  })
})

t.test('the host, the directory and the server name can be told', async t => {
  const { text, connection } = await print(
    t,
    { host: '', port: 9_443 },
    { host: '10.0.0.9', tlsServerName: 'vpn-seed-server', directory: '/files/' }
  )

  t.match(connection, {
    transport: {
      tcp: {
        url: 'https://10.0.0.9:9443',
        tlsConfig: { caBundle: '/files/ca.crt', tlsServerName: 'vpn-seed-server' }
      }
    }
  })
  t.match(text, /tlsServerName needs Kubernetes 1\.36/)
})

t.test('IPv6 hosts stand in brackets, however they are told', async t => {
  for (const host of ['::1', '[::1]', undefined]) {
    const { connection } = await print(t, { host: '::1', port: 1 }, host === undefined ? {} : { host })
    t.match(connection, { transport: { tcp: { url: 'https://[::1]:1' } } })
  }
})

t.test('what kube-apiserver could not use is refused, with what to do', async t => {
  const everywhere = await seed(t, { host: '0.0.0.0', port: 1 })
  const refusal = (config: SeedConfig, options: EgressOptions, message: RegExp) =>
    t.rejects(egressConfig(config, options), { code: 'BAD_CONFIG', message })

  await refusal(
    everywhere,
    {},
    /listens on 0\.0\.0\.0:1: say with --host .*valid for vpn-seed-server, 127\.0\.0\.1/
  )
  await refusal(everywhere, { host: 'other' }, /not valid for other/)
  await refusal(everywhere, { host: '10.0.0.1' }, /not valid for 10\.0\.0\.1/)
  await refusal(everywhere, { host: '10.0.0.1', tlsServerName: 'other' }, /not valid for other/)
  await refusal(everywhere, { front: 'nope' }, /there is no front nope; the configuration has kube-apiserver/)
  await refusal(await seed(t, { host: '127.0.0.1', port: 0 }), {}, /any free port/)
  await refusal(await seed(t, { host: '127.0.0.1', port: 1 }, { tls: false }), {}, /with TLS only/)
  await refusal(await seed(t, { path: '/x' }), { host: 'a' }, /Unix socket/)
  await refusal({ fronts: [] } as unknown as SeedConfig, {}, /no fronts/)
})

t.test('with several fronts one is named', async t => {
  const config = await seed(t, { path: '/a' })
  const [front] = config.fronts
  const two = {
    ...config,
    fronts: [front, { ...front, name: 'other', listen: { path: '/b' } }]
  } as SeedConfig

  await t.rejects(egressConfig(two, {}), {
    message: /which front\? Name one with --front; the configuration has kube-apiserver, other/
  })
  t.match(await egressConfig(two, { front: 'other' }), /udsName: \/b/)
})

t.test('a certificate that is not at hand is said to be unchecked', async t => {
  const config = await seed(t, { host: '127.0.0.1', port: 1 }, { hosts: [] })

  t.match(await egressConfig(config, {}), /Not checked: whether .*server\.crt is valid for 127\.0\.0\.1/)
})
