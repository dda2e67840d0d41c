import { X509Certificate } from 'node:crypto'
import t from 'tap'
import {
  describe,
  describeIssuer,
  formatMoment,
  quote,
  readIdentity
} from '@tendril/common/identity/identity'
import { makeAuthority, makeDirectory, openssl, writeFiles } from './fixtures.js'

const { issue } = makeAuthority()
const certificate = (options: Parameters<typeof issue>[0]): X509Certificate =>
  new X509Certificate(issue(options).cert)

t.test('a certificate of ours reads as its role and names', async t => {
  const leaf = certificate({
    commonName: 'client-demo',
    hosts: ['a.test', '10.0.0.1'],
    uris: ['https://x', 'tendril://client/demo']
  })

  t.strictSame(readIdentity(leaf), {
    role: 'client',
    cluster: 'demo',
    commonName: 'client-demo',
    dnsNames: ['a.test'],
    uris: ['https://x', 'tendril://client/demo'],
    fingerprint256: leaf.fingerprint256,
    notAfter: new Date(leaf.validTo)
  })
  t.match(readIdentity(certificate({ uris: ['tendril://caller/prometheus'] })), {
    role: 'caller',
    name: 'prometheus'
  })
  t.match(readIdentity(certificate({ uris: ['tendril://server'] })), { role: 'server' })
})

t.test('a certificate that is not ours has names and no role', async t => {
  const identity = readIdentity(certificate({ commonName: 'system:node', hosts: ['n1'] }))

  t.match(identity, { role: undefined, commonName: 'system:node', dnsNames: ['n1'], uris: [] })
  t.notOk('cluster' in identity)
})

t.test('one alternative name cannot pretend to be two', async t => {
  const uris = [
    'https://x/, URI:tendril://client/victim',
    'https://x/", URI:tendril://client/victim, URI:"',
    'https://x/\\", URI:tendril://client/victim',
    'https://x/\u0000, DNS:victim'
  ]

  const identity = readIdentity(certificate({ uris }))

  t.equal(identity.role, undefined)
  t.strictSame(identity.uris, uris)
  t.strictSame(identity.dnsNames, [])
})

t.test('names of other kinds are stepped over, whatever they contain', async t => {
  const dir = makeDirectory(t)
  const config = `
    [req]
    distinguished_name = subject
    x509_extensions = extensions
    prompt = no
    [subject]
    CN = x
    [extensions]
    subjectAltName = @names
    [names]
    otherName.1 = 1.3.6.1.4.1.311.20.2.3;UTF8:a, DNS:victim
    otherName.2 = 1.3.6.1.5.5.7.8.5;UTF8:a, URI:tendril://client/victim
    dirName.1 = directory
    email.1 = me@x.test
    RID.1 = 1.2.3
    IP.1 = 10.0.0.1
    DNS.1 = real.test
    URI.1 = tendril://client/demo
    [directory]
    CN = a, DNS:victim`
  writeFiles(dir, { config })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', 'key']

  const pem = openssl(dir, ['req', '-x509', ...key, '-config', 'config'])

  const identity = readIdentity(new X509Certificate(pem))
  t.match(identity, { role: 'client', cluster: 'demo' })
  t.strictSame(identity.dnsNames, ['real.test'])
  t.strictSame(identity.uris, ['tendril://client/demo'])
})

t.test('several common names are as good as none', async t => {
  const dir = makeDirectory(t)
  const pem = openssl(dir, [
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', 'key'],
    ...['-subj', '/CN=a/CN=b', '-days', '1']
  ])

  t.equal(readIdentity(new X509Certificate(pem)).commonName, undefined)
})

t.test('a certificate without any name is described by its serial number', async t => {
  const dir = makeDirectory(t)
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', 'key']
  const nameless = new X509Certificate(openssl(dir, ['req', '-x509', ...key, '-subj', '/', '-days', '1']))

  t.match(readIdentity(nameless), { role: undefined, commonName: undefined, dnsNames: [], uris: [] })
  t.equal(describe(nameless), `"serial ${nameless.serialNumber}"`)
  t.equal(describeIssuer(nameless), '"an issuer without a common name"')
})

t.test('a malformed or second URI of ours refuses the certificate, with the code asked for', async t => {
  t.throws(() => readIdentity(certificate({ uris: ['tendril://client/A'] })), {
    code: 'NOT_IDENTIFIED',
    message: /certificate of "leaf" is refused: it carries a malformed tendril: URI/
  })
  t.throws(
    () => readIdentity(certificate({ uris: ['tendril://server', 'tendril://client/a'] }), 'BAD_IDENTITY'),
    {
      code: 'BAD_IDENTITY',
      message: /several tendril: URIs/
    }
  )
})

t.test('what a stranger wrote into a name cannot break a status line', async t => {
  t.equal(describe(certificate({ commonName: 'a"\r\nX: y\\\u0000\u00e4' })), '"a???X: y???"')
  t.equal(quote('x'.repeat(64)), `"${'x'.repeat(64)}"`)
  t.equal(quote('x'.repeat(65)), `"${'x'.repeat(64)}..."`)
  t.equal(formatMoment(new Date('2030-01-31T12:00:00Z')), '2030-01-31T12:00:00Z')
  t.equal(formatMoment(new Date(NaN)), 'an unreadable date')
})
