import { mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import {
  ResolverFiles,
  nameserverOf,
  parseHosts,
  parseNsswitch,
  parseResolvConf
} from '../src/resolver-files.js'
import { FakeClock } from './support/fake-clock.js'

t.test('a resolv.conf of a pod is read as it is meant', async t => {
  t.same(
    parseResolvConf(
      'search shop.svc.cluster.local svc.cluster.local cluster.local. # node\nnameserver 10.96.0.10\noptions ndots:5\n'.replace(
        ' # node',
        ''
      )
    ),
    {
      nameservers: ['10.96.0.10'],
      search: ['shop.svc.cluster.local', 'svc.cluster.local', 'cluster.local'],
      ndots: 5,
      timeoutMs: 2_000,
      attempts: 2,
      rotate: false,
      noAaaa: false,
      unsupported: []
    }
  )
})

t.test(
  'options, the last of search and domain, comments, limits and overrides count as in resolv.conf(5)',
  async t => {
    const conf = parseResolvConf(
      [
        '# nameserver 192.0.2.9',
        '; nameserver 192.0.2.9',
        'domain first.test',
        'search second.test third.test',
        'options ndots:99 timeout:99 attempts:99 rotate no-aaaa edns0 single-request trust-ad ndots:x',
        'nameserver 192.0.2.1',
        'nameserver [2001:db8::1]:5353',
        'nameserver 192.0.2.2:5353'
      ].join('\n')
    )
    t.match(conf, {
      nameservers: ['192.0.2.1', '[2001:db8::1]:5353', '192.0.2.2:5353'],
      search: ['second.test', 'third.test'],
      ndots: 15,
      timeoutMs: 30_000,
      attempts: 5,
      rotate: true,
      noAaaa: true,
      unsupported: []
    })
    t.same(parseResolvConf('search a.test\ndomain b.test').search, ['b.test'])
    t.same(parseResolvConf('').nameservers, ['127.0.0.1'], 'as glibc does')
    t.same(parseResolvConf('options ndots:0 timeout:0 attempts:0').ndots, 0)
    t.match(parseResolvConf('options timeout:0 attempts:0'), { timeoutMs: 2_000, attempts: 2 })
    const env = { LOCALDOMAIN: 'env.test', RES_OPTIONS: 'ndots:2 timeout:1' }
    t.match(parseResolvConf('search a.test', env), { search: ['env.test'], ndots: 2, timeoutMs: 1_000 })
    for (const count of [7, 8, 9]) {
      const text = Array.from({ length: count }, (_, at) => `nameserver 192.0.2.${at}\n`).join('')
      t.equal(parseResolvConf(text).nameservers.length, Math.min(count, 8), 'at most 8 nameservers')
    }
    for (const count of [31, 32, 33]) {
      const text = `search ${Array.from({ length: count }, (_, at) => `d${at}.test`).join(' ')}`
      t.equal(parseResolvConf(text).search.length, Math.min(count, 32), 'at most 32 domains')
    }
  }
)

t.test('what a resolver in this process cannot do is named', async t => {
  t.same(parseResolvConf('nameserver fe80::1%eth0\noptions use-vc\nnameserver nonsense').unsupported, [
    'nameserver fe80::1%eth0',
    'options use-vc',
    'nameserver nonsense'
  ])
  t.same(parseNsswitch('hosts: files dns'), { order: ['files', 'dns'], unsupported: [] })
  t.same(parseNsswitch(''), { order: ['files', 'dns'], unsupported: [] })
  t.same(parseNsswitch('passwd: files\nhosts:\tdns [!UNAVAIL=return] files # x'), {
    order: ['dns', 'files'],
    unsupported: []
  })
  t.same(parseNsswitch('hosts: files myhostname resolve [!UNAVAIL=return] dns').order, ['files', 'dns'])
  t.same(parseNsswitch('hosts: files mdns4_minimal [NOTFOUND=return] dns nis').unsupported, [
    'nsswitch.conf "hosts: … mdns4_minimal"',
    'nsswitch.conf "hosts: … nis"'
  ])
})

t.test('a nameserver is an address, with a port if need be', async t => {
  for (const text of [
    '10.0.0.10',
    'fd00::a',
    '10.0.0.10:5353',
    '[fd00::a]:53',
    '10.0.0.10:1',
    '10.0.0.10:65535'
  ])
    t.equal(nameserverOf(text), text)
  for (const text of [
    '',
    'ns.test',
    '10.0.0:53',
    '10.0.0.10:0',
    '10.0.0.10:65536',
    '[fd00::a]',
    '[10.0.0.1]:53',
    'fd00::a:b:c:d:e:f:1:53'
  ])
    t.equal(nameserverOf(text), undefined, text)
})

t.test('names in hosts are compared without case, and a name may have several addresses', async t => {
  const hosts = parseHosts(
    '127.0.0.1 localhost\n# 10.0.0.9 pod\n10.0.0.1\tPod pod.shop.svc # comment other\n::1 localhost\nfe80::1%lo x\nnonsense y\n10.0.0.2 pod'
  )
  t.same(Object.fromEntries(hosts), {
    localhost: ['127.0.0.1', '::1'],
    pod: ['10.0.0.1', '10.0.0.2'],
    'pod.shop.svc': ['10.0.0.1']
  })
})

t.test('files are read again when they have changed, and not more than once a second', async t => {
  const directory = t.testdir({ hosts: '10.0.0.1 pod\n', 'resolv.conf': 'nameserver 192.0.2.1\n' })
  const at = (name: string) => join(directory, name)
  mkdirSync(at('none'))
  const clock = new FakeClock()
  const files = new ResolverFiles(
    clock,
    { resolvConf: at('resolv.conf'), hosts: at('hosts'), nsswitch: at('missing') },
    {}
  )
  t.same(files.hosts.get('pod'), ['10.0.0.1'])

  writeFileSync(at('new'), 'nameserver 192.0.2.2\n')
  renameSync(at('new'), at('resolv.conf'))
  writeFileSync(at('hosts'), '10.0.0.2 pod and-more\n')
  clock.tick(999)
  t.same(files.resolvConf.nameservers, ['192.0.2.1'])
  clock.tick(1)
  t.same(files.resolvConf.nameservers, ['192.0.2.2'])
  t.same(files.hosts.get('pod'), ['10.0.0.2'])
})
