import { once } from 'node:events'
import { X509Certificate } from 'node:crypto'
import tls from 'node:tls'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import type { Test } from 'tap'
import { readFileSync } from 'node:fs'
import { TunnelError } from '@tendril/common'
import {
  assertCaller,
  checkServerIdentity,
  checkServerRole,
  clusterOf,
  readIdentity,
  verifyPeer
} from '@tendril/common/identity/peer'
import type { Identity } from '@tendril/common/identity/peer'
import { handshakes, makeAuthority, makeDirectory, openssl, operatorPki, writeFiles } from './fixtures.js'
import type { Pair } from './fixtures.js'

const NODE_MAJOR = Number.parseInt(process.versions.node)
const DAY_MS = 24 * 60 * 60_000
const ours = makeAuthority('Our CA')
const server = ours.issue({ commonName: 'server', hosts: ['localhost'], uris: ['tendril://server'] })
const client = ours.issue({
  commonName: 'client-demo',
  usages: ['clientAuth'],
  uris: ['tendril://client/demo']
})

function serverOptions(extra: tls.TlsOptions = {}): tls.TlsOptions {
  return { ...server, ca: ours.cert, ...extra }
}

for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
  const options = { ca: ours.cert, minVersion: version, maxVersion: version }

  t.test(`over ${version} a certificate of ours becomes an identity`, async t => {
    const { shake } = await handshakes(t, serverOptions(), socket => verifyPeer(socket))

    const { verdict, client: socket } = await shake({ ...options, ...client })

    t.match(verdict, { role: 'client', cluster: 'demo', commonName: 'client-demo' })
    t.equal(socket.authorized, true)
  })

  t.test(`over ${version} every bad certificate is refused with its reason`, async t => {
    const past = makeAuthority('Our CA', { now: new Date(Date.now() - 9 * DAY_MS) })
    const untrusted = makeAuthority('Unknown CA')
    const expired = ours.issue({ commonName: 'old', validityDays: 1, now: new Date('2026-01-01T00:00:00Z') })
    const early = ours.issue({ commonName: 'early', now: new Date(Date.now() + 5 * DAY_MS) })
    const authority = { cert: untrusted.cert, key: untrusted.key }
    const self = selfSigned(t)
    const table: [name: string, pair: Partial<Pair>, reason: RegExp][] = [
      ['none', {}, /: no client certificate was presented$/],
      ['expired', expired, /: certificate of "old" expired on 2026-01-02T00:00:00Z$/],
      [
        'not yet valid',
        early,
        /: certificate of "early" is not valid before \d{4}-\d\d-\d\dT[\d:]+Z; check the clocks$/
      ],
      [
        'of untrusted',
        untrusted.issue(),
        /: certificate of "leaf" is signed by an unknown authority, "Unknown CA"; expected one of: "Our CA"$/
      ],
      [
        'of a namesake',
        past.issue(),
        /: certificate of "leaf" (is signed by an unknown authority|was not signed by the authority that it names), "Our CA"/
      ],
      ['signed by itself', self, /: certificate of "self" is signed by itself/],
      [
        'an authority itself',
        authority,
        /: certificate of "Unknown CA" (is signed by itself|may not be used by clients: its key usage)/
      ],
      [
        'for servers only',
        ours.issue({ usages: ['serverAuth'] }),
        /: certificate of "leaf" is not meant for clients: its extended key usage lacks clientAuth$/
      ],
      [
        'with two roles',
        ours.issue({ uris: ['tendril://client/a', 'tendril://client/b'] }),
        /several tendril: URIs/
      ],
      ['with a malformed role', ours.issue({ uris: ['tendril://client/a/b'] }), /malformed tendril: URI/]
    ]
    const { shake } = await handshakes(t, serverOptions(), socket =>
      verifyPeer(socket, { authorities: ['Our CA'] })
    )

    for (const [name, pair, reason] of table) {
      const { verdict } = await shake({ ...options, ...pair })

      t.type(verdict, TunnelError, name)
      t.match(verdict, { code: 'NOT_IDENTIFIED', message: reason }, name)
    }
  })

  t.test(`over ${version} operators' certificates with an intermediate are identities`, async t => {
    for (const [name, algorithm] of Object.entries({
      rsa: ['-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048'],
      p384: ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-384']
    })) {
      const { ca, leaf } = operatorPki(makeDirectory(t), algorithm)
      const pair = { cert: readFileSync(leaf.cert), key: readFileSync(leaf.key) }
      const { shake } = await handshakes(t, { ...pair, ca: readFileSync(ca) }, socket => verifyPeer(socket))

      const { verdict } = await shake({ ...options, ...pair, ca: readFileSync(ca) })

      t.match(verdict, { role: undefined, commonName: 'leaf', dnsNames: ['localhost'] }, name)
    }
  })

  t.test(`over ${version} a missing intermediate is an unknown authority`, async t => {
    const dir = makeDirectory(t)
    const { ca, leaf } = operatorPki(dir, ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256'])
    const alone = { cert: openssl(dir, ['x509', '-in', 'leaf.crt']), key: readFileSync(leaf.key) }
    const { shake } = await handshakes(t, serverOptions({ ca: readFileSync(ca) }), socket =>
      verifyPeer(socket)
    )

    const { verdict } = await shake({ ...options, ...alone })

    t.match(verdict, { message: /unknown authority, "middle"; expected one of: the authorities in clientCa/ })
  })

  t.test(`over ${version} a resumed session gets no further than the one before it`, async t => {
    const expired = ours.issue({ commonName: 'old', validityDays: 1, now: new Date('2026-01-01T00:00:00Z') })
    const table: [name: string, pair: Partial<Pair>][] = [
      ['without a certificate', {}],
      ['of untrusted', makeAuthority('Unknown CA').issue()],
      ['expired', expired],
      ['for servers only', ours.issue({ usages: ['serverAuth'] })]
    ]
    let authorized: boolean | undefined
    let resumed = false
    const { shake } = await handshakes(t, serverOptions(), socket => {
      authorized = socket.authorized
      resumed = socket.isSessionReused()
      return resumed ? verifyPeer(socket) : 'full handshake'
    })

    for (const [name, pair] of table) {
      const { session } = await shake({ ...options, ...pair })
      const { verdict } = await shake({ ...options, ...pair, session })

      t.ok(resumed, `${name}: was resumed`)
      t.match(verdict, { code: 'NOT_IDENTIFIED' }, name)
      // The trap this test is about: Node 20 calls this socket authorised, Node 24 does no more.
      if (name === 'without a certificate' && version === 'TLSv1.3') t.equal(authorized, NODE_MAJOR < 24)
    }
  })

  t.test(`over ${version} a resumed session is refused once its certificate has expired`, async t => {
    let resumed = false
    const { shake } = await handshakes(t, serverOptions(), socket => {
      resumed = socket.isSessionReused()
      return verifyPeer(socket, { now: new Date(Date.now() + (resumed ? 366 * DAY_MS : 0)) })
    })
    const { session } = await shake({ ...options, ...client })

    const { verdict } = await shake({ ...options, ...client, session })

    t.ok(resumed)
    t.match(verdict, { code: 'NOT_IDENTIFIED', message: /"client-demo" expired on/ })
  })
}

function selfSigned(t: Test): Pair {
  const dir = makeDirectory(t)
  const key = openssl(dir, ['genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256'])
  writeFiles(dir, { key })
  return {
    key,
    cert: openssl(dir, ['req', '-x509', '-new', '-key', 'key', '-subj', '/CN=self', '-days', '1'])
  }
}

t.test('the code of a refusal is the one asked for', async t => {
  const { shake } = await handshakes(t, serverOptions(), socket =>
    verifyPeer(socket, { code: 'CLIENT_NOT_IDENTIFIED' })
  )

  t.match((await shake({ ca: ours.cert })).verdict, { code: 'CLIENT_NOT_IDENTIFIED', httpStatus: 401 })
})

t.test('a server that never asked for certificates gets no identities', async t => {
  const { shake } = await handshakes(t, serverOptions({ requestCert: false }), socket => verifyPeer(socket))

  t.match((await shake({ ca: ours.cert, ...client })).verdict, { code: 'NOT_IDENTIFIED' })
})

t.test('a closed socket has no identity', async t => {
  const { shake } = await handshakes(t, serverOptions(), socket => socket)

  const { verdict } = await shake({ ca: ours.cert, ...client })

  const socket = verdict as tls.TLSSocket
  if (!socket.destroyed) await once(socket, 'close')
  t.throws(() => verifyPeer(socket), { code: 'NOT_IDENTIFIED' })
})

t.test('validity is judged to the second on both sides', async t => {
  const leaf = new X509Certificate(client.cert)
  const socket = { authorized: true, getPeerX509Certificate: () => leaf } as unknown as tls.TLSSocket
  const at = (moment: string, offsetMs: number): (() => Identity) => {
    return () => verifyPeer(socket, { now: new Date(new Date(moment).getTime() + offsetMs) })
  }

  t.throws(at(leaf.validFrom, -1), { message: /not valid before/ })
  t.doesNotThrow(at(leaf.validFrom, 0))
  t.doesNotThrow(at(leaf.validTo, 0))
  t.throws(at(leaf.validTo, 1), { message: /expired/ })
})

t.test('what a certificate says is read once, whether it is believed is asked every time', async t => {
  const leaf = new X509Certificate(ours.issue({ commonName: 'again' }).cert)
  const shown = (authorized: boolean, now = new Date()): Identity => {
    const socket = {
      authorized,
      authorizationError: 'CERT_SIGNATURE_FAILURE',
      getPeerX509Certificate: () => leaf
    }
    return verifyPeer(socket as unknown as tls.TLSSocket, { now })
  }

  t.throws(() => shown(false), { code: 'NOT_IDENTIFIED' })
  const first = shown(true)
  t.equal(shown(true), first)
  t.throws(() => shown(false), { code: 'NOT_IDENTIFIED' })
  t.throws(() => shown(true, new Date(first.notAfter.getTime() + 1)), { message: /expired/ })
  t.throws(() => shown(true, new Date(0)), { message: /not valid before/ })
  t.equal(shown(true), first)
})

function identity(claims: Partial<Identity>): Identity {
  return { role: undefined, dnsNames: [], uris: [], fingerprint256: 'AA:BB', notAfter: new Date(), ...claims }
}

t.test('a client of ours belongs to the cluster in its certificate, mappings or not', async t => {
  const clusters = [{ name: 'a' }, { name: 'b', identities: { commonNames: ['client-a'] } }]
  const claims = identity({ role: 'client', cluster: 'a', commonName: 'client-a' })

  t.equal(clusterOf(claims, clusters), 'a')
  t.throws(() => clusterOf({ ...claims, cluster: 'c' }, clusters), {
    code: 'CLUSTER_DENIED',
    message: /is for cluster "c", which is not configured here/
  })
})

t.test('certificates of others belong to the one cluster that names them', async t => {
  const clusters = [
    { name: 'a', identities: { commonNames: ['vpn'], dnsNames: ['Shoot-A.test'] } },
    { name: 'b', identities: { dnsNames: ['b.test'], uris: ['spiffe://x/b'] } },
    { name: 'c' }
  ]
  const of = (claims: Partial<Identity>): string => clusterOf(identity(claims), clusters)

  t.equal(of({ commonName: 'vpn' }), 'a')
  t.equal(of({ dnsNames: ['x', 'sHOOT-a.TEST'] }), 'a')
  t.equal(of({ uris: ['spiffe://x/b'] }), 'b')
  t.equal(of({ dnsNames: ['b.test'], uris: ['spiffe://x/b'] }), 'b')
  for (const claims of [
    { commonName: 'VPN' },
    { commonName: 'c' },
    { commonName: 'b.test' },
    { dnsNames: ['vpn'] },
    { dnsNames: ['x.b.test'] },
    { uris: ['SPIFFE://x/b'] },
    {}
  ]) {
    t.throws(
      () => of(claims),
      { code: 'CLUSTER_DENIED', message: /not an identity of any cluster/ },
      JSON.stringify(claims)
    )
  }
  t.throws(() => of({ commonName: 'vpn', dnsNames: ['b.test'] }), {
    code: 'CLUSTER_DENIED',
    message: /CN "vpn", DNS "b.test" is an identity of clusters "a" and "b"; exactly one/
  })
})

t.test('servers and callers are never clients, whatever a mapping says', async t => {
  const clusters = [{ name: 'a', identities: { commonNames: ['x'] } }]

  for (const role of ['server', 'caller'] as const) {
    t.throws(() => clusterOf(identity({ role, commonName: 'x' }), clusters), {
      code: 'CLUSTER_DENIED',
      message: new RegExp(`certificate of a ${role}, not of a client`)
    })
  }
})

t.test('clients and servers are never callers', async t => {
  t.doesNotThrow(() => assertCaller(identity({ role: 'caller', name: 'kube-apiserver' })))
  t.doesNotThrow(() => assertCaller(identity({ commonName: 'operators own' })))
  for (const role of ['server', 'client'] as const) {
    t.throws(() => assertCaller(identity({ role, uris: [`tendril://${role}`] })), {
      code: 'CALLER_DENIED',
      message: new RegExp(`of a ${role}`)
    })
  }
})

t.test('whoever is mapped to a cluster or to the servers is never a caller, whatever else it is', async t => {
  const tunnel = {
    clusters: [
      { name: 'a', identities: { commonNames: ['vpn'], dnsNames: ['Shoot-A.test.'] } },
      { name: 'b', identities: { uris: ['spiffe://x/b'] } }
    ],
    peers: { commonNames: ['vpn-seed'] }
  }
  const table: [claims: Partial<Identity>, why: RegExp][] = [
    [{ commonName: 'vpn' }, /CN "vpn" is an identity of a client of cluster "a", not of a caller$/],
    [{ dnsNames: ['x', 'shoot-a.TEST'] }, /is an identity of a client of cluster "a"/],
    [{ uris: ['spiffe://x/b'] }, /is an identity of a client of cluster "b"/],
    [{ role: 'caller', name: 'x', commonName: 'vpn' }, /is an identity of a client of cluster "a"/],
    [{ commonName: 'vpn-seed' }, /is an identity of a server \(peers\.identities\), not of a caller$/]
  ]

  for (const [claims, message] of table) {
    t.throws(() => assertCaller(identity(claims), tunnel), { code: 'CALLER_DENIED', message })
  }
  for (const claims of [{ commonName: 'VPN' }, { commonName: 'kube-apiserver' }, { dnsNames: ['vpn'] }, {}]) {
    t.doesNotThrow(() => assertCaller(identity(claims), tunnel), JSON.stringify(claims))
  }
})

t.test('only a server may carry a role and serve', async t => {
  const leaf = (uris: string[]): X509Certificate => new X509Certificate(ours.issue({ uris }).cert)

  t.doesNotThrow(() => checkServerRole(leaf(['tendril://server'])))
  t.doesNotThrow(() => checkServerRole(leaf([])))
  for (const uri of ['tendril://client/demo', 'tendril://caller/x', 'tendril://serverx']) {
    t.throws(() => checkServerRole(leaf([uri])), { code: 'SERVER_NOT_IDENTIFIED' }, uri)
  }
})

t.test(
  'a client refuses a server that shows a stolen client certificate, before it sends a byte',
  async t => {
    const stolen = ours.issue({ hosts: ['localhost'], uris: ['tendril://client/demo'] })
    const connect = async (t: Test, pair: Pair, servername: string): Promise<unknown> => {
      const impostor = tls.createServer(pair).listen(0, '127.0.0.1')
      t.teardown(() => impostor.close())
      impostor.on('secureConnection', socket => socket.on('error', () => {}).resume())
      await once(impostor, 'listening')
      const { port } = impostor.address() as AddressInfo
      const socket = tls.connect({ host: '127.0.0.1', port, servername, ca: ours.cert, checkServerIdentity })
      t.teardown(() => socket.destroy())
      return once(socket, 'secureConnect').catch((error: unknown) => error)
    }

    t.match(await connect(t, stolen, 'localhost'), {
      code: 'SERVER_NOT_IDENTIFIED',
      message: /certificate of a client, not of a server/
    })
    t.match(await connect(t, server, 'elsewhere'), { code: 'ERR_TLS_CERT_ALTNAME_INVALID' })
    t.strictSame(await connect(t, server, 'localhost'), [])
  }
)

t.test('the reasons stay one printable line whatever the certificate says', async t => {
  const nasty = makeAuthority('CA\r\nX: y').issue({ commonName: 'a\r\n\r\n<b>\u00e9' })
  const { shake } = await handshakes(t, serverOptions(), socket => verifyPeer(socket))

  const { verdict } = await shake({ ca: ours.cert, ...nasty })

  t.match((verdict as Error).message, /^[\x20-\x7e]+$/)
  t.ok(readIdentity(new X509Certificate(nasty.cert)).commonName?.includes('\r\n'))
})
