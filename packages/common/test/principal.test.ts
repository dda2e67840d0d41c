import fc from 'fast-check'
import t from 'tap'
import { PRINCIPAL_NAME_LIMIT, formatPrincipal, principalName } from '../src/principal.js'

t.test('a name is visible ASCII, whatever the certificate says', async t => {
  for (const [text, name] of [
    ['system:kube-apiserver', 'system:kube-apiserver'],
    ['Jane Doe', 'Jane%20Doe'],
    ['100%', '100%25'],
    ['ü', '%c3%bc'],
    ['a\r\nprincipal: b\u202e', 'a%0d%0aprincipal:%20b%e2%80%ae'],
    ['', '']
  ] as const) {
    t.equal(principalName(text), name)
  }
})

t.test('different texts have different names', async () => {
  fc.assert(
    fc.property(
      fc.string({ unit: 'grapheme', maxLength: 20 }),
      fc.string({ unit: 'grapheme', maxLength: 20 }),
      (one, other) => (principalName(one) === principalName(other)) === (one === other)
    ),
    { numRuns: 2_000 }
  )
})

for (const more of [-1, 0, 1]) {
  t.test(`a name of the limit ${more < 0 ? '' : '+'}${more} bytes`, async t => {
    const text = 'a'.repeat(PRINCIPAL_NAME_LIMIT + more)

    const name = principalName(text)

    if (more <= 0) t.equal(name, text)
    else {
      t.ok(name.length <= PRINCIPAL_NAME_LIMIT)
      t.match(name, /^a+%$/, 'cut, and marked by what no other name ends with')
    }
  })
}

t.test('a name that is cut inside an escape stays unlike any name that is not cut', async t => {
  for (let before = 0; before < 3; before++) {
    const name = principalName('a'.repeat(before) + 'ü'.repeat(200))

    t.ok(name.length <= PRINCIPAL_NAME_LIMIT)
    t.match(name, /^a*(%[0-9a-f]{2})+%$/)
  }
})

t.test('as log lines have them', async t => {
  t.equal(formatPrincipal({ kind: 'caller', name: 'kube-apiserver' }), 'caller/kube-apiserver')
  t.equal(formatPrincipal({ kind: 'client', name: 'node-1', cluster: 'demo' }), 'client/demo/node-1')
  t.equal(formatPrincipal({ kind: 'local', name: 'unix:demo' }), 'local/unix:demo')
})
