/**
 * Tendril's programs and the certificates that `seed-server pki` makes for them, as the end-to-end test uses both:
 * from the outside, by their command lines.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { SEED_ADDRESS } from './network.js'
import { must } from './namespace-process.js'

export const CLUSTER = 'e2e'
/** The name in the certificate that clients and other servers ask for. */
export const SERVER_NAME = 'vpn.e2e.test'

/** argv that runs one of the two programs as its users do. */
export function program(name: 'seed-server' | 'shoot-client'): string[] {
  return [
    process.execPath,
    fileURLToPath(new URL(`../../../../packages/${name}/bin/${name}.js`, import.meta.url))
  ]
}

/** A new authority and everything under it, in a directory that does not exist yet. */
export async function makePki(dir: string): Promise<void> {
  const hosts = [SERVER_NAME, SEED_ADDRESS, '127.0.0.1'].flatMap(host => ['--host', host])
  await must([...program('seed-server'), 'pki', '--dir', dir, ...hosts, '--cluster', CLUSTER])
}

/** What a Secret of type kubernetes.io/tls holds. */
export type TlsFiles = { 'tls.crt': string; 'tls.key': string; 'ca.crt': string }

/** A certificate of a PKI under the names that it has in a Secret. */
export async function tlsFiles(pki: string, name: string): Promise<TlsFiles> {
  const text = (file: string): Promise<string> => readFile(join(pki, file), 'utf8')
  return {
    'tls.crt': await text(`${name}.crt`),
    'tls.key': await text(`${name}.key`),
    'ca.crt': await text('ca.crt')
  }
}
