/**
 * The small PKI behind `seed-server pki`: one authority and the certificates under it, as files. Not a service: the
 * authority's key is used here and nowhere else, and may be moved off the machine once the files are written.
 *
 *   writePki      DIR is new       ca  server  kube-apiserver  client-NAME…      each as .crt and .key
 *   addClients    DIR has a ca                                 client-NAME…
 */
import { X509Certificate } from 'node:crypto'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { TunnelError } from '@tendril/common'
import {
  AUTHORITY_VALIDITY_DAYS,
  LEAF_VALIDITY_DAYS,
  createAuthority,
  issueLeaf
} from '@tendril/common/identity/certificate'
import type { Issuer, LeafOptions } from '@tendril/common/identity/certificate'
import { encodePrivateKey, makeKeyPair, readPrivateKeyFile } from '@tendril/common/identity/keys'
import { formatRole } from '@tendril/common/identity/role'
import { writeNewFiles } from './files.js'
import type { NewFile } from './files.js'

export type PkiOptions = {
  /** Created with mode 0700 when missing; its parent must exist. */
  dir: string
  /** Names and addresses that clients dial the server at and kube-apiserver the fronts: at least one. */
  hosts: readonly string[]
  /** One `client-NAME` each; see `NAME_RULE`. May be empty: `addClients` adds more later. */
  clusters: readonly string[]
  /** Default: 3650 days for the authority, 365 for everything below it. */
  validityDays?: { ca?: number; leaf?: number }
}

export type AddClientsOptions = {
  /** Holds the `ca.crt` and `ca.key` to sign with. */
  dir: string
  /** At least one. */
  clusters: readonly string[]
  /** Default 365 days. */
  validityDays?: number
}

const KEY_MODE = 0o600
const CERTIFICATE_MODE = 0o644
const DIRECTORY_MODE = 0o700

/**
 * Makes a whole PKI and returns the paths written. All or nothing: when any of the files exists, none is written.
 * Throws `BAD_CONFIG` on an existing file (listing all), a bad host or cluster name, or a directory that cannot be
 * written.
 *
 * Who may do what: `server` serves clients and fronts, and dials other servers (serverAuth and clientAuth);
 * `client-NAME` and `kube-apiserver` only dial (clientAuth), each with its role in a tendril: URI.
 */
export async function writePki(options: PkiOptions): Promise<string[]> {
  const { dir, hosts, clusters, validityDays = {} } = options
  if (hosts.length === 0)
    throw new TunnelError('BAD_CONFIG', 'a new PKI needs at least one --host for the server certificate')
  const { ca: caDays = AUTHORITY_VALIDITY_DAYS, leaf: leafDays = LEAF_VALIDITY_DAYS } = validityDays

  const authority = makeAuthority(caDays)
  const leaf = (name: string, extra: Pick<LeafOptions, 'usages' | 'hosts' | 'uris'>): NewFile[] =>
    makeLeaf(authority.issuer, name, { ...extra, validityDays: leafDays })
  const files = [
    ...authority.files,
    ...leaf('server', {
      usages: ['serverAuth', 'clientAuth'],
      hosts: [...new Set(hosts)],
      uris: [formatRole({ role: 'server' })]
    }),
    ...leaf('kube-apiserver', {
      usages: ['clientAuth'],
      uris: [formatRole({ role: 'caller', name: 'kube-apiserver' })]
    }),
    ...makeClients(authority.issuer, clusters, leafDays)
  ]
  await makeDirectory(dir)
  return writeNewFiles(dir, files)
}

/**
 * Adds `client-NAME` for new clusters under the authority in `dir`, touching nothing else, and returns the paths
 * written. Throws `BAD_CONFIG` when a file exists (listing all, writing none) or a name is bad, and `BAD_IDENTITY`
 * when the directory holds no usable authority.
 *
 * The command's rule: `pki --dir D --cluster NEW` without any `--host` is this; with `--host` it is `writePki`.
 */
export async function addClients(options: AddClientsOptions): Promise<string[]> {
  const { dir, clusters, validityDays = LEAF_VALIDITY_DAYS } = options
  if (clusters.length === 0)
    throw new TunnelError('BAD_CONFIG', 'nothing to add: name at least one --cluster')
  const issuer = await readAuthority(dir)
  return writeNewFiles(dir, makeClients(issuer, clusters, validityDays))
}

function makeAuthority(validityDays: number): { issuer: Issuer; files: NewFile[] } {
  const keys = makeKeyPair()
  // Part of the key in the name: "signed by X, expected Y" must not read the same on both sides.
  const { x = '' } = keys.publicKey.export({ format: 'jwk' })
  const tag = Buffer.from(x, 'base64url').toString('hex').slice(0, 8)
  const pem = createAuthority({ commonName: `Tendril CA ${tag}`, keys, validityDays })
  const issuer = { certificate: new X509Certificate(pem), key: keys.privateKey }
  return { issuer, files: pair('ca', pem, encodePrivateKey(keys.privateKey)) }
}

function makeClients(issuer: Issuer, clusters: readonly string[], validityDays: number): NewFile[] {
  return [...new Set(clusters)].flatMap(cluster => {
    const uris = [formatRole({ role: 'client', cluster })]
    return makeLeaf(issuer, `client-${cluster}`, { usages: ['clientAuth'], uris, validityDays })
  })
}

function makeLeaf(
  issuer: Issuer,
  name: string,
  options: Omit<LeafOptions, 'commonName' | 'publicKey'>
): NewFile[] {
  const keys = makeKeyPair()
  const pem = issueLeaf(issuer, { commonName: name, publicKey: keys.publicKey, ...options })
  return pair(name, pem, encodePrivateKey(keys.privateKey))
}

function pair(name: string, certificate: string, key: string): NewFile[] {
  return [
    { name: `${name}.crt`, content: certificate, mode: CERTIFICATE_MODE },
    { name: `${name}.key`, content: key, mode: KEY_MODE }
  ]
}

async function readAuthority(dir: string): Promise<Issuer> {
  const certificatePath = join(dir, 'ca.crt')
  const keyPath = join(dir, 'ca.key')
  const key = await readPrivateKeyFile(keyPath)
  const certificate = await readCertificate(certificatePath)
  if (!certificate.checkPrivateKey(key)) {
    throw new TunnelError('BAD_IDENTITY', `${keyPath} is not the key of ${certificatePath}`)
  }
  if (new Date(certificate.validTo) <= new Date()) {
    throw new TunnelError(
      'BAD_IDENTITY',
      `the authority in ${certificatePath} expired on ${certificate.validTo}; make a new PKI`
    )
  }
  return { certificate, key }
}

async function readCertificate(path: string): Promise<X509Certificate> {
  try {
    return new X509Certificate(await readFile(path))
  } catch (error) {
    throw new TunnelError('BAD_IDENTITY', `${path} is not a readable certificate`, { cause: error })
  }
}

async function makeDirectory(dir: string): Promise<void> {
  try {
    // Not `recursive`: Node 20 then never returns where an existing parent answers ENOENT, as /proc does.
    await mkdir(dir, { mode: DIRECTORY_MODE })
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error)
    // Something else than a directory under this name is found out by the first write.
    if (code === 'EEXIST') return
    throw new TunnelError('BAD_CONFIG', `cannot create the directory ${dir} in its parent (${code})`, {
      cause: error
    })
  }
}
