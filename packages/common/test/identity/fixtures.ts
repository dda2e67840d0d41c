/**
 * Certificates and handshakes for the identity tests: a PKI of ours in memory, operators' PKIs made by the openssl
 * command, and one TLS handshake over loopback. Everything is removed when the test ends.
 */
import { execFileSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { EventEmitter, once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import tls from 'node:tls'
import type { ConnectionOptions, TLSSocket, TlsOptions } from 'node:tls'
import type { Test } from 'tap'
import { createAuthority, issueLeaf } from '@tendril/common/identity/certificate'
import type { Issuer, LeafOptions } from '@tendril/common/identity/certificate'
import { encodePrivateKey, makeKeyPair } from '@tendril/common/identity/keys'

export type Pair = { cert: string; key: string }

/** The files of a side that verifies: its authorities, and what happens when they are read again. */
export class AuthorityFiles extends EventEmitter {
  ca: string[]

  constructor(...ca: string[]) {
    super()
    this.ca = ca
  }

  tlsOptions(): { ca: string[] } {
    return { ca: this.ca }
  }

  change(...ca: string[]): void {
    this.ca = ca
    this.emit('change')
  }
}

/** A directory of its own that goes when the test ends. */
export function makeDirectory(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'tendril-identity-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

export function makeAuthority(commonName = 'Test CA', options: { validityDays?: number; now?: Date } = {}) {
  const keys = makeKeyPair()
  const cert = createAuthority({ commonName, keys, ...options })
  const issuer: Issuer = { certificate: new X509Certificate(cert), key: keys.privateKey }
  const issue = (leaf: Partial<LeafOptions> = {}): Pair => {
    const { privateKey, publicKey } = makeKeyPair()
    const pem = issueLeaf(issuer, {
      commonName: 'leaf',
      usages: ['serverAuth', 'clientAuth'],
      publicKey,
      ...leaf
    })
    return { cert: pem, key: encodePrivateKey(privateKey) }
  }
  return { cert, issuer, key: encodePrivateKey(keys.privateKey), issue }
}

/** Writes files of mode 0600 and returns their paths by the same keys. */
export function writeFiles<K extends string>(
  dir: string,
  files: Record<K, string | Buffer>
): Record<K, string> {
  const paths: Partial<Record<K, string>> = {}
  for (const name of Object.keys(files) as K[]) {
    const path = join(dir, name)
    writeFileSync(path, files[name], { mode: 0o600 })
    paths[name] = path
  }
  return paths as Record<K, string>
}

export function openssl(dir: string, args: string[]): string {
  return execFileSync('openssl', args, { cwd: dir, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

/** What an operator's openssl makes: a root, an intermediate, and a leaf under it; the leaf's file holds the chain. */
export function operatorPki(
  dir: string,
  keyArguments: string[]
): { ca: string; leaf: { cert: string; key: string } } {
  writeFileSync(join(dir, 'ca.ext'), 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n')
  writeFileSync(
    join(dir, 'leaf.ext'),
    'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n'
  )
  const key = (name: string): string => openssl(dir, ['genpkey', ...keyArguments, '-out', `${name}.key`])
  const request = (name: string): string =>
    openssl(dir, [
      'req',
      '-new',
      '-key',
      `${name}.key`,
      '-subj',
      `/O=Operator/CN=${name}`,
      '-out',
      `${name}.csr`
    ])
  const signed = (name: string, extensions: string, by: string[]): string =>
    openssl(dir, [
      'x509',
      '-req',
      '-in',
      `${name}.csr`,
      '-days',
      '2',
      '-extfile',
      extensions,
      ...by,
      '-out',
      `${name}.crt`
    ])
  for (const name of ['root', 'middle', 'leaf']) {
    key(name)
    request(name)
  }
  signed('root', 'ca.ext', ['-signkey', 'root.key'])
  signed('middle', 'ca.ext', ['-CA', 'root.crt', '-CAkey', 'root.key', '-CAcreateserial'])
  signed('leaf', 'leaf.ext', ['-CA', 'middle.crt', '-CAkey', 'middle.key', '-CAcreateserial'])
  writeFileSync(
    join(dir, 'chain.crt'),
    openssl(dir, ['x509', '-in', 'leaf.crt']) + openssl(dir, ['x509', '-in', 'middle.crt'])
  )
  return { ca: join(dir, 'root.crt'), leaf: { cert: join(dir, 'chain.crt'), key: join(dir, 'leaf.key') } }
}

export type Handshakes = {
  /** Connects, waits until the server has judged the socket, and ends the connection. */
  shake(
    options: ConnectionOptions
  ): Promise<{ verdict: unknown; client: TLSSocket; session: Buffer | undefined }>
  server: tls.Server
}

/** A server that judges each socket with `judge`: what that returns or throws is the verdict of the handshake. */
export async function handshakes(
  t: Test,
  options: TlsOptions,
  judge: (socket: TLSSocket) => unknown
): Promise<Handshakes> {
  const server = tls.createServer({ requestCert: true, rejectUnauthorized: false, ...options })
  server.on('secureConnection', socket => {
    let verdict: unknown
    try {
      verdict = judge(socket)
    } catch (error) {
      verdict = error
    }
    server.emit('verdict', verdict)
    socket.on('error', () => {})
    // A byte behind the handshake: a TLS 1.3 client has then seen the session tickets too.
    socket.end('.')
    socket.resume()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  return {
    server,
    async shake(connection) {
      const judged = once(server, 'verdict')
      const client = tls.connect({ host: '127.0.0.1', port, servername: 'localhost', ...connection })
      let session: Buffer | undefined
      client.on('session', ticket => (session = ticket))
      client.resume()
      await once(client, 'secureConnect')
      const [verdict] = await judged
      client.end()
      await once(client, 'close')
      return { verdict, client, session }
    }
  }
}
