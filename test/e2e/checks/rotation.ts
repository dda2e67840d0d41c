/**
 * Checks 9: certificates that change under running programs, as a Secret volume changes. The authority goes in three
 * steps, as everywhere: both are trusted, then the new one signs, then the old one is forgotten.
 */
import { readFile } from 'node:fs/promises'
import type { IncomingMessage } from 'node:http'
import { request } from 'node:https'
import { join } from 'node:path'
import { connect } from 'node:tls'
import { existingAuthority } from '../support/openssl-certificates.js'
import { expect, type CheckContext } from '../support/check-context.js'
import { SEED_ADDRESS, SEED_PORT } from '../support/network.js'
import { CLUSTER, makePki, SERVER_NAME, tlsFiles, type TlsFiles } from '../support/pki.js'
import { until } from '../support/namespace-process.js'
import { FRONT_PORT } from '../support/e2e-tunnel.js'
import { execThrough } from './stream-checks.js'

const RELOADED = 'certificate reloaded'

export async function rotation(context: CheckContext): Promise<void> {
  const { report, tunnel } = context
  if (!tunnel) return
  const { secrets } = tunnel
  const next = join(context.dir, `next-${tunnel.kind}`)

  await report.check(
    '9.1',
    'certificates and authority of the tunnel change while an exec streams',
    async () => {
      await makePki(next)
      const both = `${await readFile(join(tunnel.pki, 'ca.crt'), 'utf8')}${await readFile(join(next, 'ca.crt'), 'utf8')}`
      await execThrough(context, async () => {
        const change = async (pki: string, more: Partial<TlsFiles>): Promise<void> => {
          const before = await reloads(context)
          await secrets.server.write({ ...(await tlsFiles(pki, 'server')), ...more })
          await secrets.client.write({ ...(await tlsFiles(pki, `client-${CLUSTER}`)), ...more })
          await until('both programs to read the new files', async () => {
            const now = await reloads(context)
            return now.server > before.server && now.client > before.client
          })
          // The link goes on over a connection that was made with what is there now.
          await tunnel.killConnections()
        }
        await change(tunnel.pki, { 'ca.crt': both })
        await change(next, { 'ca.crt': both })
        await change(next, {})
      })
    }
  )

  await report.check('9.2', 'new connections see the new certificate', async () => {
    const { fingerprint, trusted } = await shown(SEED_PORT, join(next, 'ca.crt'))
    const old = await shown(SEED_PORT, join(tunnel.pki, 'ca.crt'))
    expect(trusted, 'it does not come from the new authority')
    expect(!old.trusted, 'it comes from the old authority as well')
    return fingerprint.slice(0, 23)
  })

  await report.check('9.3', 'what the old authority has signed is refused', async () => {
    const knock = (pki: string): Promise<string> => knockAs(pki, join(next, 'ca.crt'))
    const welcome = await knock(next)
    expect(welcome.startsWith('101 '), `the new certificate: ${welcome}`)
    const refusal = await knock(tunnel.pki)
    expect(refusal.startsWith('401 '), `the old certificate: ${refusal}`)
    return refusal
  })

  if (tunnel.kind !== 'mtls') return
  await report.check(
    '9.4',
    "a front's certificate is renewed while kube-apiserver dials through it",
    async () => {
      const ca = join(tunnel.pki, 'ca.crt')
      const before = await shown(FRONT_PORT, ca)
      await execThrough(context, async () => {
        const renewed = await existingAuthority(tunnel.pki, 'ca').server('renewed', [
          SERVER_NAME,
          '127.0.0.1'
        ])
        await secrets.front.write({
          'tls.crt': await readFile(renewed.cert, 'utf8'),
          'tls.key': await readFile(renewed.key, 'utf8'),
          'ca.crt': await readFile(ca, 'utf8')
        })
        await until('the front to show it', async () => {
          const now = await shown(FRONT_PORT, ca)
          return now.trusted && now.fingerprint !== before.fingerprint
        })
        const { code, stderr } = await context.cluster.kubectl(['exec', 'box', '--', 'true'])
        expect(code === 0, stderr)
      })
    }
  )
}

/** How often each program has said that it uses new files. */
async function reloads({ tunnel }: CheckContext): Promise<{ server: number; client: number }> {
  const count = (log: string): number => log.split(RELOADED).length - 1
  const [server] = tunnel!.servers
  return { server: count(await server!.log()), client: count(await tunnel!.clientLog()) }
}

/** The certificate that a port shows, and whether it comes from an authority. */
function shown(port: number, ca: string): Promise<{ fingerprint: string; trusted: boolean }> {
  const host = port === SEED_PORT ? SEED_ADDRESS : '127.0.0.1'
  return new Promise((resolve, reject) => {
    void readFile(ca).then(authority => {
      const options = { host, port, servername: SERVER_NAME, ca: authority, rejectUnauthorized: false }
      const socket = connect(options, () => {
        resolve({
          fingerprint: socket.getPeerCertificate().fingerprint256,
          trusted: socket.authorized
        })
        socket.destroy()
      })
      socket.on('error', reject)
    }, reject)
  })
}

/** Asks the tunnel for a WebSocket as the client of a PKI; returns status and reason. */
async function knockAs(pki: string, ca: string): Promise<string> {
  const options = {
    ...{
      host: SEED_ADDRESS,
      port: SEED_PORT,
      servername: SERVER_NAME,
      path: '/tunnel',
      agent: false as const
    },
    ca: await readFile(ca),
    cert: await readFile(join(pki, `client-${CLUSTER}.crt`)),
    key: await readFile(join(pki, `client-${CLUSTER}.key`)),
    headers: {
      ...{ Host: SERVER_NAME, Connection: 'Upgrade', Upgrade: 'websocket', 'Tendril-Cluster': CLUSTER },
      'Sec-WebSocket-Protocol': 'tendril.v1',
      ...{ 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': Buffer.alloc(16).toString('base64') }
    }
  }
  return new Promise((resolve, reject) => {
    const asked = request(options)
    asked.on('upgrade', (answer, socket) => {
      socket.destroy()
      resolve(outcome(answer))
    })
    asked.on('response', answer => {
      answer.resume()
      resolve(outcome(answer))
    })
    asked.on('error', reject)
    asked.end()
  })
}

const outcome = ({ statusCode = 0, statusMessage = '' }: IncomingMessage): string =>
  `${statusCode} ${statusMessage}`
