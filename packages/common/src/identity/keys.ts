/**
 * Private keys: making them, and reading them from files that nobody else can read. Not certificates. The rule
 * about file modes is OpenSSH's (a key of ours is ours alone), softened for Kubernetes Secret volumes, where root
 * owns the files and fsGroup is what lets a process read them.
 */
import { createPrivateKey, generateKeyPairSync } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import type { Stats } from 'node:fs'
import { TunnelError } from '../errors.js'
import { formatPem, readPemFile } from './pem.js'
import type { PemBlock, ReadPemOptions } from './pem.js'

const KEY_LABELS = new Set(['PRIVATE KEY', 'RSA PRIVATE KEY', 'EC PRIVATE KEY'])

export type KeyPair = { privateKey: KeyObject; publicKey: KeyObject }

/**
 * A new ECDSA P-256 pair. kube-apiserver makes a full TLS handshake for every CONNECT, so the signature is a cost
 * per dial: P-256 took 24 µs of CPU against 262 µs for RSA-2048 and 512 µs for P-384 (Node 20, OpenSSL 3.0).
 */
export function makeKeyPair(): KeyPair {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' })
}

/** The key as unencrypted PKCS#8 PEM. Whoever writes it sees to mode 0600. */
export function encodePrivateKey(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' }) as string
}

/**
 * Reads a private key file of any kind OpenSSL knows (PKCS#8, PKCS#1, SEC1). Follows symbolic links. Throws
 * `BAD_IDENTITY` naming the file and the remedy: exposed to others, encrypted, a certificate instead of a key,
 * several keys, broken.
 */
export async function readPrivateKeyFile(path: string, options: ReadPemOptions = {}): Promise<KeyObject> {
  const blocks = await readPemFile(path, { ...options, inspect: assertUnexposed })
  return parseKey(blocks, path)
}

/**
 * Refuses a key file that others can reach. Any access for others is refused always; access for the group only
 * when this process owns the file, because then the group is not what the process needs to read it.
 */
export function assertUnexposed(stats: Pick<Stats, 'mode' | 'uid'>, path: string): void {
  // No uid, no POSIX modes: there is nothing to judge.
  const uid = process.geteuid?.()
  if (uid === undefined) return
  const mode = stats.mode & 0o777
  const owned = stats.uid === uid
  const exposed = mode & (owned ? 0o077 : 0o007)
  if (exposed === 0) return
  const readers = exposed & 0o007 ? 'everybody on this machine' : 'its group'
  const remedy = owned ? 'chmod 600' : 'chmod o-rwx'
  throw new TunnelError(
    'BAD_IDENTITY',
    `private key ${path} has mode 0${mode.toString(8)}, open to ${readers}; run: ${remedy} ${path} (in a Kubernetes Secret volume: defaultMode: 0400)`
  )
}

function parseKey(blocks: PemBlock[], path: string): KeyObject {
  const keys = blocks.filter(({ label }) => label.endsWith('PRIVATE KEY'))
  const [block] = keys
  if (block === undefined) {
    const swapped = blocks.some(({ label }) => label === 'CERTIFICATE')
    const holds = swapped
      ? 'a certificate but no private key; cert and key swapped?'
      : `no private key, only: ${blocks.map(({ label }) => label).join(', ')}`
    throw new TunnelError('BAD_IDENTITY', `${path} holds ${holds}`)
  }
  if (keys.length > 1)
    throw new TunnelError('BAD_IDENTITY', `${path} holds ${keys.length} private keys; keep one`)
  // RFC 1421 §4.6.1.1: the older way to say that a block is encrypted.
  if (block.label === 'ENCRYPTED PRIVATE KEY' || block.body.startsWith('Proc-Type: 4,ENCRYPTED')) {
    throw new TunnelError(
      'BAD_IDENTITY',
      `private key ${path} is encrypted; decrypt it with: openssl pkey -in ${path} -out plain.key`
    )
  }
  if (!KEY_LABELS.has(block.label)) {
    throw new TunnelError('BAD_IDENTITY', `${path} holds a key of a kind that TLS cannot use: ${block.label}`)
  }
  try {
    return createPrivateKey(formatPem(block.label, Buffer.from(block.body, 'base64')))
  } catch (error) {
    throw new TunnelError('BAD_IDENTITY', `private key ${path} is broken: OpenSSL cannot read it`, {
      cause: error
    })
  }
}
