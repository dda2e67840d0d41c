import { EventEmitter, once } from 'node:events'
import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import tls from 'node:tls'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import type { Test } from 'tap'
import type { Clock } from '@tendril/common'
import { Bundle } from '@tendril/common/identity/bundle'
import type { BundleOptions } from '@tendril/common/identity/bundle'
import { loadAuthorities } from '@tendril/common/identity/credentials'
import { handshakes, makeAuthority, makeDirectory, openssl, operatorPki, writeFiles } from './fixtures.js'
import type { Pair } from './fixtures.js'

const DAY_MS = 24 * 60 * 60_000
const ours = makeAuthority('Our CA')
const first = ours.issue({ commonName: 'first', hosts: ['localhost'] })
const second = ours.issue({ commonName: 'second', hosts: ['localhost'] })

function write(dir: string, pair: Pair): { cert: string; key: string; ca: string } {
  const paths = writeFiles(dir, { 'tls.crt': pair.cert, 'tls.key': pair.key, 'ca.crt': ours.cert })
  return { cert: paths['tls.crt'], key: paths['tls.key'], ca: paths['ca.crt'] }
}

/** Puts a file in the place of another the way editors do: a new file, renamed over the old one. */
function replace(path: string, content: string): void {
  writeFileSync(`${path}.new`, content, { mode: 0o600 })
  renameSync(`${path}.new`, path)
}

/** A bundle that follows its files, without long waits, until the test ends. Holds the process: its own timers do not. */
async function follow(
  t: Test,
  files: Parameters<typeof Bundle.load>[0],
  options: BundleOptions = {}
): Promise<Bundle> {
  const bundle = await Bundle.load(files, { settleMs: 10, ...options })
  const hold = setInterval(() => {}, 1_000)
  t.teardown(bundle.watch())
  t.teardown(() => clearInterval(hold))
  return bundle
}

/** Hands that the test turns. */
function manualClock(): Clock & { timers: { ms: number; fire(): void }[] } {
  const timers: { ms: number; fire(): void }[] = []
  return {
    timers,
    now: () => 0,
    after(ms, callback) {
      const timer = { ms, fire: () => void (cancel(), callback()) }
      const cancel = (): void => void (timers.includes(timer) && timers.splice(timers.indexOf(timer), 1))
      timers.push(timer)
      return { cancel }
    }
  }
}

t.test('a bundle offers what TLS needs and says who it is', async t => {
  const files = write(
    makeDirectory(t),
    ours.issue({ commonName: 'client-demo', uris: ['tendril://client/demo'] })
  )

  const bundle = await Bundle.load(files)

  t.match(bundle.identity, { role: 'client', cluster: 'demo', commonName: 'client-demo' })
  t.equal(bundle.notAfter.getTime(), new Date(bundle.leaf.validTo).getTime())
  t.strictSame(bundle.authorities, ['Our CA'])
  t.strictSame(bundle.files, files)
  t.strictSame(Object.keys(bundle.tlsOptions()).sort(), ['ca', 'cert', 'key'])
})

t.test('without authorities there is no ca', async t => {
  const { cert, key } = write(makeDirectory(t), first)

  const bundle = await Bundle.load({ cert, key })

  t.notOk('ca' in bundle.tlsOptions())
  t.strictSame(bundle.authorities, [])
})

t.test('bundles of operators shake hands: RSA and P-384, with an intermediate', async t => {
  for (const algorithm of [
    ['-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048'],
    ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-384']
  ]) {
    const { ca, leaf } = operatorPki(makeDirectory(t), algorithm)
    const bundle = await Bundle.load({ ...leaf, ca })
    const { shake } = await handshakes(t, bundle.tlsOptions(), socket => socket.authorized)

    const { verdict, client } = await shake(bundle.tlsOptions())

    t.equal(verdict, true)
    t.equal(client.authorized, true)
  }
})

t.test('files with CRLF, a byte-order mark and prose load and shake hands', async t => {
  const dress = (pem: string): string => `\ufeff${pem}trailing words`.replaceAll('\n', '\r\n')
  const files = write(makeDirectory(t), { cert: dress(first.cert), key: dress(first.key) })
  const bundle = await Bundle.load(files)
  const { shake } = await handshakes(t, bundle.tlsOptions(), socket => socket.authorized)

  t.equal((await shake(bundle.tlsOptions())).verdict, true)
})

t.test('every way a bundle can be wrong names the file and the remedy', async t => {
  const dir = makeDirectory(t)
  const old = ours.issue({ validityDays: 1, now: new Date('2026-01-01T00:00:00Z') })
  const early = ours.issue({ now: new Date(Date.now() + 2 * DAY_MS) })
  const oldCa = makeAuthority('Old CA', { validityDays: 1, now: new Date('2026-01-01T00:00:00Z') })
  openssl(dir, [
    'req',
    '-x509',
    '-newkey',
    'rsa:512',
    '-nodes',
    '-keyout',
    'weak.key',
    '-out',
    'weak.crt',
    '-subj',
    '/CN=weak',
    '-days',
    '1'
  ])
  chmodSync(join(dir, 'weak.key'), 0o600)
  const at = writeFiles(dir, {
    cert: first.cert,
    key: first.key,
    otherKey: second.key,
    backwards: ours.cert + first.cert,
    empty: '',
    garbage: 'hello\r\nworld',
    broken: `-----BEGIN CERTIFICATE-----\n${'A'.repeat(64)}\n-----END CERTIFICATE-----\n`,
    brokenSecond: `${first.cert}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n`,
    request: '-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n',
    oldCert: old.cert,
    oldKey: old.key,
    earlyCert: early.cert,
    earlyKey: early.key,
    oldCa: oldCa.cert,
    someOldCa: oldCa.cert + ours.cert,
    exposed: first.key
  })
  chmodSync(at.exposed, 0o644)
  const good = { cert: at.cert, key: at.key }
  const table: [files: { cert: string; key: string; ca?: string }, reason: RegExp][] = [
    [{ ...good, cert: join(dir, 'none') }, /none does not exist$/],
    [{ ...good, cert: at.empty }, /empty is empty$/],
    [{ ...good, cert: at.garbage }, /garbage holds no PEM block$/],
    [{ ...good, cert: at.broken }, /certificate 1 in .*broken is broken/],
    [{ ...good, cert: at.brokenSecond }, /certificate 2 in .*brokenSecond is broken/],
    [{ ...good, cert: at.request }, /request holds no certificate, only: CERTIFICATE REQUEST$/],
    [{ cert: at.key, key: at.cert }, /key holds a private key but no certificate; cert and key swapped\?$/],
    [{ ...good, key: at.cert }, /cert holds a certificate but no private key; cert and key swapped\?$/],
    [{ ...good, key: at.otherKey }, /otherKey is not the key of the certificate in .*cert \("first"\)$/],
    [
      { ...good, cert: at.backwards },
      /is the key of certificate 2 in .*backwards; put that certificate first/
    ],
    [{ ...good, key: at.exposed }, /exposed has mode 0644/],
    [{ cert: at.oldCert, key: at.oldKey }, /oldCert expired on 2026-01-02T00:00:00Z; renew it$/],
    [
      { cert: at.earlyCert, key: at.earlyKey },
      /earlyCert is not valid before .*Z; check this machine's clock$/
    ],
    [{ ...good, ca: at.key }, /key holds a private key but no certificate$/],
    [{ ...good, ca: at.broken }, /certificate 1 in .*broken is broken/],
    [{ ...good, ca: at.oldCa }, /every authority in .*oldCa has expired: "Old CA" on 2026-01-02T00:00:00Z$/],
    [
      { cert: join(dir, 'weak.crt'), key: join(dir, 'weak.key') },
      /OpenSSL refuses .*weak\.crt with .*weak\.key: ee key too small$/
    ]
  ]

  for (const [files, reason] of table) {
    await t.rejects(Bundle.load(files), { code: 'BAD_IDENTITY', message: reason }, String(reason))
  }
  t.ok(await Bundle.load({ ...good, ca: at.someOldCa }), 'one expired authority among others is no obstacle')
})

t.test('authorities without a certificate of our own are judged as those of a bundle', async t => {
  const old = makeAuthority('Old CA', { validityDays: 1, now: new Date('2026-01-01T00:00:00Z') }).cert
  const dir = makeDirectory(t)
  const at = writeFiles(dir, { old, some: old + ours.cert })
  const bundle = await Bundle.load({ ...write(dir, first), ca: at.some })

  const { ca, warnings } = await loadAuthorities(at.some)

  t.same(ca, bundle.tlsOptions().ca)
  t.same(warnings, bundle.warnings)
  t.match(warnings, [
    /authority "Old CA" in .*some expired on 2026-01-02T00:00:00Z and is not used; remove it$/
  ])
  await t.rejects(loadAuthorities(at.old), {
    code: 'BAD_IDENTITY',
    message: /every authority in .*old has expired: "Old CA" on 2026-01-02T00:00:00Z$/
  })
  t.equal((await loadAuthorities(at.old, new Date('2026-01-01T12:00:00Z'))).ca.length, 1)
})

t.test('our own certificate with a malformed role is refused at load', async t => {
  await t.rejects(Bundle.load(write(makeDirectory(t), ours.issue({ uris: ['tendril://x'] }))), {
    code: 'BAD_IDENTITY',
    message: /malformed tendril: URI/
  })
})

t.test('validity is judged by the given day, to the millisecond', async t => {
  const files = write(makeDirectory(t), first)
  const { leaf } = await Bundle.load(files)
  const on = (moment: string, offsetMs: number): Promise<Bundle> =>
    Bundle.load(files, { today: () => new Date(new Date(moment).getTime() + offsetMs) })

  await t.rejects(on(leaf.validFrom, -1), { message: /not valid before/ })
  t.ok(await on(leaf.validFrom, 0))
  t.ok(await on(leaf.validTo, 0))
  await t.rejects(on(leaf.validTo, 1), { message: /expired/ })
})

t.test('files above the limit are refused', async t => {
  const files = write(makeDirectory(t), first)
  const limitBytes = Math.max(...[files.cert, files.key, files.ca].map(path => readFileSync(path).length))

  t.ok(await Bundle.load(files, { limitBytes }))
  await t.rejects(Bundle.load(files, { limitBytes: limitBytes - 1 }), {
    code: 'BAD_IDENTITY',
    message: /more than the/
  })
})

t.test('reload says whether anything changed and keeps what worked', async t => {
  const files = write(makeDirectory(t), first)
  const bundle = await Bundle.load(files)

  t.equal(await bundle.reload(), false)
  replace(files.cert, second.cert)
  await t.rejects(bundle.reload(), { code: 'BAD_IDENTITY', message: /is not the key of/ })
  t.equal(bundle.identity.commonName, 'first')
  replace(files.key, second.key)
  t.equal(await bundle.reload(), true)
  t.equal(bundle.identity.commonName, 'second')
  replace(files.ca, ours.cert + makeAuthority('Next CA').cert)
  t.equal(await bundle.reload(), true)
  t.strictSame(bundle.authorities, ['Our CA', 'Next CA'])
})

t.test('renamed files are noticed, and the pair is read when both are there', async t => {
  const files = write(makeDirectory(t), first)
  const bundle = await follow(t, files)

  const change = once(bundle, 'change')
  replace(files.cert, second.cert)
  replace(files.key, second.key)
  await change

  t.equal(bundle.identity.commonName, 'second')
})

t.test('files written in place are noticed', async t => {
  const files = write(makeDirectory(t), first)
  const bundle = await follow(t, files)

  const change = once(bundle, 'change')
  writeFileSync(files.cert, second.cert)
  writeFileSync(files.key, second.key)
  await change

  t.equal(bundle.identity.commonName, 'second')
})

/** A Secret volume as the kubelet lays it out: `tls.crt → ..data/tls.crt`, `..data → ..2026_1`. */
function mountSecret(dir: string, pair: Pair): { cert: string; key: string; ca: string } {
  updateSecret(dir, '..2026_1', pair)
  for (const name of ['tls.crt', 'tls.key', 'ca.crt']) symlinkSync(`..data/${name}`, join(dir, name))
  return { cert: join(dir, 'tls.crt'), key: join(dir, 'tls.key'), ca: join(dir, 'ca.crt') }
}

/** The kubelet's update: a new directory, a new link renamed over `..data`, the old directory removed. */
function updateSecret(dir: string, version: string, pair: Pair, previous?: string): void {
  mkdirSync(join(dir, version))
  write(join(dir, version), pair)
  symlinkSync(version, join(dir, '..data_tmp'))
  renameSync(join(dir, '..data_tmp'), join(dir, '..data'))
  if (previous !== undefined) rmSync(join(dir, previous), { recursive: true })
}

t.test('an update of a Kubernetes Secret volume is noticed, again and again', async t => {
  const dir = makeDirectory(t)
  const bundle = await follow(t, mountSecret(dir, first))
  const errors: unknown[] = []
  bundle.on('error', error => errors.push(error))

  for (const [index, pair] of [second, first, second].entries()) {
    const change = once(bundle, 'change')
    updateSecret(dir, `..2026_${index + 2}`, pair, `..2026_${index + 1}`)
    await change
    t.equal(bundle.tlsOptions().cert, pair.cert)
  }

  t.strictSame(errors, [])
})

t.test('a bad update is reported once, the old certificate stays, a good one heals', async t => {
  const files = write(makeDirectory(t), first)
  const bundle = await follow(t, files, { pollMs: 20 })
  const errors: unknown[] = []
  bundle.on('error', error => errors.push(error))

  const refused = once(bundle as EventEmitter, 'error').then(
    () => {},
    () => {}
  )
  replace(files.cert, 'garbage')
  await refused
  // The poll comes by several times more: the reason is not repeated.
  await t.rejects(bundle.reload(), { code: 'BAD_IDENTITY' })
  t.equal(bundle.identity.commonName, 'first')
  const change = once(bundle as EventEmitter, 'change')
  replace(files.key, second.key)
  replace(files.cert, second.cert)
  await change

  t.equal(bundle.identity.commonName, 'second')
  t.match(errors[0], { code: 'BAD_IDENTITY', message: /holds no PEM block/ })
  t.equal(errors.filter(error => /holds no PEM block/.test(String(error))).length, 1)
})

t.test('a bad update that nobody listens for is a process warning, not a crash', async t => {
  const files = write(makeDirectory(t), first)
  await follow(t, files)

  const warned = once(process, 'warning')
  replace(files.cert, 'garbage')

  t.match(await warned, [{ code: 'BAD_IDENTITY' }])
})

t.test('without a sign from the file system the poll finds the change', async t => {
  const dir = makeDirectory(t)
  const real = join(dir, 'real')
  mkdirSync(real)
  symlinkSync('real', join(dir, 'link'))
  write(real, first)
  const clock = manualClock()
  const link = join(dir, 'link')
  const files = { cert: join(link, 'tls.crt'), key: join(link, 'tls.key') }
  const bundle = await follow(t, files, { clock, pollMs: 60_000 })
  // The directory itself is exchanged above the one that is watched: inotify is silent.
  mkdirSync(join(dir, 'next'))
  write(join(dir, 'next'), second)
  symlinkSync('next', join(dir, 'link.new'))
  renameSync(join(dir, 'link.new'), link)

  t.strictSame(
    clock.timers.map(({ ms }) => ms),
    [60_000]
  )
  const change = once(bundle, 'change')
  clock.timers[0]?.fire()
  await change

  t.equal(bundle.identity.commonName, 'second')
  t.strictSame(
    clock.timers.map(({ ms }) => ms),
    [60_000]
  )
})

t.test('many signs make one reading, after the settling time', async t => {
  const files = write(makeDirectory(t), first)
  const clock = manualClock()
  const bundle = await follow(t, files, { clock, settleMs: 250 })
  let changes = 0
  bundle.on('change', () => changes++)

  replace(files.cert, second.cert)
  replace(files.key, second.key)
  while (clock.timers[0]?.ms !== 250) await new Promise(resolve => setImmediate(resolve))
  t.equal(clock.timers.length, 1)
  const change = once(bundle, 'change')
  clock.timers[0].fire()
  await change

  t.equal(changes, 1)
})

t.test('unwatch leaves no timer, and nothing is said afterwards, even of a reading under way', async t => {
  const files = write(makeDirectory(t), first)
  const clock = manualClock()
  const bundle = await Bundle.load(files, { clock })
  bundle.on('change', () => t.fail('changed after unwatch'))
  bundle.on('error', () => t.fail('failed after unwatch'))

  const release = bundle.watch()
  t.equal(bundle.watch().length, 0)
  t.equal(clock.timers.length, 1)
  replace(files.cert, 'garbage')
  clock.timers[0]?.fire()
  release()
  release()
  bundle.unwatch()

  t.equal(clock.timers.length, 0)
  await t.rejects(bundle.reload(), { code: 'BAD_IDENTITY' })
})

t.test('a TLS server shows the new certificate to the next caller and keeps the old connections', async t => {
  const files = write(makeDirectory(t), first)
  const bundle = await follow(t, files)
  const server = tls.createServer({ ...bundle.tlsOptions(), requestCert: true }).listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  server.on('secureConnection', socket => socket.on('error', () => {}).pipe(socket))
  bundle.on('change', () => server.setSecureContext(bundle.tlsOptions()))
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const connect = async (): Promise<tls.TLSSocket> => {
    const socket = tls.connect({
      host: '127.0.0.1',
      port,
      servername: 'localhost',
      ...bundle.tlsOptions()
    })
    t.teardown(() => socket.destroy())
    await once(socket, 'secureConnect')
    return socket
  }

  const before = await connect()
  const change = once(bundle, 'change')
  replace(files.cert, second.cert)
  replace(files.key, second.key)
  await change
  const after = await connect()
  before.write('still here')

  t.equal(before.getPeerCertificate().subject.CN, 'first')
  t.equal(after.getPeerCertificate().subject.CN, 'second')
  t.equal(String((await once(before, 'data'))[0]), 'still here')
})
