import { X509Certificate, createPrivateKey } from 'node:crypto'
import t from 'tap'
import { BACKDATE_MS, createAuthority, issueLeaf } from '@tendril/common/identity/certificate'
import { makeKeyPair } from '@tendril/common/identity/keys'
import { makeAuthority, makeDirectory, openssl, writeFiles } from './fixtures.js'

t.test('openssl accepts the chain for the purposes asked, strictly, and for no other', async t => {
  const dir = makeDirectory(t)
  const { cert, issue } = makeAuthority()
  writeFiles(dir, {
    'ca.crt': cert,
    'both.crt': issue().cert,
    'server.crt': issue({ usages: ['serverAuth'] }).cert,
    'client.crt': issue({ usages: ['clientAuth'] }).cert
  })
  const verify = (purpose: string, file: string): string =>
    openssl(dir, ['verify', '-x509_strict', '-CAfile', 'ca.crt', '-purpose', purpose, file])

  t.match(verify('sslserver', 'both.crt'), 'both.crt: OK')
  t.match(verify('sslclient', 'both.crt'), 'both.crt: OK')
  t.match(verify('sslserver', 'server.crt'), 'server.crt: OK')
  t.match(verify('sslclient', 'client.crt'), 'client.crt: OK')
  t.throws(() => verify('sslclient', 'server.crt'))
  t.throws(() => verify('sslserver', 'client.crt'))
})

t.test('an authority may sign leaves and revocation lists, and nothing may sign below a leaf', async t => {
  const dir = makeDirectory(t)
  const { cert, issue, issuer } = makeAuthority()
  const leaf = issue()
  writeFiles(dir, { 'ca.crt': cert, 'leaf.crt': leaf.cert })

  t.match(
    openssl(dir, ['x509', '-in', 'ca.crt', '-noout', '-text']),
    /critical\s+CA:TRUE, pathlen:0\s[\s\S]*critical\s+Certificate Sign, CRL Sign/
  )
  t.match(
    openssl(dir, ['x509', '-in', 'leaf.crt', '-noout', '-text']),
    /critical\s+CA:FALSE\s[\s\S]*critical\s+Digital Signature\s/
  )
  t.equal(issuer.certificate.ca, true)
  t.throws(
    () =>
      issueLeaf(
        { certificate: new X509Certificate(leaf.cert), key: createPrivateKey(leaf.key) },
        { commonName: 'x', publicKey: makeKeyPair().publicKey, usages: [] }
      ),
    { code: 'BAD_IDENTITY', message: /not an authority/ }
  )
})

t.test('a leaf names its authority by key and its names are as asked', async t => {
  const { cert, issuer, issue } = makeAuthority('Umlaut Ä')
  const hosts = ['Vpn.Demo.Test', '*.demo.test', '10.0.0.1', '::1', '2001:db8::5', 'localhost']
  const leaf = new X509Certificate(issue({ hosts, uris: ['tendril://server'] }).cert)
  const dir = makeDirectory(t)
  writeFiles(dir, { 'ca.crt': cert, 'leaf.crt': leaf.toString() })
  const keyId = (file: string, extension: string): string | undefined =>
    /((?:[0-9A-F]{2}:){19}[0-9A-F]{2})/.exec(
      openssl(dir, ['x509', '-in', file, '-noout', '-ext', extension])
    )?.[1]

  t.ok(leaf.checkIssued(issuer.certificate))
  t.ok(leaf.verify(issuer.certificate.publicKey))
  t.type(keyId('ca.crt', 'subjectKeyIdentifier'), 'string')
  t.equal(keyId('leaf.crt', 'authorityKeyIdentifier'), keyId('ca.crt', 'subjectKeyIdentifier'))
  t.equal(
    leaf.subjectAltName,
    'DNS:vpn.demo.test, DNS:*.demo.test, IP Address:10.0.0.1, IP Address:0:0:0:0:0:0:0:1, IP Address:2001:DB8:0:0:0:0:0:5, DNS:localhost, URI:tendril://server'
  )
  for (const host of ['vpn.demo.test', 'a.demo.test', 'localhost']) t.ok(leaf.checkHost(host), host)
  for (const ip of ['10.0.0.1', '::1', '2001:db8::5']) t.ok(leaf.checkIP(ip), ip)
})

t.test('hosts that are neither names nor addresses are refused', async t => {
  const { issue } = makeAuthority()
  const label = 'a'.repeat(63)
  const longest = `${label}.${label}.${label}.${'a'.repeat(61)}`
  t.equal(longest.length, 253)

  for (const host of ['a', '_x.y', 'a-b.c', '1.example', label, longest, 'xn--bcher-kva.test']) {
    t.doesNotThrow(() => issue({ hosts: [host] }), host)
  }
  t.equal(new X509Certificate(issue({ hosts: ['A.test.'] }).cert).subjectAltName, 'DNS:a.test')
  for (const host of [
    '',
    '.',
    'a..',
    '.a',
    'a..b',
    'a:443',
    '[::1]',
    'https://a',
    '-a',
    'a-',
    '*',
    'a.*.b',
    '1.2.3',
    '1.2.3.4.5',
    'fe80::1%eth0',
    'b\u00fccher.test',
    'a b',
    'a,b',
    'a\n',
    `${label}a`,
    `${longest}a`
  ]) {
    t.throws(
      () => issue({ hosts: [host] }),
      { code: 'BAD_CONFIG', message: /neither a DNS name nor an IP/ },
      JSON.stringify(host)
    )
  }
})

t.test('serial numbers are positive, minimal, of 16 bytes and all different', async t => {
  const { issue } = makeAuthority()

  const serials = Array.from({ length: 200 }, () => new X509Certificate(issue().cert).serialNumber)

  for (const serial of serials) t.match(serial, /^[4-7][0-9A-F]{31}$/)
  t.equal(new Set(serials).size, serials.length)
})

t.test('validity begins a little in the past', async t => {
  const now = new Date('2026-03-01T12:00:00.750Z')
  const { issue } = makeAuthority('ca', { now })

  const leaf = new X509Certificate(issue({ now, validityDays: 1 }).cert)

  t.equal(BACKDATE_MS, 300_000)
  t.equal(new Date(leaf.validFrom).toISOString(), '2026-03-01T11:55:00.000Z')
  t.equal(new Date(leaf.validTo).toISOString(), '2026-03-02T12:00:00.000Z')
})

t.test('dates are UTCTime through 2049 and GeneralizedTime from 2050', async t => {
  const dir = makeDirectory(t)
  const now = new Date('2049-12-31T23:59:59Z')
  const keys = makeKeyPair()
  writeFiles(dir, {
    before: createAuthority({ commonName: 'x', keys, now, validityDays: 0 }),
    after: createAuthority({ commonName: 'x', keys, now, validityDays: 1 / 86_400 }),
    far: createAuthority({ commonName: 'x', keys, validityDays: 36_500 })
  })
  const times = (file: string): string[] =>
    [...openssl(dir, ['asn1parse', '-in', file]).matchAll(/(UTCTIME|GENERALIZEDTIME) +:(\w+)/g)].map(
      ([match]) => match.replace(/ +:/, ' ')
    )

  t.strictSame(times('before'), ['UTCTIME 491231235459Z', 'UTCTIME 491231235959Z'])
  t.strictSame(times('after'), ['UTCTIME 491231235459Z', 'GENERALIZEDTIME 20500101000000Z'])
  t.match(times('far')[1], /^GENERALIZEDTIME 2\d{13}Z$/)
  t.match(openssl(dir, ['verify', '-CAfile', 'far', 'far']), 'OK')
})

t.test('a leaf never outlives its authority', async t => {
  const { issue, issuer } = makeAuthority('ca', { validityDays: 10 })

  t.equal(new X509Certificate(issue({ validityDays: 11 }).cert).validTo, issuer.certificate.validTo)
  t.not(new X509Certificate(issue({ validityDays: 9 }).cert).validTo, issuer.certificate.validTo)
})

t.test('common names are cut at 64 characters', async t => {
  const { issue } = makeAuthority()
  const name = (length: number): unknown =>
    new X509Certificate(issue({ commonName: 'a'.repeat(length) }).cert).toLegacyObject().subject.CN

  for (const length of [1, 63, 64]) t.equal(name(length), 'a'.repeat(length))
  t.equal(name(65), 'a'.repeat(64))
})

t.test('authorities of operators sign too: RSA, the NIST curves, Ed25519', async t => {
  const dir = makeDirectory(t)
  for (const [name, algorithm] of Object.entries({
    rsa: ['RSA', '-pkeyopt', 'rsa_keygen_bits:2048'],
    p256: ['EC', '-pkeyopt', 'ec_paramgen_curve:P-256'],
    p384: ['EC', '-pkeyopt', 'ec_paramgen_curve:P-384'],
    p521: ['EC', '-pkeyopt', 'ec_paramgen_curve:P-521'],
    ed25519: ['ed25519']
  })) {
    const key = openssl(dir, ['genpkey', '-algorithm', ...algorithm])
    writeFiles(dir, { key })
    const subject = '/C=DE/O=Operator \\+ Sons/OU=a+OU=b/CN=ca'
    const ca = openssl(dir, ['req', '-x509', '-new', '-key', 'key', '-subj', subject, '-days', '2'])
    const issuer = { certificate: new X509Certificate(ca), key: createPrivateKey(key) }

    const leaf = issueLeaf(issuer, {
      commonName: 'leaf',
      publicKey: makeKeyPair().publicKey,
      usages: ['clientAuth']
    })

    writeFiles(dir, { ca, leaf })
    t.match(openssl(dir, ['verify', '-CAfile', 'ca', '-purpose', 'sslclient', 'leaf']), 'leaf: OK', name)
  }
  const odd = openssl(dir, ['genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:secp256k1'])
  writeFiles(dir, { odd })
  const ca = openssl(dir, ['req', '-x509', '-new', '-key', 'odd', '-subj', '/CN=odd', '-days', '2'])
  const issuer = { certificate: new X509Certificate(ca), key: createPrivateKey(odd) }
  t.throws(() => issueLeaf(issuer, { commonName: 'x', publicKey: makeKeyPair().publicKey, usages: [] }), {
    code: 'BAD_IDENTITY'
  })
})
