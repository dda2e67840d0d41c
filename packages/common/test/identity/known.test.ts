import t from 'tap'
import { KnownCertificates, type Known } from '../../src/identity/known.js'

const moment = new Date('2030-01-01T00:00:00Z')

function facts(fingerprint256: string): Known {
  const identity = { role: undefined, dnsNames: [], uris: [], fingerprint256, notAfter: moment }
  return { identity, notBefore: moment, notAfter: moment, clientAuth: true }
}

t.test('what was added is found by its fingerprint, nothing else is', async t => {
  const known = new KnownCertificates()
  const one = facts('AA:BB')

  known.add(one)

  t.equal(known.get({ fingerprint256: 'AA:BB' }), one)
  t.equal(known.get({ fingerprint256: 'AA:BC' }), undefined)
})

t.test('at the limit the one known longest is forgotten', async t => {
  const known = new KnownCertificates(3)
  const found = (): string[] => ['1', '2', '3', '4'].filter(name => known.get({ fingerprint256: name }))

  for (const name of ['1', '2', '3']) known.add(facts(name))
  t.same(found(), ['1', '2', '3'])
  known.add(facts('4'))
  t.same(found(), ['2', '3', '4'])
})
