import t from 'tap'
import type { Rule } from '../../src/policy/policy.js'
import { createPolicy } from '../../src/policy/policy.js'

const denied = (rules: { allow?: Rule[]; deny?: Rule[] }, address: string, port = 443) => {
  const verdict = createPolicy(rules).check(address, port)
  return verdict.allowed ? undefined : verdict.rule
}
const allowed = (rules: { allow?: Rule[]; deny?: Rule[] }, address: string, port = 443) =>
  createPolicy(rules).check(address, port).allowed

t.test('without rules everything may be dialled that is not special', async t => {
  for (const address of [
    '10.0.0.1',
    '192.168.1.1',
    '8.8.8.8',
    'fd00::1',
    '2001:db8::1',
    '64:ff9b::808:808'
  ]) {
    t.ok(allowed({}, address), address)
  }
})

t.test('special ranges and all their embeddedForms are denied, at their edges too', async t => {
  const special: Record<string, string[]> = {
    loopback: ['127.0.0.0', '127.0.0.1', '127.255.255.255', '::1', '::ffff:127.0.0.1', '::ffff:7f00:1'],
    'link-local': ['169.254.0.0', '169.254.169.254', '169.254.255.255', 'fe80::', 'fe80::1', 'febf:ffff::1'],
    multicast: ['224.0.0.0', '239.255.255.255', 'ff00::', 'ff02::1', '::ffff:224.0.0.1'],
    unspecified: ['0.0.0.0', '0.255.255.255', '::', '::ffff:0.0.0.0'],
    broadcast: ['255.255.255.255', '::ffff:255.255.255.255'],
    reserved: ['240.0.0.0', '255.255.255.254', '::ffff:240.0.0.1'],
    'site-local': ['fec0::', 'fec0::1', 'feff:ffff::1'],
    'cloud metadata': [
      '100.100.100.200',
      '::ffff:100.100.100.200',
      'fd00:100::100:200',
      '168.63.129.16',
      '192.0.0.192',
      'fd00:c1::a9fe:a9fe',
      'fd00:ec2::',
      'fd00:ec2::254',
      'fd00:ec2::23',
      'fd00:ec2:ffff::1',
      'fd20:ce::254',
      'fd00:42::42',
      'fd00:a9fe:a9fe::1'
    ]
  }
  for (const [name, addresses] of Object.entries(special)) {
    for (const address of addresses) {
      const sentence = `${name} addresses are denied unless an allow rule names them`
      t.equal(denied({}, address), sentence, address)
      t.equal(denied({ allow: ['0.0.0.0/0', '::/0'] }, address), sentence, `${address} under allow-all`)
    }
  }
  const embedded = [
    '::127.0.0.1',
    '::ffff:0:127.0.0.1',
    '64:ff9b::7f00:1',
    '2002:7f00:1::',
    '64:ff9b::a9fe:a9fe',
    '64:ff9b::a83f:8110',
    // NAT64 with a local prefix of 96, 64, 56 and 48 bits
    '64:ff9b:1::a9fe:a9fe',
    '64:ff9b:1:0:a9:fea9:fe00:0',
    '64:ff9b:1:a9:fe:a9fe::',
    '64:ff9b:1:a9fe:a9:fe00::',
    // Teredo: the server, and the client with every bit turned over
    '2001:0:a9fe:a9fe:0:ffff:f7f7:f7f7',
    '2001:0:808:808:0:ffff:5601:5601',
    '2001:0:808:808:0:ffff:80ff:fffe',
    // ISATAP, with either of its identifiers
    '2001:db8::5efe:a9fe:a9fe',
    'fd00::200:5efe:7f00:1',
    '2002:a83f:8110::1'
  ]
  for (const address of embedded) t.notOk(allowed({ allow: ['0.0.0.0/0', '::/0'] }, address), address)
  for (const address of [
    '126.255.255.255',
    '128.0.0.0',
    '169.253.255.255',
    '169.255.0.0',
    '1.0.0.0',
    '100.100.100.199',
    '100.100.100.201',
    '168.63.129.15',
    '168.63.129.17',
    '192.0.0.191',
    'fd20:ce::253',
    'fd00:ec1:ffff::',
    'fd00:ec3::',
    '::2:0:0:0'
  ]) {
    t.ok(allowed({}, address), `${address} is just outside`)
  }
})

t.test('an allow rule opens a special range only when it lies inside it', async t => {
  t.ok(allowed({ allow: ['127.0.0.0/8'] }, '127.0.0.1'))
  t.ok(allowed({ allow: ['127.0.0.1'] }, '127.0.0.1'))
  t.ok(allowed({ allow: ['127.0.0.0/8'] }, '::ffff:127.0.0.1'), 'a mapped address is the same address')
  t.ok(allowed({ allow: ['::ffff:127.0.0.0/104'] }, '127.0.0.1'), 'and so is a mapped rule')
  t.ok(allowed({ allow: ['::1/128'] }, '::1'))
  t.notOk(allowed({ allow: ['127.0.0.1'] }, '127.0.0.2'))
  t.notOk(allowed({ allow: ['126.0.0.0/7'] }, '127.0.0.1'), 'one bit wider does not name it')
  t.notOk(allowed({ allow: ['0.0.0.0/0', '169.254.1.0/24'] }, '169.254.169.254'))
  t.notOk(allowed({ allow: [{ cidr: '127.0.0.0/8', ports: [80] }, '0.0.0.0/0'] }, '127.0.0.1', 81))
  t.notOk(allowed({ allow: ['127.0.0.0/8'] }, '::1'))
})

t.test('a rule inside the range of a metadata service, and only such a rule, opens it', async t => {
  for (const address of ['168.63.129.16', '100.100.100.200', 'fd00:ec2::254', 'fd20:ce::254']) {
    t.ok(allowed({ allow: [address] }, address), address)
    for (const broad of ['0.0.0.0/0', '::/0', '168.0.0.0/8', '100.64.0.0/10', 'fd00::/8', 'fc00::/7'])
      t.notOk(allowed({ allow: [broad] }, address), `${address} under ${broad}`)
  }
  t.ok(allowed({ allow: ['fd00:ec2::253', '0.0.0.0/0'] }, 'fd00:ec2::253'))
  t.notOk(allowed({ allow: ['fd00:ec2::253'] }, 'fd00:ec2::254'))
  t.ok(allowed({ allow: ['240.0.0.0/8'] }, '240.0.0.1'), 'who uses 240/4 inside says so')
  t.notOk(allowed({ allow: ['240.0.0.0/4'] }, '255.255.255.255'))
  t.ok(allowed({ allow: ['fec0::/16'] }, 'fec0::1'))
})

t.test('addresses that wrap an ordinary one may be dialled', async t => {
  for (const address of [
    '64:ff9b:1::808:808',
    '64:ff9b:1:0:8:808:800:0',
    '64:ff9b:1:808:8:800::',
    '2001:0:808:808:0:ffff:f7f7:f7f7',
    '2001:db8::5efe:808:808',
    '2001:1::1'
  ])
    t.ok(allowed({}, address), address)
  t.notOk(allowed({ deny: ['8.8.8.8'] }, '64:ff9b:1::808:808'), 'but not what a deny rule covers')
  t.notOk(allowed({ deny: ['8.8.8.8'] }, '2001:0:1:1:0:ffff:f7f7:f7f7'))
})

t.test('what this process listens at is never dialled, whatever the rules say', async t => {
  const all: Rule[] = ['0.0.0.0/0', '::/0', '127.0.0.0/8', '::1', '0.0.0.0/8', '::']
  const check = (host: string, address: string, port = 8096) =>
    createPolicy({
      allow: all,
      ownListeners: () => [{ host, port: 8096 }],
      ownAddresses: () => ['127.0.0.1', '10.0.0.5', '::1', 'fe80::5', 'fd00::5']
    }).check(address, port)
  const denials: [string, string[]][] = [
    ['10.0.0.5', ['10.0.0.5', '::ffff:10.0.0.5', '::ffff:a00:5', '64:ff9b::a00:5', '0.0.0.0', '::']],
    ['::ffff:10.0.0.5', ['10.0.0.5']],
    ['127.0.0.1', ['127.0.0.1', '::ffff:127.0.0.1', '0.0.0.0']],
    ['0.0.0.0', ['10.0.0.5', '127.0.0.1', '127.9.9.9', '::ffff:10.0.0.5', '0.0.0.0']],
    ['::', ['10.0.0.5', '127.0.0.1', '::1', 'fd00::5', '::ffff:10.0.0.5', '0.0.0.0', '::']],
    ['fd00::5', ['fd00::5', 'fd00:0::5']]
  ]
  for (const [host, addresses] of denials) {
    for (const address of addresses) {
      const rule = 'it is a listener of the client itself'
      t.same(check(host, address), { allowed: false, rule }, `${address} at ${host}`)
    }
  }
  t.ok(check('::', '10.0.0.5', 10_250).allowed, 'another port of its own address: the kubelet of its node')
  t.ok(check('::', '10.0.0.6').allowed, 'the same port elsewhere')
  t.ok(check('10.0.0.5', '127.0.0.1').allowed, 'another address of its own, where it does not listen')
  t.ok(check('0.0.0.0', 'fd00::5').allowed, 'all of IPv4 is not IPv6')
})

t.test('deny beats allow, and the rule is named', async t => {
  t.equal(denied({ allow: ['10.0.0.0/8'], deny: ['10.1.0.0/16'] }, '10.1.2.3'), 'rule "deny 10.1.0.0/16"')
  t.ok(allowed({ allow: ['10.0.0.0/8'], deny: ['10.1.0.0/16'] }, '10.2.0.0'))
  t.notOk(allowed({ deny: ['10.1.0.0/16'] }, '::ffff:10.1.2.3'), 'mapped')
  t.notOk(allowed({ deny: ['10.1.0.0/16'] }, '64:ff9b::a01:203'), 'NAT64')
  t.notOk(allowed({ deny: ['64:ff9b::/96'] }, '64:ff9b::a01:203'), 'the wrapping network')
  t.notOk(allowed({ allow: ['127.0.0.0/8'], deny: ['127.0.0.1'] }, '127.0.0.1'))
})

t.test('an empty allow list allows nothing, a list nothing else', async t => {
  t.equal(denied({ allow: [] }, '10.2.0.9', 22), 'no allow rule covers 10.2.0.9:22')
  t.equal(denied({ allow: ['10.0.0.0/8'] }, 'fd00::1', 22), 'no allow rule covers [fd00::1]:22')
  t.ok(allowed({ allow: ['fd00::/8'] }, 'fdff::1'))
  t.notOk(allowed({ allow: ['10.0.0.0/8'] }, '64:ff9b::a00:1'), 'a translated address must be allowed itself')
})

t.test('ports narrow a rule, at their edges', async t => {
  const allow = [{ cidr: '10.0.0.0/8', ports: [443, '22', '8000-9000'] }]
  for (const port of [443, 22, 8000, 9000]) t.ok(allowed({ allow }, '10.0.0.1', port), `${port}`)
  for (const port of [442, 444, 7999, 9001]) t.notOk(allowed({ allow }, '10.0.0.1', port), `${port}`)
  const deny = [{ cidr: '10.0.0.0/8', ports: [22] }]
  t.equal(denied({ deny }, '10.0.0.1', 22), 'rule "deny 10.0.0.0/8 ports 22"')
  t.ok(allowed({ deny }, '10.0.0.1', 23))
})

t.test('a text that is not a canonical address is never allowed', async t => {
  for (const text of [
    '127.1',
    '0x7f.1',
    '0177.0.0.1',
    '010.0.0.1',
    '2130706433',
    'fe80::1%eth0',
    '[::1]',
    '',
    'name',
    '10.0.0.1 '
  ]) {
    t.equal(denied({}, text), `"${text}" is not a canonical IP address`)
  }
})

t.test('a rule that cannot be read is a configuration error that names it', async t => {
  for (const rule of [
    '10.0.0.1/8',
    '10.0.0.0/33',
    '10.0.0.0/08',
    '10.0.0.0/',
    '10.0/8',
    '::/129',
    'fe80::%1/10',
    'name',
    ''
  ]) {
    t.throws(
      () => createPolicy({ allow: [rule] }),
      { code: 'BAD_CONFIG', detail: new RegExp(`allow rule "${rule}"`) },
      rule
    )
  }
  for (const port of [0, 65_536, '9-8', '1-65536', 'http', 1.5, -1]) {
    t.throws(
      () => createPolicy({ deny: [{ cidr: '10.0.0.0/8', ports: [port] }] }),
      { code: 'BAD_CONFIG' },
      `${port}`
    )
  }
  t.ok(allowed({ allow: [{ cidr: '10.0.0.0/8', ports: [1, 65_535] }] }, '10.0.0.1', 65_535))
})
