/**
 * The Kubernetes side's certificates, made with openssl: not with Tendril's own PKI, so that the end-to-end test
 * also meets certificates that others have made.
 */
import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { must } from './namespace-process.js'

export type KeyPair = { cert: string; key: string }

export type Authority = {
  /** File of the authority's own certificate. */
  cert: string
  /** A certificate for a server; `names` are DNS names and IP addresses. */
  server(name: string, names: string[]): Promise<KeyPair>
  /** A certificate for a client, with Kubernetes' user name as CN and its groups as O. */
  client(name: string, user: string, groups?: string[]): Promise<KeyPair>
}

const DAYS = '2'
const EC_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']

/** Makes an authority whose files begin with `name` in `dir`. */
export async function createAuthority(dir: string, name: string): Promise<Authority> {
  const own = pair(dir, name)
  await must([
    ...['openssl', 'req', '-x509', ...EC_KEY, '-days', DAYS, '-subj', `/CN=${name}`],
    ...['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign,cRLSign'],
    ...['-keyout', own.key, '-out', own.cert]
  ])
  return existingAuthority(dir, name)
}

/** The authority `name` whose files are in `dir` already. */
export function existingAuthority(dir: string, name: string): Authority {
  const own = pair(dir, name)

  async function sign(file: string, subject: string, usage: string, names: string[]): Promise<KeyPair> {
    const made = pair(dir, file)
    const request = join(dir, `${file}.csr`)
    const extensions = join(dir, `${file}.ext`)
    const alternatives = names.map(one => (/^[\d.]+$|:/.test(one) ? `IP:${one}` : `DNS:${one}`))
    await writeFile(
      extensions,
      [
        'keyUsage=critical,digitalSignature',
        `extendedKeyUsage=${usage}`,
        ...(names.length ? [`subjectAltName=${alternatives.join(',')}`] : [])
      ].join('\n')
    )
    await must(['openssl', 'req', '-new', ...EC_KEY, '-subj', subject, '-keyout', made.key, '-out', request])
    await must([
      ...[
        'openssl',
        'x509',
        '-req',
        '-in',
        request,
        '-CA',
        own.cert,
        '-CAkey',
        own.key,
        '-set_serial',
        `0x${randomBytes(8).toString('hex')}`
      ],
      ...['-days', DAYS, '-extfile', extensions, '-out', made.cert]
    ])
    return made
  }

  return {
    cert: own.cert,
    server: (file, names) => sign(file, `/CN=${file}`, 'serverAuth', names),
    client: (file, user, groups = []) =>
      sign(file, `${groups.map(group => `/O=${group}`).join('')}/CN=${user}`, 'clientAuth', [])
  }
}

/** The key that signs service account tokens. kube-apiserver reads RSA keys only in this form. */
export async function createSigningKey(dir: string): Promise<string> {
  const key = join(dir, 'service-accounts.key')
  await must(['openssl', 'genrsa', '-out', key, '2048'])
  return key
}

function pair(dir: string, name: string): KeyPair {
  return { cert: join(dir, `${name}.crt`), key: join(dir, `${name}.key`) }
}
