import t from 'tap'
import { formatRole, isName, parseRole } from '@tendril/common/identity/role'

t.test('a role survives the way into a URI and back', async t => {
  for (const claim of [
    { role: 'client', cluster: 'demo' },
    { role: 'client', cluster: 'shoot--a.b-1' },
    { role: 'server' },
    { role: 'caller', name: 'kube-apiserver' }
  ] as const) {
    t.strictSame(parseRole(['https://elsewhere', formatRole(claim)]), claim)
  }
})

t.test('certificates without a URI of ours have no role', async t => {
  t.equal(parseRole([]), undefined)
  t.equal(parseRole(['spiffe://x/y', 'https://tendril://client/x']), undefined)
})

t.test('malformed URIs of ours are refused, not ignored', async t => {
  for (const uri of [
    'tendril:',
    'tendril://',
    'tendril://client',
    'tendril://client/',
    'tendril://client/a/b',
    'tendril://client/A',
    'tendril://client/a?b',
    'tendril://client/a%2fb',
    'tendril://client/a\n',
    'tendril://server/',
    'tendril://server/a',
    'tendril://admin/a',
    'tendril:/server',
    'TENDRIL://server',
    'Tendril://client/a',
    `tendril://client/${'a'.repeat(64)}`
  ]) {
    t.equal(typeof parseRole([uri]), 'string', uri)
  }
})

t.test('two URIs of ours are refused even when they agree', async t => {
  t.match(parseRole(['tendril://server', 'tendril://server']), /several/)
  t.match(parseRole(['tendril://client/a', 'TENDRIL://x']), /several/)
})

t.test('names are bounded at 63 characters', async t => {
  t.equal(isName(''), false)
  t.equal(isName('a'), true)
  t.equal(isName('a'.repeat(62)), true)
  t.equal(isName('a'.repeat(63)), true)
  t.equal(isName('a'.repeat(64)), false)
})

t.test('names fit host names and file names', async t => {
  for (const name of ['-a', 'a-', '.a', 'a.', 'a/b', '../a', 'a b', 'a_b', 'ä', 'a\n', 'A'])
    t.equal(isName(name), false, name)
  for (const name of ['0', 'a-b', 'a.b', 'a--b', '10.0']) t.equal(isName(name), true, name)
  t.throws(() => formatRole({ role: 'client', cluster: '../x' }), {
    code: 'BAD_CONFIG',
    message: /"\.\.\/x" cannot name a client/
  })
})
