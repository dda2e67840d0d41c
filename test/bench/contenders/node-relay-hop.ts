/** One hop of node-relay, a process of its own: accepts mTLS, dials on over mTLS or plain TCP, joins the two. */
import { constants } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { pipeline, type Duplex } from 'node:stream'
import { connect as connectTls, createServer } from 'node:tls'
import type { Address, TlsFiles } from '../protocol.js'

type Options = { port: number; to: Address; server: TlsFiles; client?: TlsFiles }

const { port, to, server, client } = JSON.parse(process.argv[2] ?? '') as Options
const read = ({ ca, cert, key }: TlsFiles): { ca: Buffer; cert: Buffer; key: Buffer } => ({
  ca: readFileSync(ca),
  cert: readFileSync(cert),
  key: readFileSync(key)
})
/** As Tendril's own: AES-128-GCM first, X25519, no tickets. */
const common = { minVersion: 'TLSv1.2', ciphers: 'TLS_AES_128_GCM_SHA256', ecdhCurve: 'X25519' } as const
const clientOptions = client && { ...common, ...read(client), servername: client.servername }
const dial = (): Duplex =>
  clientOptions ? connectTls({ ...to, ...clientOptions }) : connect({ ...to, noDelay: true })

createServer(
  {
    ...common,
    ...read(server),
    secureOptions: constants.SSL_OP_NO_TICKET,
    requestCert: true,
    noDelay: true,
    allowHalfOpen: true
  },
  socket => {
    const next = dial()
    const gone = (): void => {}
    pipeline(socket, next, gone)
    pipeline(next, socket, gone)
  }
).listen({ host: '127.0.0.1', port, backlog: 4096 })
