/**
 * The WebSocket upgrade on a connected, verified socket, and the server's refusals as errors of our table. The last
 * step of a connection attempt. It knows nothing of the messages over the WebSocket.
 */
import type { IncomingHttpHeaders } from 'node:http'
import type { Duplex } from 'node:stream'
import { WebSocket } from 'ws'
import type { ClientOptions } from 'ws'
import { type ErrorCode, errors, TunnelError } from '../errors.js'
import { TUNNEL_PATH, WEBSOCKET_PROTOCOL } from './websocket.js'

export type UpgradeOptions = {
  /** Its host becomes the Host header; its path is asked for, `/tunnel` when it has none. */
  url: URL
  headers?: Record<string, string>
  /** Passed to `ws`: maxPayload, generateMask and the like. */
  websocketOptions?: ClientOptions
  signal: AbortSignal
}

/** A response header by which the server may name the row of the error table itself. */
export const ERROR_HEADER = 'tendril-error'

/** An upgraded connection. */
export type Upgraded = {
  websocket: WebSocket
  /** The socket under it. */
  socket: Duplex & { readonly bytesRead: number }
  /** Headers of the server's answer. */
  headers: IncomingHttpHeaders
}

/**
 * Resolves with an open WebSocket that begins to read on the next turn of the event loop: listeners attached in the
 * continuation of an `await` hear the first message. Rejects with the server's refusal, `SERVER_UNREACHABLE`,
 * `PROTOCOL_ERROR` or the signal's reason; the socket is destroyed then.
 */
export function upgrade(
  socket: Upgraded['socket'],
  { url, headers, websocketOptions, signal }: UpgradeOptions
): Promise<Upgraded> {
  const address = new URL(url)
  if (address.pathname === '/') address.pathname = TUNNEL_PATH
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      socket.destroy()
      return reject(signal.reason)
    }
    const websocket = new WebSocket(address, WEBSOCKET_PROTOCOL, {
      ...websocketOptions,
      ...(headers && { headers }),
      insecureHTTPParser: false,
      createConnection: () => socket
    })
    const settle = (): void => {
      signal.removeEventListener('abort', onAbort)
      websocket.off('error', onError)
    }
    const fail = (error: unknown): void => {
      settle()
      // ws reports the end of an unfinished handshake as an error of its own.
      websocket.on('error', () => {})
      websocket.terminate()
      socket.destroy()
      reject(error)
    }
    const onAbort = (): void => fail(signal.reason)
    const onError = (error: Error): void => fail(explainUpgrade(error, url.host))
    signal.addEventListener('abort', onAbort)
    websocket.on('error', onError)
    websocket.once('unexpected-response', (_request, response) =>
      fail(
        refusal(
          response.statusCode ?? 0,
          response.statusMessage ?? '',
          response.headers[ERROR_HEADER],
          url.host
        )
      )
    )
    let answer: IncomingHttpHeaders = {}
    websocket.once('upgrade', response => (answer = response.headers))
    websocket.once('open', () => {
      settle()
      websocket.pause()
      // Even when it is being closed by then: the answer to the close frame has to be read.
      setImmediate(() => websocket.resume())
      resolve({ websocket, socket, headers: answer })
    })
  })
}

const codeByStatus: Record<number, ErrorCode> = {
  401: 'CLIENT_NOT_IDENTIFIED',
  403: 'CLUSTER_DENIED',
  404: 'UNKNOWN_CLUSTER',
  429: 'OVERLOADED',
  503: 'OVERLOADED'
}

/** What the server answered instead of 101. `named` is its own word for it, believed when it is in our table. */
function refusal(
  status: number,
  phrase: string,
  named: string | string[] | undefined,
  host: string
): TunnelError {
  const code =
    typeof named === 'string' && Object.hasOwn(errors, named) ? (named as ErrorCode) : codeByStatus[status]
  if (code === undefined) {
    return new TunnelError(
      'PROTOCOL_ERROR',
      `${host} answered ${status} ${phrase.slice(0, 200)}, it is no tunnel server`
    )
  }
  // The phrase of our own server begins with the table's message; it is not said twice.
  const { message } = errors[code]
  const sentence = phrase.startsWith(`${message}: `)
    ? phrase.slice(message.length + 2)
    : phrase === message
      ? ''
      : phrase
  return new TunnelError(code, `${host} answered ${status}${sentence && `: ${sentence.slice(0, 200)}`}`)
}

function explainUpgrade(error: NodeJS.ErrnoException, host: string): TunnelError {
  const { code = '' } = error
  if (code === 'ECONNRESET' || code === 'EPIPE') {
    return new TunnelError('SERVER_UNREACHABLE', `${host} closed the connection instead of upgrading it`, {
      cause: error
    })
  }
  if (code === 'HPE_HEADER_OVERFLOW') {
    return new TunnelError('PROTOCOL_ERROR', `${host} answered with too large a header`, { cause: error })
  }
  if (code.startsWith('HPE_'))
    return new TunnelError('PROTOCOL_ERROR', `${host} did not answer in HTTP`, { cause: error })
  // TLS 1.3: a server that refuses our certificate says so after the handshake is done for us.
  if (code.startsWith('ERR_SSL_')) {
    return new TunnelError('CLIENT_NOT_IDENTIFIED', `${host} refused our certificate (${code})`, {
      cause: error
    })
  }
  return new TunnelError('PROTOCOL_ERROR', `${host} did not upgrade to a WebSocket: ${error.message}`, {
    cause: error
  })
}
