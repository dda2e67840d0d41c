/** Real handshakes in both directions, with authorities as operators make them with openssl. */
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { type AddressInfo, connect } from 'node:net'
import { join } from 'node:path'
import tls from 'node:tls'
import t, { type Test } from 'tap'
import { comesFrom } from '@tendril/common/identity/authorities'
import { Bundle, followWarnings } from '@tendril/common/identity/bundle'
import { createAuthority, issueLeaf } from '@tendril/common/identity/certificate'
import { encodePrivateKey, makeKeyPair } from '@tendril/common/identity/keys'
import { verifyPeer } from '@tendril/common/identity/peer'
import { type Certificates, followCertificates, serverTlsOptions } from '@tendril/common/tls'
import { secure } from '@tendril/common/transport/secure'
import { makeAuthority, makeDirectory, openssl, operatorPki, writeFiles } from './fixtures.js'

const DAY_MS = 24 * 60 * 60_000
const EC = ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256']
const BOTH_ACCEPT = { server: 'accepted', client: 'accepted' }
const UNKNOWN = /signed by an unknown authority|not signed by the authority that it names/

/**
 * What two sides say of each other: our listener of a client, and our `secure` of a server. Each meets the other's files
 * behind a plain one, which speaks one version.
 */
async function listen(t: Test, own: Certificates, version: tls.SecureVersion) {
  const only = { minVersion: version, maxVersion: version }
  const ours = tls.createServer(serverTlsOptions(own))
  t.teardown(followCertificates(ours, own))
  const plain = tls.createServer({ ...own.tlsOptions(), ...only })
  const ports = await Promise.all([ours, plain].map(server => open(t, server)))
  return async (bundle: Bundle): Promise<{ server: string; client: string }> => {
    const judged = once(ours, 'secureConnection')
    const client = tls.connect({
      port: ports[0]!,
      host: '127.0.0.1',
      ...bundle.tlsOptions(),
      ...only,
      rejectUnauthorized: false
    })
    client.on('error', () => {})
    const [socket] = (await judged) as [tls.TLSSocket]
    const server = verdictOf(() => verifyPeer(socket))
    client.destroy()

    const { signal } = new AbortController()
    const options = { serverName: 'localhost', ...bundle.tlsOptions(), signal }
    const verdict = await secure(connect(ports[1]!, '127.0.0.1'), options).then(
      secured => {
        t.equal(secured.getProtocol(), version)
        secured.destroy()
        return 'accepted'
      },
      (error: unknown) => (error as Error).message
    )
    return { server, client: verdict }
  }
}

async function open(t: Test, server: tls.Server): Promise<number> {
  server.on('tlsClientError', () => {})
  server.on('secureConnection', socket => socket.on('error', () => {}).resume())
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return (server.address() as AddressInfo).port
}

function verdictOf(judge: () => void): string {
  try {
    judge()
    return 'accepted'
  } catch (error) {
    return (error as Error).message
  }
}

/** root, middle, leaf; `oldMiddle` has the name and the key of `middle` and has expired. */
function operator(t: Test) {
  const dir = makeDirectory(t)
  const { leaf } = operatorPki(dir, EC)
  const read = (file: string): string => readFileSync(join(dir, file), 'utf8')
  const issuer = ['-CA', 'root.crt', '-CAkey', 'root.key', '-CAcreateserial', '-extfile', 'ca.ext']
  const oldMiddle = openssl(dir, ['x509', '-req', '-in', 'middle.csr', '-days', '-1', ...issuer])
  writeFileSync(join(dir, 'alone.crt'), openssl(dir, ['x509', '-in', 'leaf.crt']))
  const load = (ca: string, more: { cert?: string; key?: string } = {}): Promise<Bundle> =>
    Bundle.load({ ...leaf, ...more, ...writeFiles(dir, { ca }) })
  return {
    dir,
    leaf,
    alone: join(dir, 'alone.crt'),
    root: read('root.crt'),
    middle: read('middle.crt'),
    oldMiddle,
    load
  }
}

/** Made once: openssl is a process for each step. */
const [pki, others] = [operator(t), operator(t)]

for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
  t.test(`over ${version} an intermediate authority is a trust anchor, for both sides`, async t => {
    const { alone, middle, load } = pki
    const bundle = await load(middle)
    const withoutChain = await load(middle, { cert: alone })
    const connectTo = await listen(t, bundle, version)

    t.same(await connectTo(bundle), BOTH_ACCEPT)
    t.same(await connectTo(withoutChain), BOTH_ACCEPT)
    t.same(await (await listen(t, withoutChain, version))(bundle), BOTH_ACCEPT)
    t.same(bundle.warnings, [])
  })

  t.test(`over ${version} an intermediate anchor lets in only what is under it`, async t => {
    const { dir, alone, middle, root, load } = pki
    const bundle = await load(middle)
    // Its own authority trusts the listener, the listener does not trust it: O=Operator/CN=middle is a namesake.
    const namesake = await Bundle.load({ ...others.leaf, ...writeFiles(dir, { ca: middle }) })
    const sibling = openssl(dir, ['x509', '-req', '-in', 'leaf.csr', '-days', '2', '-extfile', 'leaf.ext',
      '-CA', 'root.crt', '-CAkey', 'root.key', '-CAcreateserial']) // prettier-ignore
    const { cert } = writeFiles(dir, { cert: sibling })
    const besides = await load(middle, { cert })
    const connectTo = await listen(t, bundle, version)

    t.match(await connectTo(namesake), { server: UNKNOWN })
    t.match(await connectTo(besides), { server: UNKNOWN }, 'the root above it is not trusted')
    t.match((await (await listen(t, namesake, version))(bundle)).client, /authority/)
    t.match((await (await listen(t, besides, version))(bundle)).client, /authority/)
    t.same(await (await listen(t, bundle, version))(await load(root)), BOTH_ACCEPT)
    const pinned = await load(readFileSync(alone, 'utf8'))
    t.match((await (await listen(t, pinned, version))(bundle)).server, 'accepted', 'itself')
    t.match((await (await listen(t, pinned, version))(besides)).server, UNKNOWN, 'it is no authority')
  })

  t.test(`over ${version} an anchor that expires while it is loaded accepts nothing more`, async t => {
    const { middle, oldMiddle, load } = pki
    const bundle = await load(middle)
    const ca = [oldMiddle]
    const stale = Object.create(bundle) as Bundle
    stale.tlsOptions = () => ({ ...bundle.tlsOptions(), ca })

    t.match(await (await listen(t, stale, version))(bundle), {
      server: /was issued under an authority whose certificate has expired/
    })
    t.match(await (await listen(t, bundle, version))(stale), {
      client: /its certificate, or that of an authority above it, has expired/
    })
  })

  t.test(`over ${version} a listener takes an intermediate anchor from a file that has changed`, async t => {
    const { dir, leaf, root, middle } = pki
    const { ca, next, above } = writeFiles(dir, { ca: makeAuthority().cert, next: middle, above: root })
    const listening = await Bundle.load({ ...leaf, ca })
    const connecting = await Bundle.load({ ...leaf, ca: above })
    const connectTo = await listen(t, listening, version)
    t.match(await connectTo(connecting), { server: UNKNOWN })

    renameSync(next, ca)
    t.equal(await listening.reload(), true)

    t.same(await connectTo(connecting), BOTH_ACCEPT)
  })

  t.test(`over ${version} an expired authority is not in the way of the renewed one`, async t => {
    const { root, oldMiddle, load } = pki
    // The renewed one is shown with the leaf.
    const bundle = await load(oldMiddle + root)

    t.same(await (await listen(t, bundle, version))(bundle), BOTH_ACCEPT)
    t.match(bundle.warnings, [/^authority "middle" in .* expired on .* and is not used; remove it$/])
    t.same(bundle.authorities, ['root'])
    t.match(new X509Certificate(bundle.expiredAuthorities[0]!).subject, /CN=middle/)
  })

  t.test(`over ${version} an expired root beside its renewal is not blamed on the leaf`, async t => {
    const [keys, leafKeys] = [makeKeyPair(), makeKeyPair()]
    const root = (now: Date): string => createAuthority({ commonName: 'root', keys, now, validityDays: 2 })
    const [old, renewed] = [root(new Date(Date.now() - 9 * DAY_MS)), root(new Date())]
    const issuer = { certificate: new X509Certificate(renewed), key: keys.privateKey }
    const files = writeFiles(makeDirectory(t), {
      cert: issueLeaf(issuer, {
        commonName: 'leaf',
        usages: ['serverAuth', 'clientAuth'],
        hosts: ['localhost'],
        publicKey: leafKeys.publicKey
      }),
      key: encodePrivateKey(leafKeys.privateKey),
      ca: old + renewed
    })
    const bundle = await Bundle.load(files)

    t.same(await (await listen(t, bundle, version))(bundle), BOTH_ACCEPT)
    t.equal(bundle.warnings.length, 1)
  })
}

t.test('two authorities of one name that OpenSSL cannot tell apart are named at load', async t => {
  const { dir, leaf } = pki
  const make = (name: string, keyId: string): string => {
    const config = `[req]\ndistinguished_name=dn\nx509_extensions=v3\nprompt=no\n[dn]\nCN=twin\n[v3]\nbasicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=${keyId}\n`
    writeFileSync(join(dir, 'twin.cnf'), config)
    openssl(dir, ['genpkey', ...EC, '-out', `${name}.key`])
    return openssl(dir, ['req', '-x509', '-new', '-key', `${name}.key`, '-days', '2', '-config', 'twin.cnf'])
  }
  const [first, second, third, fourth] = [
    make('a', 'none'),
    make('b', 'none'),
    make('c', 'hash'),
    make('d', 'hash')
  ]
  const lines: unknown[] = []
  const warningsOf = async (...cas: string[]): Promise<readonly string[]> => {
    const bundle = await Bundle.load({ ...leaf, ...writeFiles(dir, { ca: cas.join('') }) })
    followWarnings(bundle, { warn: (line: unknown) => void lines.push(line) })
    return bundle.warnings
  }

  const ambiguous = [/has several authorities with the name "twin".* only the first of them is tried/]
  t.match(await warningsOf(first, second), ambiguous)
  t.match(await warningsOf(third, second), ambiguous)
  t.same(await warningsOf(third, fourth), [], 'key identifiers tell them apart')
  t.same(await warningsOf(first, first), [], 'the same one twice')
  t.equal(lines.length, 2)
})

t.test('what is verified again accepts and refuses as the handshake does', t => {
  const { alone, root, middle, oldMiddle } = pki
  const [leaf, above, anchor, expired] = [readFileSync(alone, 'utf8'), root, middle, oldMiddle].map(
    pem => new X509Certificate(pem)
  ) as [X509Certificate, X509Certificate, X509Certificate, X509Certificate]

  t.equal(comesFrom(leaf, [anchor]), true)
  t.equal(comesFrom(leaf, [above]), false, 'the one between was not shown')
  t.equal(comesFrom(leaf, [expired]), false)
  t.equal(comesFrom(leaf, [new X509Certificate(others.middle)]), false, 'a namesake')
  t.end()
})
