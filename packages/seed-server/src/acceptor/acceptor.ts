/**
 * The listener for tunnels, usually behind a load balancer that passes TLS through by server name. A connection passes
 * these steps, each with limits in time and number. The peer is identified before a byte of its request is read:
 *
 *     TCP → (PROXY header) → TLS → identity, cluster → HTTP upgrade → a WebSocket, handed over
 */
import type { IncomingHttpHeaders } from 'node:http'
import { type Server, type Socket, createServer } from 'node:net'
import { type Server as TlsServer, type TLSSocket, createServer as createTlsServer } from 'node:tls'
import {
  type Clock,
  type ErrorCode,
  type LinkPrincipal,
  type Timer,
  TunnelError,
  formatPrincipal,
  systemClock
} from '@tendril/common'
import { type ClusterIdentities, type Identity, verifyPeer } from '@tendril/common/identity/peer'
import { linkPrincipalOf } from '@tendril/common/identity/principal-of'
import { type ListenAddress, listenAt } from '@tendril/common/listen-address'
import type { Log } from '@tendril/common/log'
import { type LimitedLog, LogLimiter, REFUSAL_LINES } from '@tendril/common/log-limiter'
import { type Certificates, followCertificates, serverTlsOptions } from '@tendril/common/tls'
import { websocketOptions as defaultWebsocketOptions } from '@tendril/common/transport/websocket'
import type { WebSocket } from 'ws'
import { type Party, formatParty, partyOf } from '../party.js'
import { parseProxyHeader } from './proxy-protocol.js'
import { refuse } from './refuse.js'
import { Upgrader, type UpgraderOptions } from './upgrader.js'

export const HANDSHAKE_TIMEOUT_MS = 10_000
export const HEADER_TIMEOUT_MS = 10_000
export const HEADER_LIMIT_BYTES = 8_192
export const MAX_CONNECTIONS = 8_192
export const MAX_PENDING = 2_048

/** Below the 350 s after which cloud load balancers forget an idle connection. */
const KEEP_ALIVE_MS = 55_000

/** How long clients may take to receive the reason when the acceptor closes, in milliseconds. */
export const CLOSE_GRACE_MS = 1_000

/**
 * A client, or a peer, that is let in. Listeners on `websocket` are to be attached before returning: bytes may follow
 * at once.
 */
export type TunnelConnection = {
  websocket: WebSocket
  socket: TLSSocket
  /** The peer, by its certificate: a client of one cluster, or another server. */
  principal: LinkPrincipal
  identity: Identity
  /** From the PROXY header when there is one, else the other end of the TCP connection. */
  remoteAddress: string | undefined
  headers: IncomingHttpHeaders
}

export type AcceptorOptions = {
  listen: ListenAddress
  certificates: Certificates
  clusters: readonly ClusterIdentities[]
  /**
   * Lets other servers in: those whose certificate carries `tendril://server`, or one of these identities. Default:
   * servers are refused as anybody is who is no client.
   */
  peers?: NonNullable<ClusterIdentities['identities']>
  /** Certificates without an extended key usage are refused. Default true. */
  requireClientAuth?: boolean
  /** Headers of the answer to an upgrade. */
  answerHeaders?: Readonly<Record<string, string>>
  /** `required`: every connection begins with a PROXY header, version 1 or 2. Default `none`. */
  proxyProtocol?: 'none' | 'required'
  /** Most bytes of a PROXY header of version 2. Default 4 KiB. */
  proxyHeaderLimitBytes?: number | undefined
  /** From accept to the end of the TLS handshake, PROXY header included, in milliseconds. Default 10 000. */
  handshakeTimeoutMs?: number
  /** From the handshake to the end of the upgrade request, in milliseconds. Then 408. Default 10 000. */
  headerTimeoutMs?: number
  /** Most bytes of the upgrade request's head. At the limit the answer is 431. Default 8 KiB. */
  headerLimitBytes?: number
  /** Clients at once. One more is answered 503. Default 8192. */
  maxConnections?: number
  /**
   * Most pending connections. One more drops the oldest, because slow connections must not keep out new ones. Default
   * 2048.
   */
  maxPending?: number
  /** Called when a connection was dropped because of `maxPending`. */
  onPendingDropped?: () => void
  /**
   * Asked when it is known whose connection it is. Refuses by throwing, else returns what to call when the connection
   * is closed. Default: all are admitted.
   */
  admit?: (party: Party) => () => void
  websocketOptions?: UpgraderOptions['websocketOptions']
  onConnection: (connection: TunnelConnection) => void
  onRefused?: (code: ErrorCode) => void
  clock?: Clock
  log: Log
}

export interface Acceptor {
  /** Where it listens, with the real port. */
  readonly address: ListenAddress
  /** Clients that were handed over and are still connected. */
  readonly connections: number
  /** Connections that are not clients yet. */
  readonly pending: number
  /** New clients are refused by the system; those inside stay. Safe to call twice. */
  stopAccepting(): void
  /**
   * Stops accepting and ends every connection. A client that is sent the reason has a second to receive it. Resolves
   * when all is closed. Safe to call twice.
   */
  close(): Promise<void>
}

/** @throws TunnelError LISTEN_FAILED when the address cannot be had. */
export async function listenAcceptor(options: AcceptorOptions): Promise<Acceptor> {
  const acceptor = new OpenAcceptor(options)
  await acceptor.listen()
  return acceptor
}

/** One TCP connection on its way in. */
type PendingConnection = { socket: Socket; timer: Timer; remoteAddress: string | undefined; key: string }

class OpenAcceptor implements Acceptor {
  readonly #options: AcceptorOptions
  readonly #handshakeTimeoutMs: number
  readonly #headerTimeoutMs: number
  readonly #maxConnections: number
  readonly #maxPending: number
  readonly #clock: Clock
  readonly #log: Log
  /** For what anybody can cause. */
  readonly #limitedLog: LimitedLog
  readonly #server: Server
  /** Never listens: sockets are handed in when their PROXY header has been read. */
  readonly #tlsServer: TlsServer
  readonly #upgrader: Upgrader
  readonly #unfollow: () => void
  readonly #sockets = new Set<Socket>()
  /** Clients that were handed over. */
  readonly #websockets = new Map<Socket, WebSocket>()
  /** Oldest first. */
  readonly #pending = new Set<PendingConnection>()
  /** From a finished handshake back to its pending connection. Node shows no other link between the two sockets. */
  readonly #handshakes = new Map<string, PendingConnection>()
  #address: ListenAddress
  #closed: Promise<void> | undefined

  constructor(options: AcceptorOptions) {
    const { clock = systemClock, certificates, log } = options
    this.#options = options
    this.#address = options.listen
    this.#clock = clock
    this.#log = log
    this.#limitedLog = new LogLimiter({ ...REFUSAL_LINES, clock }).of(log)
    this.#handshakeTimeoutMs = options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS
    this.#headerTimeoutMs = options.headerTimeoutMs ?? HEADER_TIMEOUT_MS
    this.#maxConnections = options.maxConnections ?? MAX_CONNECTIONS
    this.#maxPending = options.maxPending ?? MAX_PENDING
    this.#upgrader = new Upgrader({
      headerLimitBytes: options.headerLimitBytes ?? HEADER_LIMIT_BYTES,
      websocketOptions: options.websocketOptions ?? defaultWebsocketOptions,
      ...(options.answerHeaders && { answerHeaders: options.answerHeaders }),
      clock
    })

    this.#tlsServer = createTlsServer({ ...serverTlsOptions(certificates), ALPNProtocols: ['http/1.1'] })
    this.#tlsServer.on('secureConnection', socket => this.#tlsServerOnSecure(socket))
    this.#tlsServer.on('tlsClientError', (error, socket) => this.#tlsServerOnClientError(error, socket))
    this.#unfollow = followCertificates(this.#tlsServer, certificates)

    this.#server = createServer(
      { noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE_MS },
      socket => this.#serverOnConnection(socket)
    )
  }

  async listen(): Promise<void> {
    const { listen } = this.#options
    const server = this.#server
    try {
      this.#address = await listenAt(server, 'tunnel', listen)
    } catch (error) {
      this.#unfollow()
      throw error
    }
    // Not fatal: those inside are served on.
    server.on('error', error => this.#log.error({ err: error }, 'cannot accept'))
  }

  get address(): ListenAddress {
    return this.#address
  }

  get connections(): number {
    return this.#websockets.size
  }

  get pending(): number {
    return this.#pending.size
  }

  stopAccepting(): void {
    void this.#stop()
  }

  async close(): Promise<void> {
    const stopped = this.#stop()
    // Node emits 'close' of a server when its last socket is destroyed, before that socket emits its own.
    const gone = [...this.#sockets].map(socket => new Promise(resolve => socket.once('close', resolve)))
    const isLeaving = (socket: Socket): boolean => {
      const websocket = this.#websockets.get(socket)
      return websocket !== undefined && websocket.readyState === websocket.CLOSING
    }
    for (const socket of this.#sockets) if (!isLeaving(socket)) socket.destroy()
    const timer = this.#clock.after(
      CLOSE_GRACE_MS,
      () => {
        for (const socket of this.#sockets) socket.destroy()
      },
      { ref: true }
    )
    await Promise.all([stopped, ...gone])
    timer.cancel()
  }

  #stop(): Promise<void> {
    this.#unfollow()
    this.#closed ??= new Promise(resolve => this.#server.close(() => resolve()))
    return this.#closed
  }

  #serverOnConnection(socket: Socket): void {
    const timer = this.#clock.after(this.#handshakeTimeoutMs, () =>
      this.#drop(connection, 'handshake took too long')
    )
    const connection: PendingConnection = {
      socket,
      timer,
      remoteAddress: socket.remoteAddress,
      key: keyOf(socket)
    }
    this.#pending.add(connection)
    this.#sockets.add(socket)
    // A connection that breaks here has no identity yet; `close` follows and cleans up.
    socket.on('error', () => {})
    socket.on('close', () => {
      this.#sockets.delete(socket)
      this.#settle(connection)
    })
    if (this.#pending.size > this.#maxPending) {
      const [oldest] = this.#pending
      if (oldest) {
        this.#drop(oldest, 'too many connections are pending')
        this.#options.onPendingDropped?.()
      }
    }
    if (this.#options.proxyProtocol === 'required') this.#readProxyHeader(connection)
    else this.#startTls(connection)
  }

  /** The pending connection has become a client, or is gone. */
  #settle(connection: PendingConnection): void {
    connection.timer.cancel()
    this.#pending.delete(connection)
    if (this.#handshakes.get(connection.key) === connection) this.#handshakes.delete(connection.key)
  }

  #drop(connection: PendingConnection, why: string): void {
    this.#log.debug({ remote: connection.remoteAddress, reason: why }, 'connection dropped')
    this.#settle(connection)
    connection.socket.destroy()
  }

  #readProxyHeader(connection: PendingConnection): void {
    const { socket } = connection
    let received: Buffer = Buffer.alloc(0)
    const onData = (chunk: Buffer): void => {
      received = received.length === 0 ? chunk : Buffer.concat([received, chunk])
      try {
        const header = parseProxyHeader(received, this.#options.proxyHeaderLimitBytes)
        if (!header) return
        connection.remoteAddress = header.source?.host ?? connection.remoteAddress
        socket.off('data', onData)
        socket.off('end', onEnd)
        socket.pause()
        const rest = received.subarray(header.bytes)
        if (rest.length > 0) socket.unshift(rest)
        this.#startTls(connection)
      } catch (error) {
        const { remoteAddress: remote } = connection
        this.#limitedLog.warn({ remote, err: error }, 'connection refused')
        this.#options.onRefused?.(TunnelError.from(error).code)
        this.#drop(connection, 'no PROXY header')
      }
    }
    const onEnd = (): void => void socket.destroy()
    socket.on('data', onData)
    socket.on('end', onEnd)
  }

  #startTls(connection: PendingConnection): void {
    this.#handshakes.set(connection.key, connection)
    this.#tlsServer.emit('connection', connection.socket)
  }

  #tlsServerOnClientError(error: NodeJS.ErrnoException, socket: TLSSocket): void {
    const connection = this.#handshakes.get(keyOf(socket))
    if (connection) this.#drop(connection, `no TLS handshake (${error.code ?? error.message})`)
  }

  /** Nothing that a peer sends after the handshake is read before it is identified here. */
  #tlsServerOnSecure(socket: TLSSocket): void {
    const connection = this.#handshakes.get(keyOf(socket))
    // Already gone: a reset socket has no other end any more.
    if (!connection) return void socket.destroy()
    connection.timer.cancel()
    socket.on('error', () => {})
    let identity: Identity
    let principal: LinkPrincipal
    try {
      const { certificates, requireClientAuth = true } = this.#options
      const { authorities } = certificates
      identity = verifyPeer(socket, {
        code: 'CLIENT_NOT_IDENTIFIED',
        requireClientAuth,
        ...(authorities && { authorities })
      })
      principal = linkPrincipalOf(identity, this.#options)
      const release = this.#options.admit?.(partyOf(principal))
      if (release) connection.socket.once('close', release)
    } catch (error) {
      const refusal = TunnelError.from(error, 'CLIENT_NOT_IDENTIFIED')
      refuse(socket, refusal, this.#clock)
      return this.#refused(connection, refusal)
    }

    connection.timer = this.#clock.after(this.#headerTimeoutMs, () => {
      this.#upgrader.refuse(socket, { error: new TunnelError('HEADER_TIMEOUT') })
    })
    this.#upgrader.serve(socket, {
      // Its certificate is a server's or for one cluster, and `Tendril-Cluster` has to say the same.
      cluster: formatParty(partyOf(principal)),
      objection: () =>
        this.connections < this.#maxConnections
          ? undefined
          : new TunnelError('OVERLOADED', `at most ${this.#maxConnections} clients at once`),
      onRefused: error => this.#refused(connection, error, principal),
      onUpgraded: (websocket, { headers }) => {
        this.#settle(connection)
        this.#websockets.set(connection.socket, websocket)
        connection.socket.on('close', () => this.#websockets.delete(connection.socket))
        const { remoteAddress } = connection
        this.#options.onConnection({ websocket, socket, principal, identity, remoteAddress, headers })
      }
    })
  }

  /** It stays pending until its socket is closed: those who read their refusal slowly count as well. */
  #refused(connection: PendingConnection, error: TunnelError, principal?: LinkPrincipal): void {
    connection.timer.cancel()
    const who = principal && {
      cluster: formatParty(partyOf(principal)),
      principal: formatPrincipal(principal)
    }
    this.#limitedLog.warn({ remote: connection.remoteAddress, ...who, err: error }, 'client refused')
    this.#options.onRefused?.(error.code)
  }
}

/** Unique among live TCP connections of one listener. */
function keyOf({ remoteAddress, remotePort, localAddress }: Socket): string {
  return [remoteAddress, remotePort, localAddress].join(' ')
}
