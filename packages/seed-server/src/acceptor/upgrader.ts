/**
 * Makes a WebSocket of a verified TLS socket: reads one HTTP request, checks it as docs/protocol.md requires, and
 * upgrades. acceptor.ts has identified the peer before. This file knows nothing of the messages over the WebSocket.
 */
import { type IncomingMessage, type Server, createServer } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { type Clock, TunnelError } from '@tendril/common'
import { TUNNEL_PATH, WEBSOCKET_PROTOCOL } from '@tendril/common/transport/websocket'
import { type ServerOptions, type WebSocket, WebSocketServer } from 'ws'
import { refuse } from './refuse.js'

/** Header with the cluster of the client. It must agree with the client's certificate. */
export const CLUSTER_HEADER = 'tendril-cluster'

export type UpgraderOptions = {
  headerLimitBytes: number
  /** Passed to `ws`. */
  websocketOptions: Pick<ServerOptions, 'perMessageDeflate' | 'maxPayload'>
  /** Headers of the answer. */
  answerHeaders?: Readonly<Record<string, string>>
  clock: Clock
}

/** A verified peer whose request is awaited. */
export interface UpgradeRequest {
  /** The cluster its certificate is for. */
  readonly cluster: string
  /** Asked last, before the upgrade: the error to refuse it with, or undefined. */
  objection(): TunnelError | undefined
  onUpgraded(websocket: WebSocket, request: IncomingMessage): void
  onRefused(error: TunnelError): void
}

/** `httpStatus` where HTTP has a more exact status than the table of errors. */
export type Refusal = { error: TunnelError; httpStatus?: number }

export class Upgrader {
  readonly #options: UpgraderOptions
  readonly #server: Server
  readonly #websockets: WebSocketServer
  readonly #upgradeRequests = new WeakMap<Duplex, UpgradeRequest>()

  constructor(options: UpgraderOptions) {
    this.#options = options
    // Never listens: sockets are handed in. Node's header timeouts come with listening, so acceptor.ts keeps the time.
    this.#server = createServer({
      maxHeaderSize: options.headerLimitBytes,
      insecureHTTPParser: false
    })
    this.#server.on('upgrade', (request, socket, head) => this.#serverOnUpgrade(request, socket, head))
    this.#server.on('request', request => this.refuse(request.socket, whyNot(request)))
    this.#server.on('connect', (request, socket) => this.refuse(socket, whyNot(request)))
    this.#server.on('clientError', (error, socket) => this.#serverOnClientError(error, socket))
    this.#websockets = new WebSocketServer({
      ...options.websocketOptions,
      noServer: true,
      clientTracking: false,
      handleProtocols: () => WEBSOCKET_PROTOCOL
    })
    const answer = Object.entries(options.answerHeaders ?? {}).map(([name, value]) => `${name}: ${value}`)
    this.#websockets.on('headers', headers => headers.push(...answer))
    this.#websockets.on('wsClientError', (error, socket) => {
      this.refuse(socket, { error: new TunnelError('BAD_REQUEST', error.message) })
    })
  }

  /**
   * Reads the request of this socket. One of the upgrade request's callbacks follows, unless the socket closes first.
   */
  serve(socket: Socket, upgradeRequest: UpgradeRequest): void {
    this.#upgradeRequests.set(socket, upgradeRequest)
    this.#server.emit('connection', socket)
  }

  /** Answers in place of the upgrade. Once per socket: a peer may have sent more requests than one. */
  refuse(socket: Duplex, { error, httpStatus }: Refusal): void {
    const upgradeRequest = this.#upgradeRequests.get(socket)
    if (!upgradeRequest) return
    this.#upgradeRequests.delete(socket)
    refuse(socket, error, this.#options.clock, httpStatus)
    upgradeRequest.onRefused(error)
  }

  #serverOnUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const upgradeRequest = this.#upgradeRequests.get(socket)
    if (!upgradeRequest) return void socket.destroy()
    // Node takes its listeners away with the upgrade; without one an error would end the process.
    socket.on('error', () => {})
    const objection = upgradeRequest.objection()
    const refusal = objection ? { error: objection } : checkRequest(request, upgradeRequest.cluster)
    if (refusal) return this.refuse(socket, refusal)
    this.#websockets.handleUpgrade(request, socket, head, websocket => {
      this.#upgradeRequests.delete(socket)
      upgradeRequest.onUpgraded(websocket, request)
    })
  }

  #serverOnClientError(error: NodeJS.ErrnoException, socket: Duplex): void {
    // Refused before: the parser stumbles over every further chunk, but a close now would eat the answer (refuse.ts).
    if (!this.#upgradeRequests.has(socket)) return
    if (!socket.writable || error.code === 'ECONNRESET') return void socket.destroy()
    const { headerLimitBytes } = this.#options
    this.refuse(socket, {
      error:
        error.code === 'HPE_HEADER_OVERFLOW'
          ? new TunnelError('HEADER_TOO_LARGE', `at most ${headerLimitBytes} bytes are accepted`)
          : new TunnelError('BAD_REQUEST', `this is not an HTTP/1.1 request (${error.code ?? error.message})`)
    })
  }
}

/** The first rule of docs/protocol.md that an upgrade request breaks. */
function checkRequest(request: IncomingMessage, cluster: string): Refusal | undefined {
  const { method, headers } = request
  if (pathOf(request) !== TUNNEL_PATH || method !== 'GET') return whyNot(request)
  // Only browsers send Origin. One that is made to connect would use its user's certificate for an untrusted page.
  if (headers.origin !== undefined) {
    return { error: new TunnelError('CALLER_DENIED', 'the tunnel is not for browsers, which send Origin') }
  }
  const protocols = headers['sec-websocket-protocol']?.split(',').map(name => name.trim()) ?? []
  if (!protocols.includes(WEBSOCKET_PROTOCOL)) {
    const error = new TunnelError(
      'VERSION_MISMATCH',
      `ask for ${WEBSOCKET_PROTOCOL} in Sec-WebSocket-Protocol`
    )
    return { error, httpStatus: 400 }
  }
  const stated = headers[CLUSTER_HEADER]
  if (typeof stated !== 'string') {
    return { error: new TunnelError('BAD_REQUEST', 'the header Tendril-Cluster is missing') }
  }
  if (stated === cluster) return undefined
  const said = JSON.stringify(stated.slice(0, 64))
  const proved = JSON.stringify(cluster)
  return {
    error: new TunnelError(
      'CLUSTER_DENIED',
      `the client says it serves ${said}, its certificate is for ${proved}`
    )
  }
}

/** Why a request that is no upgrade of the tunnel is refused. */
function whyNot(request: IncomingMessage): Refusal {
  if (pathOf(request) !== TUNNEL_PATH) {
    return { error: new TunnelError('BAD_REQUEST', `nothing is here but ${TUNNEL_PATH}`), httpStatus: 404 }
  }
  const error = new TunnelError(
    'BAD_REQUEST',
    `ask with GET for an upgrade to websocket, ${WEBSOCKET_PROTOCOL}`
  )
  return { error, httpStatus: 426 }
}

function pathOf({ url }: IncomingMessage): string | undefined {
  return url?.split('?')[0]
}
