/**
 * A front: a listener where kube-apiserver and others ask for a dial. It listens (TLS with client certificates, plain
 * TCP on loopback, or a Unix socket), identifies callers and limits their connections. caller.ts reads what a caller
 * sends.
 */
import { type Server, type Socket, createServer } from 'node:net'
import { createServer as createTlsServer, type TLSSocket } from 'node:tls'
import {
  type Clock,
  type Dial,
  DIAL_TIMEOUT_MS,
  type Principal,
  TunnelError,
  principalName,
  systemClock
} from '@tendril/common'
import { AdmittedCertificates, type OnExpiry } from '@tendril/common/identity/admitted'
import { type Identity, type TunnelIdentities, verifyPeer } from '@tendril/common/identity/peer'
import { callerOf } from '@tendril/common/identity/principal-of'
import { type ListenAddress, formatListen, isLoopback, listenAt } from '@tendril/common/listen-address'
import type { Log } from '@tendril/common/log'
import { LogLimiter, REFUSAL_LINES } from '@tendril/common/log-limiter'
import { carriedBy } from '@tendril/common/reset'
import { type Certificates, followCertificates, serverTlsOptions } from '@tendril/common/tls'
import { Caller, type CallerConnection, type CallerOptions, type FrontObserver, refuse } from './caller.js'
import { AllowedCallers } from './allowed.js'
import { HEADER_LIMIT_BYTES } from './connect-head.js'
import type { Route } from './route.js'
import { SOCKET_MODE, listenShared, listenUnix, removeStaleSocket } from './unix.js'

export const HEADER_TIMEOUT_MS = 10_000
export const FIRST_BYTE_DELAY_MS = 50
export const MAX_CONNECTIONS = 8_192
export const MAX_PENDING = 2_048

/** Connections above the limit that still get an answer with the reason. More than these are closed without one. */
export const OVERFLOW_CONNECTIONS = 128

/** Below the 350 s after which cloud load balancers forget an idle connection. */
const KEEP_ALIVE_MS = 55_000

export type FrontOptions = {
  /** In logs and metrics. */
  name: string
  listen: ListenAddress
  /** With it callers must show a certificate of its `ca`. Without it only loopback and Unix sockets are allowed. */
  certificates?: Certificates
  /** Names of callers let in: common name, DNS name, or the name in a tendril://caller URI. Default: see allowed.ts. */
  callers?: readonly string[]
  /** Who connects at the tunnel, and the certificates shown there: these are never callers. */
  tunnel?: TunnelIdentities & { certificates?: Certificates }
  /** Certificates without an extended key usage are refused. Default true. */
  requireClientAuth?: boolean
  /** What happens to tunnels when their caller's certificate expires. Default `end`: they are reset. */
  onExpiry?: OnExpiry
  /** TLS protocols to agree on (ALPN), best first. Default none: kube-apiserver offers none. */
  alpnProtocols?: readonly string[]
  /** Mode of the Unix socket. Default 0660. */
  mode?: number
  /** This is one of several workers that listen here. Default false. */
  shared?: boolean
  route: Route
  dial: (cluster: string) => Dial
  /** Most bytes of a request head. At the limit the answer is 431. Default 8 KiB. */
  headerLimitBytes?: number
  /** From accept to the end of the head, TLS handshake included, in milliseconds. Then 408. Default 10 000. */
  headerTimeoutMs?: number
  /**
   * Bound on every dial, in milliseconds. Then 504, or the reason of the dial. Default 4000, below the aggregator's
   * probe of 5 s.
   */
  dialTimeoutMs?: number
  /** How long bytes of a target that speaks first are held back behind the 200, in milliseconds. Default 50. */
  firstByteDelayMs?: number
  /** Callers at once. One more is answered 503. Default 8192. */
  maxConnections?: number
  /** Callers whose request head is not complete. One more closes the oldest. Default 2048. */
  maxPending?: number
  /** Called when a caller was dropped because of `maxPending`. */
  onPendingDropped?: () => void
  clock?: Clock
  log: Log
  observer?: FrontObserver
}

export interface Front {
  readonly name: string
  /** Where it listens, with the real port. */
  readonly address: ListenAddress
  /** Callers connected now, whatever their state. */
  readonly connections: number
  /** Those among them whose request head is not complete. */
  readonly pending: number
  /**
   * New callers are refused by the system; those inside stay. Resolves when the last one has left. Safe to call twice.
   */
  stopAccepting(): Promise<void>
  /** Stops accepting and ends every caller. Resolves when all is closed. Safe to call twice. */
  close(): Promise<void>
}

/** What is known of a connection before its caller is. */
type PendingConnection = { socket: Socket; atMs: number; over: boolean }

/**
 * Opens a front.
 * @throws TunnelError BAD_CONFIG for a plain front off loopback; LISTEN_FAILED when the address cannot be had.
 */
export async function listenFront(options: FrontOptions): Promise<Front> {
  const { name, listen, certificates } = options
  if (!certificates && !isLoopback(listen)) throw plainOffLoopback(name, listen)
  const front = new OpenFront(options)
  await front.listen()
  return front
}

class OpenFront implements Front {
  readonly name: string
  readonly #options: FrontOptions
  readonly #caller: CallerOptions
  readonly #headerTimeoutMs: number
  readonly #maxConnections: number
  readonly #maxPending: number
  readonly #clock: Clock
  readonly #log: Log
  readonly #server: Server
  readonly #unfollow: () => void
  readonly #connections = new Set<PendingConnection>()
  /** Oldest first. */
  readonly #pending = new Set<PendingConnection>()
  readonly #callers = new Map<Socket, Caller>()
  /**
   * TLS only: from a finished handshake back to its pending connection. Node shows no other link between the two
   * sockets.
   */
  readonly #handshakes = new Map<string, PendingConnection>()
  /** TLS only. */
  readonly #admitted: AdmittedCertificates | undefined
  #address: ListenAddress
  #closed: Promise<void> | undefined

  constructor(options: FrontOptions) {
    const { name, listen, certificates, clock = systemClock, log } = options
    this.name = name
    this.#options = options
    this.#address = listen
    this.#clock = clock
    this.#log = log.child({ front: name })
    this.#headerTimeoutMs = options.headerTimeoutMs ?? HEADER_TIMEOUT_MS
    this.#maxConnections = options.maxConnections ?? MAX_CONNECTIONS
    this.#maxPending = options.maxPending ?? MAX_PENDING
    this.#caller = {
      front: name,
      route: options.route,
      dial: options.dial,
      headerLimitBytes: options.headerLimitBytes ?? HEADER_LIMIT_BYTES,
      dialTimeoutMs: options.dialTimeoutMs ?? DIAL_TIMEOUT_MS,
      firstByteDelayMs: options.firstByteDelayMs ?? FIRST_BYTE_DELAY_MS,
      clock,
      log: this.#log,
      limitedLog: new LogLimiter({ ...REFUSAL_LINES, clock }).of(this.#log),
      observer: options.observer
    }

    const socketOptions = {
      // A FIN in the middle of a handshake is an end; a caller's half-close is kept (#tlsServerOnSecure).
      allowHalfOpen: !certificates,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEP_ALIVE_MS
    }
    if (certificates) {
      const server = createTlsServer({
        ...serverTlsOptions(certificates),
        ...socketOptions,
        handshakeTimeout: this.#headerTimeoutMs,
        ...(options.alpnProtocols && { ALPNProtocols: [...options.alpnProtocols] })
      })
      const { callers: names, tunnel = {} } = options
      const allowed = new AllowedCallers({ certificates, tunnel, ...(names && { names }) })
      if (!names && allowed.sharesAuthorities) {
        options.log.warn(
          { front: options.name },
          'callers is not set, and clients have certificates of the same authority: only tendril://caller/NAME may call'
        )
      }
      server.on('secureConnection', socket => this.#tlsServerOnSecure(socket, certificates, allowed))
      server.on('tlsClientError', (error, socket) => this.#tlsServerOnClientError(error, socket))
      this.#unfollow = followCertificates(server, certificates)
      const { onExpiry } = options
      this.#admitted = new AdmittedCertificates({
        authorities: certificates,
        ...(onExpiry && { onExpiry }),
        clock,
        log: this.#log
      })
      this.#server = server
    } else {
      this.#server = createServer(socketOptions)
      this.#unfollow = () => {}
    }
    // Of several workers each would pass what is too much on to the next, and all together round and round.
    if (!options.shared) this.#server.maxConnections = this.#maxConnections + OVERFLOW_CONNECTIONS
    this.#server.on('connection', (socket: Socket) => this.#serverOnConnection(socket))
    this.#server.on('drop', () => this.#log.debug('connection dropped, the front is over full'))
  }

  async listen(): Promise<void> {
    const { name, listen, mode = SOCKET_MODE, shared = false } = this.#options
    if ('path' in listen && !shared) await removeStaleSocket(listen.path)
    const server = this.#server
    const begin =
      'path' in listen ? () => (shared ? listenShared : listenUnix)(server, listen.path, mode) : undefined
    try {
      this.#address = await listenAt(server, `front ${name}`, listen, begin)
    } catch (error) {
      this.#unfollow()
      this.#admitted?.close()
      throw error
    }
    // Not fatal: those inside are served on. A full table of file descriptors does not even come here, libuv
    // closes what it cannot keep and goes on accepting.
    server.on('error', error => this.#log.error({ err: error }, 'cannot accept'))
  }

  get address(): ListenAddress {
    return this.#address
  }

  get connections(): number {
    return this.#connections.size
  }

  get pending(): number {
    return this.#pending.size
  }

  stopAccepting(): Promise<void> {
    return this.#stop()
  }

  async close(): Promise<void> {
    const stopped = this.#stop()
    // Node emits 'close' of a server when its last socket is destroyed, before that socket emits its own.
    const sockets = [...this.#callers.keys(), ...[...this.#connections].map(({ socket }) => socket)]
    const gone = sockets.map(socket => new Promise(resolve => socket.once('close', resolve)))
    for (const caller of this.#callers.values()) caller.destroy()
    for (const { socket } of this.#connections) socket.destroy()
    await Promise.all([stopped, ...gone])
  }

  #stop(): Promise<void> {
    this.#unfollow()
    this.#closed ??= new Promise(resolve =>
      this.#server.close(() => {
        this.#admitted?.close()
        resolve()
      })
    )
    return this.#closed
  }

  #serverOnConnection(socket: Socket): void {
    if (this.#connections.size >= this.#maxConnections + OVERFLOW_CONNECTIONS) return void socket.destroy()
    const over = this.#connections.size >= this.#maxConnections
    const connection: PendingConnection = { socket, atMs: this.#clock.now(), over }
    this.#connections.add(connection)
    this.#pending.add(connection)
    socket.on('close', () => {
      this.#connections.delete(connection)
      this.#pending.delete(connection)
    })
    if (this.#pending.size > this.#maxPending) this.#dropOldestPending()
    if (!this.#options.certificates) return void this.#admit(connection, { socket, principal: this.#local })

    const peer = peerOf(socket)
    this.#handshakes.set(peer, connection)
    socket.on('close', () => {
      if (this.#handshakes.get(peer) === connection) this.#handshakes.delete(peer)
    })
  }

  #dropOldestPending(): void {
    const [oldest] = this.#pending
    if (!oldest) return
    this.#pending.delete(oldest)
    this.#log.debug(
      { remote: oldest.socket.remoteAddress },
      'caller dropped, too many have not sent a complete request'
    )
    oldest.socket.destroy()
    this.#options.onPendingDropped?.()
  }

  /** Nothing that a caller sends after the handshake is read before it is identified here. */
  #tlsServerOnSecure(socket: TLSSocket, certificates: Certificates, allowed: AllowedCallers): void {
    const connection = this.#handshakes.get(peerOf(socket))
    // Already gone: a reset socket has no peer any more.
    if (!connection) return void socket.destroy()
    carriedBy(socket, connection.socket)
    socket.allowHalfOpen = true
    let denied: TunnelError | undefined
    let identity: Identity | undefined
    try {
      const { authorities } = certificates
      const { requireClientAuth = true } = this.#options
      identity = verifyPeer(socket, { requireClientAuth, ...(authorities && { authorities }) })
      allowed.assert(identity)
    } catch (error) {
      denied = TunnelError.from(error, 'NOT_IDENTIFIED')
    }
    const serverName = typeof socket.servername === 'string' ? socket.servername : undefined
    const principal = identity && callerOf(identity)
    const caller = this.#admit(connection, { socket, serverName, principal }, denied)
    if (denied || !identity || !this.#admitted) return
    socket.once(
      'close',
      this.#admitted.add(socket, identity, () => caller.destroy())
    )
  }

  /** Who asks on a socket without TLS: the file's mode, or loopback, has let it in. */
  get #local(): Principal {
    const where = 'path' in this.#options.listen ? 'unix' : 'loopback'
    return { kind: 'local', name: principalName(`${where}:${this.name}`) }
  }

  #admit(connection: PendingConnection, from: CallerConnection, denied?: TunnelError): Caller {
    const { atMs, over } = connection
    const { socket } = from
    const caller = new Caller(from, this.#caller)
    this.#callers.set(socket, caller)
    socket.once('close', () => this.#callers.delete(socket))
    const onHead = (): void => void this.#pending.delete(connection)
    if (denied) caller.refuse(denied)
    else if (over)
      caller.refuse(new TunnelError('OVERLOADED', `at most ${this.#maxConnections} callers at once`))
    else void caller.serve(this.#headerTimeoutMs - (this.#clock.now() - atMs), onHead)
    return caller
  }

  /** The handshake failed. A peer that sent plain HTTP gets an answer in plain HTTP. */
  #tlsServerOnClientError(error: NodeJS.ErrnoException, socket: TLSSocket): void {
    const connection = this.#handshakes.get(peerOf(socket))
    this.#log.debug({ remote: socket.remoteAddress, code: error.code }, 'no TLS handshake')
    if (connection && error.code !== undefined && SPOKE_HTTP.has(error.code)) {
      refuse(
        connection.socket,
        new TunnelError('BAD_REQUEST', 'this looks like plain HTTP, but this front is TLS'),
        this.#clock
      )
    } else {
      connection?.socket.destroy()
    }
  }
}

/** OpenSSL's names for a request where a ClientHello should be; the second is CONNECT. */
const SPOKE_HTTP = new Set(['ERR_SSL_HTTP_REQUEST', 'ERR_SSL_HTTPS_PROXY_REQUEST'])

/** Unique among live TCP connections of one listener. */
function peerOf({ remoteAddress, remotePort, localAddress }: Socket): string {
  return [remoteAddress, remotePort, localAddress].join(' ')
}

function plainOffLoopback(name: string, listen: ListenAddress): TunnelError {
  const where = formatListen(listen)
  return new TunnelError(
    'BAD_CONFIG',
    `front ${name} listens on ${where} without tls: plain fronts are for loopback and unix sockets`
  )
}
