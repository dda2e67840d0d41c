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
    '240.0.0.1',
    'fd00::1',
    '2001:db8::1',
    '64:ff9b::808:808'
  ]) {
    t.ok(allowed({}, address), address)
  }
})

t.test('special ranges and all their disguises are denied, at their edges too', async t => {
  const special: Record<string, string[]> = {
    loopback: ['127.0.0.0', '127.0.0.1', '127.255.255.255', '::1', '::ffff:127.0.0.1', '::ffff:7f00:1'],
    'link-local': ['169.254.0.0', '169.254.169.254', '169.254.255.255', 'fe80::', 'fe80::1', 'febf:ffff::1'],
    multicast: ['224.0.0.0', '239.255.255.255', 'ff00::', 'ff02::1', '::ffff:224.0.0.1'],
    unspecified: ['0.0.0.0', '0.255.255.255', '::', '::ffff:0.0.0.0'],
    broadcast: ['255.255.255.255', '::ffff:255.255.255.255']
  }
  for (const [name, addresses] of Object.entries(special)) {
    for (const address of addresses) {
      const sentence = `${name} addresses are denied unless an allow rule names them`
      t.equal(denied({}, address), sentence, address)
      t.equal(denied({ allow: ['0.0.0.0/0', '::/0'] }, address), sentence, `${address} under allow-all`)
    }
  }
  const disguised = [
    '::127.0.0.1',
    '::ffff:0:127.0.0.1',
    '64:ff9b::7f00:1',
    '2002:7f00:1::',
    '64:ff9b::a9fe:a9fe'
  ]
  for (const address of disguised) t.notOk(allowed({ allow: ['0.0.0.0/0', '::/0'] }, address), address)
  for (const address of [
    '126.255.255.255',
    '128.0.0.0',
    '169.253.255.255',
    '169.255.0.0',
    '1.0.0.0',
    'fec0::1',
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
