/**
 * Two Node processes in a row that join TLS sockets, each stream a connection on both hops: what Node's own TLS and
 * streams cost on this machine, before any tunnel. What Tendril does beyond it is between the two.
 */
import { fileURLToPath } from 'node:url'
import { program, type Contender } from '../contender.js'
import { reservePort } from '../../support/ports.js'
import { listens, type Child } from '../processes.js'
import type { Address, TlsFiles } from '../protocol.js'

const HOP = fileURLToPath(new URL('node-relay-hop.js', import.meta.url))

export const nodeRelay: Contender = {
  name: 'node-relay',
  title:
    'two Node processes in a row, mTLS on both hops, sockets joined and nothing else: what Node itself costs',
  available: async () => true,
  async start({ pki, processes, target, line }) {
    const hop = async (
      name: string,
      to: Address,
      client?: TlsFiles
    ): Promise<{ child: Child; port: number; ms: number }> => {
      const port = await reservePort()
      const startMs = performance.now()
      const options = JSON.stringify({ port, to, server: pki.server, client })
      const child = processes.program(name, [process.execPath, HOP, options])
      await processes.until(child, () => listens(port))
      return { child, port, ms: performance.now() - startMs }
    }
    const back = await hop('node-relay-back', await target())
    const front = await hop(
      'node-relay-front',
      await line({ host: '127.0.0.1', port: back.port }),
      pki.client
    )
    return {
      endpoint: { kind: 'tls', host: '127.0.0.1', port: front.port, tls: pki.caller },
      programs: [program(front.child, 'near'), program(back.child, 'far')],
      readyMs: { near: front.ms, far: back.ms }
    }
  }
}
