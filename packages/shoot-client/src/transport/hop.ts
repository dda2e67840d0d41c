/**
 * One HTTP CONNECT over a socket that is open already: how a proxy or a gateway is asked for the way on. Node's own
 * HTTP client speaks it, because it brings what the CONNECT of https-proxy-agent lacks: a limit on the answer's
 * header, a signal that ends it, the bytes behind the header, and a socket we may choose (TLS to the proxy, or the
 * inside of another hop). RFC 9110 section 9.3.6.
 */
import { request } from 'node:http'
import type { IncomingMessage, OutgoingHttpHeaders } from 'node:http'
import type { Socket } from 'node:net'
import { TunnelError } from '@tendril/common'
import type { Destination } from '@tendril/common/transport/connect'
import { formatAuthority } from '@tendril/common/wire/authority'

export type HopOptions = {
  /** For sentences: `proxy http://proxy:3128`, without credentials. */
  name: string
  destination: Destination
  headers?: OutgoingHttpHeaders
  signal: AbortSignal
}

/** Most bytes of an answer's header. Proxies send a few hundred. */
export const HOP_HEADER_LIMIT_BYTES = 16 * 1024

/**
 * Resolves with the same socket, leading to `destination` now. Rejects with `PROXY_REFUSED`, carrying the status
 * line, or with the signal's reason; the socket is destroyed then.
 */
export function requestHop(
  socket: Socket,
  { name, destination, headers, signal }: HopOptions
): Promise<Socket> {
  const authority = formatAuthority(destination)
  return new Promise((resolve, reject) => {
    const fail = (error: unknown): void => {
      socket.destroy()
      reject(signal.aborted ? signal.reason : error)
    }
    const asked = request({
      method: 'CONNECT',
      path: authority,
      headers: { Host: authority, ...headers },
      createConnection: () => socket,
      maxHeaderSize: HOP_HEADER_LIMIT_BYTES,
      signal
    })
    asked.on('error', (error: NodeJS.ErrnoException) =>
      fail(new TunnelError('PROXY_REFUSED', explain(name, error), { cause: error }))
    )
    // Any status comes here; a body, if there is one, is not read.
    asked.on('connect', (answer: IncomingMessage, _socket: Socket, head: Buffer) => {
      const status = answer.statusCode ?? 0
      if (status < 200 || status > 299) return fail(refusal(name, status, answer.statusMessage))
      if (head.length > 0) socket.unshift(head)
      resolve(socket)
    })
    // A status line without the rest of HTTP: Node reads it as an ordinary answer.
    asked.on('response', answer => fail(refusal(name, answer.statusCode ?? 0, answer.statusMessage)))
    asked.end()
  })
}

function refusal(name: string, status: number, phrase = ''): TunnelError {
  const hint = status === 407 ? ', which asks for credentials: put user and password into the proxy URL' : ''
  return new TunnelError(
    'PROXY_REFUSED',
    `${name} answered ${status} ${phrase.slice(0, 200)}`.trimEnd() + hint
  )
}

function explain(name: string, error: NodeJS.ErrnoException): string {
  if (error.code === 'HPE_HEADER_OVERFLOW')
    return `${name} answered with more than ${HOP_HEADER_LIMIT_BYTES} bytes of header`
  if (error.code?.startsWith('HPE_')) return `${name} did not answer in HTTP`
  if (error.code === 'ECONNRESET') return `${name} closed the connection without an answer`
  return `${name}: ${error.message}`
}

/** `Proxy-Authorization: Basic` from the user and password of a URL, percent-decoded. */
export function basicAuthorization(url: URL): string | undefined {
  if (url.username === '' && url.password === '') return undefined
  const credentials = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`
  return `Basic ${Buffer.from(credentials).toString('base64')}`
}
