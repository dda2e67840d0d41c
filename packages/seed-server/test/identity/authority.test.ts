import { execFileSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync
} from 'node:fs'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import tls from 'node:tls'
import t from 'tap'
import type { Test } from 'tap'
import { Bundle } from '@tendril/common/identity/bundle'
import {
  assertCaller,
  checkServerIdentity,
  clusterOf,
  readIdentity,
  verifyPeer
} from '@tendril/common/identity/peer'
import { addClients, writePki } from '@tendril/seed-server/identity/authority'

const DAY_MS = 24 * 60 * 60_000

/** A path that does not exist yet, in a directory that goes when the test ends. */
function freshPath(t: Test): string {
  const parent = mkdtempSync(join(tmpdir(), 'tendril-pki-'))
  t.teardown(() => rmSync(parent, { recursive: true, force: true }))
  return join(parent, 'pki')
}

const certificate = (dir: string, name: string): X509Certificate =>
  new X509Certificate(readFileSync(join(dir, `${name}.crt`)))
const mode = (path: string): string => (statSync(path).mode & 0o777).toString(8)

t.test('a PKI is written: private keys in a private directory, nothing besides', async t => {
  const dir = freshPath(t)

  const written = await writePki({ dir, hosts: ['vpn.test'], clusters: ['demo', 'b.c'] })

  const names = ['ca', 'server', 'kube-apiserver', 'client-demo', 'client-b.c'].flatMap(name => [
    `${name}.crt`,
    `${name}.key`
  ])
  t.strictSame(
    written,
    names.map(name => join(dir, name))
  )
  t.strictSame(readdirSync(dir).sort(), names.toSorted())
  t.equal(mode(dir), '700')
  for (const path of written) t.equal(mode(path), path.endsWith('.key') ? '600' : '644', basename(path))
})

t.test('openssl accepts every certificate for its purpose and no other', async t => {
  const dir = freshPath(t)
  await writePki({ dir, hosts: ['vpn.test'], clusters: ['demo'] })
  const verify = (purpose: string, name: string): boolean => {
    try {
      execFileSync(
        'openssl',
        ['verify', '-x509_strict', '-CAfile', 'ca.crt', '-purpose', purpose, `${name}.crt`],
        { cwd: dir, stdio: 'pipe' }
      )
      return true
    } catch {
      return false
    }
  }

  for (const [name, serves, dials] of [
    ['server', true, true],
    ['kube-apiserver', false, true],
    ['client-demo', false, true]
  ] as const) {
    t.equal(verify('sslserver', name), serves, `${name} serves`)
    t.equal(verify('sslclient', name), dials, `${name} dials`)
  }
})

t.test('each certificate says its role, the server its hosts', async t => {
  const dir = freshPath(t)
  await writePki({ dir, hosts: ['vpn.test', '10.0.0.1', '::1', 'vpn.test'], clusters: ['demo'] })

  t.match(readIdentity(certificate(dir, 'client-demo')), {
    role: 'client',
    cluster: 'demo',
    commonName: 'client-demo'
  })
  t.match(readIdentity(certificate(dir, 'kube-apiserver')), {
    role: 'caller',
    name: 'kube-apiserver',
    commonName: 'kube-apiserver'
  })
  t.match(readIdentity(certificate(dir, 'server')), { role: 'server' })
  t.equal(
    certificate(dir, 'server').subjectAltName,
    'DNS:vpn.test, IP Address:10.0.0.1, IP Address:0:0:0:0:0:0:0:1, URI:tendril://server'
  )
  t.match(certificate(dir, 'ca').subject, /^CN=Tendril CA [0-9a-f]{8}$/)
})

t.test('validity is 3650 days for the authority and 365 below, or as asked', async t => {
  const days = (dir: string, name: string): number =>
    Math.round((new Date(certificate(dir, name).validTo).getTime() - Date.now()) / DAY_MS)
  const usual = freshPath(t)
  const asked = freshPath(t)

  await writePki({ dir: usual, hosts: ['a'], clusters: ['demo'] })
  await writePki({ dir: asked, hosts: ['a'], clusters: [], validityDays: { ca: 20, leaf: 10 } })
  await addClients({ dir: asked, clusters: ['short'], validityDays: 5 })
  await addClients({ dir: asked, clusters: ['long'] })

  t.strictSame([days(usual, 'ca'), days(usual, 'server'), days(usual, 'client-demo')], [3650, 365, 365])
  t.strictSame([days(asked, 'ca'), days(asked, 'server'), days(asked, 'client-short')], [20, 10, 5])
  t.equal(days(asked, 'client-long'), 20, 'never beyond the authority')
})

for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
  t.test(`client and caller shake hands with the server over ${version}`, async t => {
    const dir = freshPath(t)
    await writePki({ dir, hosts: ['vpn.test'], clusters: ['demo'] })
    const load = (name: string): Promise<Bundle> =>
      Bundle.load({ cert: join(dir, `${name}.crt`), key: join(dir, `${name}.key`), ca: join(dir, 'ca.crt') })
    const options = { ...(await load('server')).tlsOptions(), requestCert: true, rejectUnauthorized: false }
    const server = tls.createServer(options).listen(0, '127.0.0.1')
    t.teardown(() => server.close())
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const shake = async (name: string): Promise<tls.TLSSocket> => {
      const accepted = once(server, 'secureConnection')
      const bundle = await load(name)
      const socket = tls.connect({
        host: '127.0.0.1',
        port,
        servername: 'vpn.test',
        ...bundle.tlsOptions(),
        minVersion: version,
        maxVersion: version,
        checkServerIdentity
      })
      t.teardown(() => socket.destroy())
      await once(socket, 'secureConnect')
      const [far] = (await accepted) as [tls.TLSSocket]
      t.teardown(() => far.destroy())
      return far
    }

    const client = verifyPeer(await shake('client-demo'))
    const caller = verifyPeer(await shake('kube-apiserver'))

    t.equal(clusterOf(client, [{ name: 'demo' }]), 'demo')
    t.throws(() => assertCaller(client), { code: 'CALLER_DENIED' })
    t.doesNotThrow(() => assertCaller(caller))
    t.throws(() => clusterOf(caller, [{ name: 'demo' }]), { code: 'CLUSTER_DENIED' })
  })
}

t.test('nothing is overwritten: one file in the way and none is written, all of them named', async t => {
  const dir = freshPath(t)
  mkdirSync(dir)
  writeFileSync(join(dir, 'server.key'), 'precious')
  symlinkSync('nowhere', join(dir, 'client-demo.crt'))

  await t.rejects(writePki({ dir, hosts: ['a'], clusters: ['demo'] }), {
    code: 'BAD_CONFIG',
    message: /nothing was written, these files exist already: \S+server\.key, \S+client-demo\.crt$/
  })

  t.strictSame(readdirSync(dir).sort(), ['client-demo.crt', 'server.key'])
  t.equal(readFileSync(join(dir, 'server.key'), 'utf8'), 'precious')
})

t.test('of two runs at once one wins whole', async t => {
  const dir = freshPath(t)
  mkdirSync(dir)

  const runs = await Promise.allSettled(
    Array.from({ length: 4 }, () => writePki({ dir, hosts: ['a'], clusters: ['demo'] }))
  )

  t.equal(runs.filter(({ status }) => status === 'fulfilled').length, 1)
  for (const run of runs) if (run.status === 'rejected') t.equal(run.reason.code, 'BAD_CONFIG')
  t.strictSame(
    readdirSync(dir).filter(name => name.endsWith('.tmp')),
    []
  )
  const bundle = {
    cert: join(dir, 'client-demo.crt'),
    key: join(dir, 'client-demo.key'),
    ca: join(dir, 'ca.crt')
  }
  t.ok(await Bundle.load(bundle))
})

t.test('clusters are added under the authority that is there, touching nothing else', async t => {
  const dir = freshPath(t)
  const before = await writePki({ dir, hosts: ['a'], clusters: ['one'] })
  const contents = before.map(path => readFileSync(path, 'utf8'))

  const added = await addClients({ dir, clusters: ['two', 'three', 'two'] })

  t.strictSame(
    added.map(path => basename(path)),
    ['client-two.crt', 'client-two.key', 'client-three.crt', 'client-three.key']
  )
  t.strictSame(
    before.map(path => readFileSync(path, 'utf8')),
    contents
  )
  t.ok(certificate(dir, 'client-two').checkIssued(certificate(dir, 'ca')))
  t.ok(certificate(dir, 'client-two').verify(certificate(dir, 'ca').publicKey))
  await t.rejects(addClients({ dir, clusters: ['four', 'two'] }), {
    code: 'BAD_CONFIG',
    message: /exist already: \S+client-two\.crt, \S+client-two\.key$/
  })
  t.notOk(existsSync(join(dir, 'client-four.crt')))
})

t.test('adding needs an authority that is whole, private and valid', async t => {
  const [dir, other, old] = [freshPath(t), freshPath(t), freshPath(t)]
  for (const path of [dir, other]) await writePki({ dir: path, hosts: ['a'], clusters: [] })
  await writePki({ dir: old, hosts: ['a'], clusters: [], validityDays: { ca: 0 } })
  const add = (path: string): Promise<string[]> => addClients({ dir: path, clusters: ['x'] })

  await t.rejects(add(join(dir, 'none')), { code: 'BAD_IDENTITY', message: /ca\.key does not exist/ })
  await t.rejects(add(old), { code: 'BAD_IDENTITY', message: /expired on .*; make a new PKI/ })
  chmodSync(join(other, 'ca.key'), 0o644)
  await t.rejects(add(other), { code: 'BAD_IDENTITY', message: /chmod 600/ })
  chmodSync(join(other, 'ca.key'), 0o600)
  writeFileSync(join(other, 'ca.crt'), readFileSync(join(dir, 'ca.crt')))
  await t.rejects(add(other), { code: 'BAD_IDENTITY', message: /ca\.key is not the key of/ })
  writeFileSync(join(other, 'ca.crt'), 'garbage')
  await t.rejects(add(other), { code: 'BAD_IDENTITY', message: /ca\.crt is not a readable certificate/ })
})

t.test('bad requests are refused before a directory is made', async t => {
  const dir = freshPath(t)

  await t.rejects(writePki({ dir, hosts: [], clusters: ['demo'] }), {
    code: 'BAD_CONFIG',
    message: /at least one --host/
  })
  await t.rejects(writePki({ dir, hosts: ['a:443'], clusters: [] }), {
    code: 'BAD_CONFIG',
    message: /"a:443" is neither/
  })
  for (const cluster of ['', 'Demo', '../x', 'a/b', 'a'.repeat(64)]) {
    await t.rejects(
      writePki({ dir, hosts: ['a'], clusters: [cluster] }),
      { code: 'BAD_CONFIG', message: /cannot name a client/ },
      cluster
    )
  }
  await t.rejects(addClients({ dir, clusters: [] }), {
    code: 'BAD_CONFIG',
    message: /at least one --cluster/
  })

  t.notOk(existsSync(dir))
})

t.test('a directory that cannot be written is said so', async t => {
  const dir = freshPath(t)
  writeFileSync(dir, 'a file')

  await t.rejects(writePki({ dir, hosts: ['a'], clusters: [] }), { code: 'BAD_CONFIG', message: /ENOTDIR/ })
  await t.rejects(writePki({ dir: join(dir, 'x', 'y'), hosts: ['a'], clusters: [] }), {
    code: 'BAD_CONFIG',
    message: /cannot create the directory/
  })
})
