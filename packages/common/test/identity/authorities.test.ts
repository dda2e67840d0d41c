/** Signatures are real: authorities of our own PKI, and an operator's with an intermediate one, made by openssl. */
import { type KeyObject, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { comesFrom, haveCommonAuthority, readAuthorities } from '@tendril/common/identity/authorities'
import { createAuthority } from '@tendril/common/identity/certificate'
import { makeKeyPair } from '@tendril/common/identity/keys'
import { verifyPeer } from '@tendril/common/identity/peer'
import { handshakes, makeAuthority, makeDirectory, operatorPki } from './fixtures.js'

const EC = ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256']

t.test('sets of authorities have one in common by its key, not by its name or its text', async t => {
  const keys = makeKeyPair()
  const [first, renewed] = [1, 2].map(() => createAuthority({ commonName: 'ca', keys }))
  const namesake = makeAuthority('ca').cert
  const common = (some: string[], others: string[]): boolean =>
    haveCommonAuthority(readAuthorities(some), readAuthorities(others))

  t.ok(common([first!], [`# comment\n${first!}`]))
  t.ok(common([namesake, first!], [renewed!]), 'a renewed authority is the same one')
  t.notOk(common([first!], [namesake]))
  t.notOk(common([], [first!]))
})

t.test('an authority and one that it has issued are common, either way round', async t => {
  const dir = makeDirectory(t)
  operatorPki(dir, EC)
  const [root, middle] = ['root.crt', 'middle.crt'].map(file => readFileSync(join(dir, file), 'utf8'))

  t.ok(haveCommonAuthority(readAuthorities([root!]), readAuthorities([middle!])))
  t.ok(haveCommonAuthority(readAuthorities([middle!]), readAuthorities([root!])))
})

t.test('a certificate comes from the authority that has signed it, while that is valid', async t => {
  const ours = makeAuthority('ours')
  const leaf = new X509Certificate(ours.issue().cert)
  const from = (...pems: string[]): boolean => comesFrom(leaf, readAuthorities(pems))

  t.ok(from(ours.cert))
  t.ok(from(makeAuthority('others').cert, ours.cert))
  t.notOk(from(makeAuthority('others').cert))
  t.notOk(from(makeAuthority('ours').cert), 'a namesake has another key')
  t.notOk(from())
  const later = new Date(ours.issuer.certificate.validTo)
  t.ok(comesFrom(leaf, [ours.issuer.certificate], later))
  t.notOk(comesFrom(leaf, [ours.issuer.certificate], new Date(later.getTime() + 1)))
  t.notOk(comesFrom(leaf, [new X509Certificate(ours.issue().cert)]), 'a leaf is no authority')
})

t.test('sixteen certificates of one key that have issued one another are each followed once', async t => {
  const keys = makeKeyPair()
  const own = readAuthorities(Array.from({ length: 17 }, () => createAuthority({ commonName: 'ca', keys })))
  // As the holder of an intermediate authority may show them behind its leaf.
  own.forEach((one, at) => Object.defineProperty(one, 'issuerCertificate', { value: own[at + 1] }))
  let verified = 0
  for (const one of own) {
    const verify = one.verify.bind(one)
    Object.defineProperty(one, 'verify', { value: (key: KeyObject) => (verified++, verify(key)) })
  }

  t.notOk(comesFrom(own[0]!, readAuthorities([makeAuthority('ca').cert])))
  t.ok(verified <= 17 * 18, `${verified} signatures verified`)
  t.ok(comesFrom(own[0]!, readAuthorities([createAuthority({ commonName: 'ca', keys })])))
})

for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
  t.test(`the intermediate that was shown over ${version} leads on`, async t => {
    const dir = makeDirectory(t)
    const { ca, leaf } = operatorPki(dir, EC)
    const read = (file: string): string => readFileSync(file, 'utf8')
    const pair = { cert: read(leaf.cert), key: read(leaf.key) }
    let shown: X509Certificate | undefined
    const { shake } = await handshakes(t, { ...pair, ca: read(ca), maxVersion: version }, socket => {
      shown = socket.getPeerX509Certificate()
      return verifyPeer(socket)
    })

    await shake({ ca: read(ca), ...pair })

    // Node 24 does not tell a server what else was shown: then it is refused.
    t.equal(comesFrom(shown!, readAuthorities([read(ca)])), shown!.issuerCertificate !== undefined)
    t.ok(comesFrom(shown!, readAuthorities([read(join(dir, 'middle.crt'))])))
    t.notOk(comesFrom(shown!, readAuthorities([makeAuthority('root').cert])))
    t.notOk(comesFrom(new X509Certificate(pair.cert), readAuthorities([read(ca)])), 'alone it does not')
  })
}
