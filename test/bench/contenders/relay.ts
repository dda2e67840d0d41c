/**
 * Two HAProxy processes in a row, doing the two mTLS hops of a tunnel without any multiplexing: caller → mTLS →
 * front → mTLS → back → target. What C does with one connection per stream on each hop.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { program, type Contender } from '../contender.js'
import { reservePort } from '../../support/ports.js'
import { ensureInstalled, listens } from '../processes.js'
import type { TlsFiles } from '../protocol.js'

/** Two file descriptors per connection; 5000 streams at once must fit. */
const MAX_CONNECTIONS = 8000

/**
 * @param threads per process. Default 1: a tunnel of two single-threaded programs is compared to two single-threaded
 * programs, and the machine of reference has two cores.
 */
export function relay(threads = 1): Contender {
  return {
    name: 'relay',
    title: `two HAProxy processes in a row, mTLS on both hops, nbthread ${threads}, ciphers as Debian ships them`,
    available: async () => ensureInstalled('haproxy', 'haproxy'),
    async start({ workDir, pki, processes, target, line }) {
      const to = await target()
      const backPort = await reservePort()
      const back = processes.program('haproxy-back', [
        'haproxy',
        '-f',
        write(
          join(workDir, 'back.cfg'),
          configuration(threads, {
            bind: `127.0.0.1:${backPort} ${bindTls(bundle(workDir, 'back', pki.server), pki.server.ca)}`,
            server: `${to.host}:${to.port}`
          })
        )
      ])
      const farMs = await accepts(backPort, ready => processes.until(back, ready))

      const hop = await line({ host: '127.0.0.1', port: backPort })
      const frontPort = await reservePort()
      const { servername } = pki.server
      const front = processes.program('haproxy-front', [
        'haproxy',
        '-f',
        write(
          join(workDir, 'front.cfg'),
          configuration(threads, {
            bind: `127.0.0.1:${frontPort} ${bindTls(bundle(workDir, 'front', pki.server), pki.server.ca)}`,
            server:
              `${hop.host}:${hop.port} ssl crt ${bundle(workDir, 'client', pki.client)} ca-file ${pki.client.ca} ` +
              `verify required verifyhost ${servername} sni str(${servername})`
          })
        )
      ])
      const nearMs = await accepts(frontPort, ready => processes.until(front, ready))

      return {
        endpoint: { kind: 'tls', host: '127.0.0.1', port: frontPort, tls: pki.caller },
        programs: [program(front, 'near'), program(back, 'far')],
        readyMs: { near: nearMs, far: farMs }
      }
    }
  }
}

/** As Debian's /etc/haproxy/haproxy.cfg: AES-128-GCM first, TLS >= 1.2, no tickets. Nothing else is tuned. */
function configuration(threads: number, hop: { bind: string; server: string }): string {
  return `global
  nbthread ${threads}
  maxconn ${MAX_CONNECTIONS}
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256
  ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
defaults
  mode tcp
  maxconn ${MAX_CONNECTIONS}
  backlog 4096
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen hop
  bind ${hop.bind}
  server next ${hop.server}
`
}

const bindTls = (bundle: string, ca: string): string => `ssl crt ${bundle} ca-file ${ca} verify required`

/** HAProxy wants certificate and key in one file. */
function bundle(workDir: string, name: string, { cert, key }: TlsFiles): string {
  return write(join(workDir, `${name}.pem`), readFileSync(cert, 'utf8') + readFileSync(key, 'utf8'))
}

function write(path: string, text: string): string {
  writeFileSync(path, text, { mode: 0o600 })
  return path
}

async function accepts(
  port: number,
  until: (ready: () => Promise<boolean>) => Promise<void>
): Promise<number> {
  const startMs = performance.now()
  await until(() => listens(port))
  return performance.now() - startMs
}
