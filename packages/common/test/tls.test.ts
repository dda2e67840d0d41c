/** Handshakes between our options and peers that can do less than most, or worse than they should. */
import { X509Certificate, constants, generateKeyPairSync } from 'node:crypto'
import { once } from 'node:events'
import { type AddressInfo, connect as connectTcp } from 'node:net'
import tls from 'node:tls'
import t, { type Test } from 'tap'
import { createAuthority, issueLeaf, type LeafOptions } from '@tendril/common/identity/certificate'
import { encodePrivateKey } from '@tendril/common/identity/keys'
import { verifyPeer } from '@tendril/common/identity/peer'
import { type Certificates, TLS_POLICY, followCertificates, serverTlsOptions } from '@tendril/common/tls'
import { secure } from '@tendril/common/transport/secure'
import { handshakes, makeAuthority, type Pair } from './identity/fixtures.js'

const ours = makeAuthority('Our CA')
const server = ours.issue({ hosts: ['localhost'] })
const certificatesOf = (pair: Pair): Certificates => ({
  tlsOptions: () => ({ ...pair, ca: [ours.cert] }),
  on() {},
  off() {}
})
const optionsOf = (pair: Pair): tls.TlsOptions => serverTlsOptions(certificatesOf(pair))
const options = optionsOf(server)
/** As old clients are: no key is too short for them. */
const lax = { ca: ours.cert, ciphers: 'DEFAULT:@SECLEVEL=0' }

function ec(namedCurve: string) {
  return generateKeyPairSync('ec', { namedCurve })
}

function leafOf(keys: ReturnType<typeof ec>, more: Partial<LeafOptions> = {}, issuer = ours.issuer): Pair {
  const cert = issueLeaf(issuer, {
    commonName: 'leaf',
    usages: ['clientAuth'],
    ...more,
    publicKey: keys.publicKey
  })
  return { cert, key: encodePrivateKey(keys.privateKey) }
}

/** A TLS server of somebody else, and our way to it. */
async function dial(t: Test, theirs: tls.TlsOptions, serverName = 'localhost'): Promise<tls.TLSSocket> {
  const listener = tls.createServer(theirs, socket => socket.on('error', () => {}).resume())
  listener.on('tlsClientError', () => {})
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  t.teardown(() => listener.close())
  const raw = connectTcp((listener.address() as AddressInfo).port, '127.0.0.1')
  const socket = await secure(raw, { serverName, ca: ours.cert, signal: new AbortController().signal })
  t.teardown(() => socket.destroy())
  return socket
}

for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
  const only = { minVersion: version, maxVersion: version }
  for (const curve of ['P-256', 'P-384', 'P-521']) {
    t.test(`${version}: certificates of ${curve}, and peers that know no other curve`, async t => {
      const theirs = leafOf(ec(curve), { usages: ['serverAuth'], hosts: ['localhost'] })
      const own = leafOf(ec(curve))
      const usual = await handshakes(t, options, socket => verifyPeer(socket))
      // Over TLS 1.2 the server's certificate, too, has to be of a curve that the client knows.
      const alike = await handshakes(t, optionsOf(theirs), socket => verifyPeer(socket))

      t.match((await usual.shake({ ...lax, ...only, ...own })).verdict, { commonName: 'leaf' })
      t.match((await alike.shake({ ...lax, ...only, ...own, ecdhCurve: curve })).verdict, {
        commonName: 'leaf'
      })
      t.equal((await dial(t, { ...theirs, ...only, ecdhCurve: curve })).authorized, true)
    })
  }

  t.test(`${version}: RSA below 2048 bits is refused, of a leaf and of an authority`, async t => {
    const rsa = (modulusLength: number) => generateKeyPairSync('rsa', { modulusLength })
    const { shake } = await handshakes(t, options, socket => verifyPeer(socket))
    const verdict = async (own: Pair) => (await shake({ ...lax, ...only, ...own })).verdict

    t.match(await verdict(leafOf(rsa(2_048))), { commonName: 'leaf' })
    t.match(await verdict(leafOf(rsa(2_040))), {
      code: 'NOT_IDENTIFIED',
      message: /certificate of "leaf" has an RSA key of 2040 bits; at least 2048 are required/
    })
    const keys = rsa(1_024)
    const weak = createAuthority({ commonName: 'Weak CA', keys })
    const under = leafOf(ec('P-256'), {}, { certificate: new X509Certificate(weak), key: keys.privateKey })
    t.match(await verdict({ ...under, cert: under.cert + weak }), {
      message: /certificate of "leaf" comes from an authority, "Weak CA", that has an RSA key of 1024 bits/
    })
    const theirs = leafOf(keys, { usages: ['serverAuth'], hosts: ['localhost'] })
    await t.rejects(dial(t, { ...theirs, ...only, ciphers: lax.ciphers }), {
      code: 'SERVER_NOT_IDENTIFIED',
      message: /is too weak \(RSA below 2048 bits/
    })
  })

  t.test(
    `${version}: without clientAuth nobody is a client, unless old certificates are to be accepted`,
    async t => {
      const required = { requireClientAuth: true }
      const { shake } = await handshakes(t, options, socket => verifyPeer(socket, required))
      const none = leafOf(ec('P-256'), { usages: [] })

      const refusal = {
        code: 'NOT_IDENTIFIED',
        message: /certificate of "leaf" has no extended key usage, and clientAuth is required/
      }
      t.match((await shake({ ...lax, ...only, ...none })).verdict, refusal)
      required.requireClientAuth = false
      t.match((await shake({ ...lax, ...only, ...none })).verdict, { commonName: 'leaf' })
      t.match(
        (await shake({ ...lax, ...only, ...leafOf(ec('P-256'), { usages: ['serverAuth'] }) })).verdict,
        {
          message: /its extended key usage lacks clientAuth/
        }
      )
      required.requireClientAuth = true
      t.match((await shake({ ...lax, ...only, ...none })).verdict, refusal, 'though it is known by now')
    }
  )
}

/** A listener that echoes, and connections to it over TLS 1.2. */
async function echoes(t: Test, listener: tls.Server): Promise<() => Promise<tls.TLSSocket>> {
  listener.on('secureConnection', socket => socket.on('error', () => {}).pipe(socket))
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  t.teardown(() => listener.close())
  const { port } = listener.address() as AddressInfo
  return async () => {
    const socket = tls.connect({ port, servername: 'localhost', ca: ours.cert, maxVersion: 'TLSv1.2' })
    t.teardown(() => socket.destroy())
    socket.on('error', () => {}).resume()
    await once(socket, 'secureConnect')
    t.equal(socket.getProtocol(), 'TLSv1.2')
    return socket
  }
}

async function echo(socket: tls.TLSSocket): Promise<string> {
  socket.write('still here')
  const [bytes] = (await once(socket, 'data')) as [Buffer]
  return bytes.toString()
}

t.test('TLS 1.2: who asks for a renegotiation is refused, and the listener serves on', async t => {
  const listener = tls.createServer(options)
  followCertificates(listener, certificatesOf(server))
  const connect = await echoes(t, listener)
  const lenient = await echoes(t, tls.createServer({ ...options, secureOptions: 0 }))
  const renegotiated = (socket: tls.TLSSocket): Promise<Error | null> =>
    new Promise(resolve => {
      socket.once('error', resolve)
      socket.renegotiate({}, resolve)
    })
  const [other, asking] = [await connect(), await connect()]

  t.match(await renegotiated(asking), { code: 'ERR_SSL_NO_RENEGOTIATION' })

  t.equal(await echo(other), 'still here')
  t.equal(await echo(await connect()), 'still here')
  const granted = await lenient()
  t.equal(await renegotiated(granted), null, 'a listener without the option grants it to the same client')
  t.equal(await echo(granted), 'still here')
})

t.test('a final dot is in no SNI, and the certificate is found without it', async t => {
  let asked: string | undefined
  const socket = await dial(
    t,
    {
      ...server,
      SNICallback: (name, done) => {
        asked = name
        done(null)
      }
    },
    'localhost.'
  )

  t.equal(asked, 'localhost')
  t.equal(socket.authorized, true)
})

t.test(
  'a Node that keeps the context of a listener elsewhere is refused by name, before anything listens',
  async t => {
    const listeners = new Set<() => void>()
    const certificates = {
      tlsOptions: () => ({ ...server, ca: [ours.cert] }),
      on: (_: 'change', listener: () => void) => listeners.add(listener),
      off: (_: 'change', listener: () => void) => listeners.delete(listener)
    }
    const listener = tls.createServer()
    const unfollow = followCertificates(listener, certificates)
    const { _sharedCreds: first } = listener as unknown as { _sharedCreds: object }
    for (const changed of listeners) changed()
    t.not((listener as unknown as { _sharedCreds: object })._sharedCreds, first, 'each reading has its own')
    unfollow()
    t.equal(listeners.size, 0)

    let given = 0
    const foreign = { setSecureContext: () => void given++ } as unknown as tls.Server
    t.throws(() => followCertificates(foreign, certificates), {
      code: 'LISTEN_FAILED',
      message: new RegExp(`Node ${process.version} keeps .* intermediate authorities cannot be accepted`)
    })
    t.equal(given, 1)
    t.equal(listeners.size, 0, 'and it follows nothing')
  }
)

t.test('what a connection is made with is said, not left to a default', async t => {
  t.same([TLS_POLICY.minVersion, TLS_POLICY.maxVersion], ['TLSv1.2', 'TLSv1.3'])
  t.ok(TLS_POLICY.secureOptions & constants.SSL_OP_NO_RENEGOTIATION, 'nobody renegotiates')
  t.equal(TLS_POLICY.ecdhCurve.split(':')[0], 'X25519', 'costs least')
})
