import { chmodSync, mkdirSync, symlinkSync } from 'node:fs'
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import {
  assertUnexposed,
  encodePrivateKey,
  makeKeyPair,
  readPrivateKeyFile
} from '@tendril/common/identity/keys'
import { PEM_FILE_LIMIT_BYTES } from '@tendril/common/identity/pem'
import { makeAuthority, makeDirectory, openssl, writeFiles } from './fixtures.js'

const key = encodePrivateKey(makeKeyPair().privateKey)
const own = process.geteuid?.() ?? 0

t.test('a made key comes back from its file', async t => {
  const pair = makeKeyPair()
  const paths = writeFiles(makeDirectory(t), { 'a.key': encodePrivateKey(pair.privateKey) })

  const read = await readPrivateKeyFile(paths['a.key'])

  t.ok(read.equals(pair.privateKey))
  t.equal(read.asymmetricKeyDetails?.namedCurve, 'prime256v1')
})

t.test('keys of operators are read: RSA, EC and Ed25519, in old and new clothes', async t => {
  const dir = makeDirectory(t)
  openssl(dir, ['genrsa', '-traditional', '-out', 'rsa.key', '2048'])
  openssl(dir, ['ecparam', '-name', 'secp384r1', '-genkey', '-out', 'ec.key'])
  openssl(dir, ['genpkey', '-algorithm', 'ed25519', '-out', 'ed.key'])

  for (const [file, type] of [
    ['rsa.key', 'rsa'],
    ['ec.key', 'ec'],
    ['ed.key', 'ed25519']
  ] as const) {
    chmodSync(join(dir, file), 0o600)
    t.equal((await readPrivateKeyFile(join(dir, file))).asymmetricKeyType, type)
  }
})

t.test('CRLF, indentation, a byte-order mark and prose around the block do no harm', async t => {
  const paths = writeFiles(makeDirectory(t), {
    crlf: key.replaceAll('\n', '\r\n'),
    indented: key.replaceAll(/^/gm, '    '),
    bom: `\ufeff${key}`,
    prose: `Bag Attributes\n  friendlyName: x\n${key}\ntrailing words`
  })

  for (const path of Object.values(paths)) t.ok(await readPrivateKeyFile(path), path)
})

t.test('a key that everybody can read is refused with the mode and the remedy', async t => {
  const paths = writeFiles(makeDirectory(t), { 'a.key': key })
  chmodSync(paths['a.key'], 0o644)

  await t.rejects(readPrivateKeyFile(paths['a.key']), {
    code: 'BAD_IDENTITY',
    message: /a\.key has mode 0644, open to everybody on this machine; run: chmod 600 .*a\.key/
  })
})

t.test('the mode of the file behind a symbolic link counts', async t => {
  const dir = makeDirectory(t)
  mkdirSync(join(dir, 'data'))
  const paths = writeFiles(join(dir, 'data'), { 'a.key': key })
  symlinkSync('data/a.key', join(dir, 'a.key'))

  t.ok(await readPrivateKeyFile(join(dir, 'a.key')))
  chmodSync(paths['a.key'], 0o604)
  await t.rejects(readPrivateKeyFile(join(dir, 'a.key')), { code: 'BAD_IDENTITY' })
})

t.test('modes: ours is ours alone; what another user owns may be open to a group, never to all', async t => {
  const foreign = own + 1
  const table: [mode: number, uid: number, accepted: boolean][] = [
    [0o600, own, true],
    [0o400, own, true],
    [0o700, own, true],
    [0o640, own, false],
    [0o620, own, false],
    [0o604, own, false],
    [0o601, own, false],
    [0o440, foreign, true],
    [0o660, foreign, true],
    [0o444, foreign, false],
    [0o442, foreign, false]
  ]
  for (const [mode, uid, accepted] of table) {
    const name = `0${mode.toString(8)} ${uid === own ? 'own' : 'foreign'}`
    // The type bits of a regular file are part of st_mode.
    const judge = (): void => assertUnexposed({ mode: 0o100000 | mode, uid }, 'x.key')
    if (accepted) t.doesNotThrow(judge, name)
    else t.throws(judge, { code: 'BAD_IDENTITY' }, name)
  }
})

t.test('files that hold no usable key say what they hold', async t => {
  const dir = makeDirectory(t)
  const authority = makeAuthority()
  const encrypted = openssl(dir, [
    'genpkey',
    '-algorithm',
    'EC',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-aes128',
    '-pass',
    'pass:x'
  ])
  openssl(dir, ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', 'plain'])
  const oldEncrypted = openssl(dir, ['ec', '-in', 'plain', '-aes128', '-passout', 'pass:x'])
  const paths = writeFiles(dir, {
    empty: '',
    text: 'hello',
    der: Buffer.from([0x30, 0x82, 0x01, 0x00]),
    certificate: authority.cert,
    encrypted,
    oldEncrypted,
    two: key + key,
    broken: '-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n',
    half: key.slice(0, key.length / 2),
    publicKey: makeKeyPair().publicKey.export({ type: 'spki', format: 'pem' }),
    ssh: '-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n'
  })
  const expected: Record<keyof typeof paths, RegExp> = {
    empty: /is empty/,
    text: /holds no PEM block/,
    der: /looks like DER/,
    certificate: /a certificate but no private key; cert and key swapped\?/,
    encrypted: /is encrypted; decrypt it with: openssl pkey/,
    oldEncrypted: /is encrypted; decrypt it with: openssl pkey/,
    two: /holds 2 private keys; keep one/,
    broken: /is broken/,
    half: /holds no PEM block/,
    publicKey: /holds no private key, only: PUBLIC KEY/,
    ssh: /OPENSSH PRIVATE KEY/
  }
  for (const name of Object.keys(paths) as (keyof typeof paths)[]) {
    await t.rejects(readPrivateKeyFile(paths[name]), { code: 'BAD_IDENTITY', message: expected[name] }, name)
  }
})

t.test('paths that are no files say so, and a FIFO does not wait for a writer', async t => {
  const dir = makeDirectory(t)
  execFileSync('mkfifo', ['-m', '600', join(dir, 'fifo')])

  await t.rejects(readPrivateKeyFile(join(dir, 'none')), {
    code: 'BAD_IDENTITY',
    message: /none does not exist/
  })
  await t.rejects(readPrivateKeyFile(dir), { code: 'BAD_IDENTITY', message: /not a regular file/ })
  await t.rejects(readPrivateKeyFile(join(dir, 'fifo')), {
    code: 'BAD_IDENTITY',
    message: /not a regular file/
  })
})

t.test('the size of a file is bounded', async t => {
  const padded = (bytes: number): string => key + ' '.repeat(bytes - key.length)
  const paths = writeFiles(makeDirectory(t), {
    below: padded(999),
    at: padded(1000),
    above: padded(1001),
    big: padded(PEM_FILE_LIMIT_BYTES + 1)
  })

  t.ok(await readPrivateKeyFile(paths.below, { limitBytes: 1000 }))
  t.ok(await readPrivateKeyFile(paths.at, { limitBytes: 1000 }))
  await t.rejects(readPrivateKeyFile(paths.above, { limitBytes: 1000 }), {
    message: /has 1001 bytes, more than the 1000 allowed/
  })
  await t.rejects(readPrivateKeyFile(paths.big), { code: 'BAD_IDENTITY' })
})
