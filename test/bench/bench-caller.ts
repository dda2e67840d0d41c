/**
 * Opens one stream to the target through a contender, the way kube-apiserver does where the contender has a
 * CONNECT front: a connection of its own, a full handshake without resumption, a bare CONNECT. Reads go through
 * one buffer shared by the whole process; only their length is told.
 */
import { readFileSync } from 'node:fs'
import { connect, type OnReadOpts, type Socket } from 'node:net'
import {
  connect as connectTls,
  createSecureContext,
  type ConnectionOptions,
  type SecureContext
} from 'node:tls'
import type { Endpoint, TlsFiles } from './protocol.js'

const BUFFER_BYTES = 256 * 1024
const HEADER_LIMIT_BYTES = 8192
const OK_LINE = /^HTTP\/1\.[01] 200 /

export type CallerEvents = {
  /** The stream is open: bytes written now reach the target. */
  opened(socket: Socket): void
  /** @returns false to stop reading until `socket.resume()`. */
  read(bytes: number): boolean
  /** Once, last. The error is absent after an orderly end. */
  closed(error?: Error): void
}

const buffer = Buffer.allocUnsafe(BUFFER_BYTES)
const contexts = new Map<string, SecureContext>()

export function call(endpoint: Endpoint, events: CallerEvents): Socket {
  let header = ''
  let inHeader = 'target' in endpoint
  let failure: Error | undefined

  const readHeader = (length: number): boolean => {
    header += buffer.toString('latin1', 0, length)
    const end = header.indexOf('\r\n\r\n')
    if (end < 0) {
      if (header.length > HEADER_LIMIT_BYTES) socket.destroy(new Error('answer to CONNECT has no end'))
      return true
    }
    if (!OK_LINE.test(header)) {
      socket.destroy(new Error(`CONNECT answered: ${header.slice(0, header.indexOf('\r\n'))}`))
      return true
    }
    inHeader = false
    events.opened(socket)
    const rest = header.length - (end + 4)
    return rest > 0 ? events.read(rest) : true
  }
  const onread: OnReadOpts = {
    buffer,
    callback: length => (inHeader ? readHeader(length) : events.read(length))
  }

  const socket = dial(endpoint, onread)
  socket.setNoDelay(true)
  socket.once('tls' in endpoint ? 'secureConnect' : 'connect', () => {
    if ('target' in endpoint)
      socket.write(`CONNECT ${endpoint.target} HTTP/1.1\r\nHost: ${endpoint.target}\r\n\r\n`)
    else events.opened(socket)
  })
  socket.on('error', error => (failure = error))
  socket.on('close', () => events.closed(failure))
  return socket
}

function dial(endpoint: Endpoint, onread: OnReadOpts): Socket {
  if (endpoint.kind === 'connect-uds') return connect({ path: endpoint.path, onread })
  const { host, port } = endpoint
  if (endpoint.kind === 'tcp' || endpoint.kind === 'connect-plain') return connect({ host, port, onread })
  const { tls } = endpoint
  const options: ConnectionOptions & { onread: OnReadOpts } = {
    host,
    port,
    servername: tls.servername,
    secureContext: secureContext(tls),
    // Nothing is verified: that costs the caller as much as the handshake costs a server, and is not what is measured.
    rejectUnauthorized: false,
    onread
  }
  return connectTls(options)
}

function secureContext(files: TlsFiles): SecureContext {
  const known = contexts.get(files.key)
  if (known) return known
  // Without `ca` the certificate goes out alone, as kube-apiserver's does: with it, OpenSSL would add the authority's.
  const made = createSecureContext({ cert: readFileSync(files.cert), key: readFileSync(files.key) })
  contexts.set(files.key, made)
  return made
}
