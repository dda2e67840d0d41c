/**
 * The service of seed-server: builds its parts, connects them, starts and stops them. One of the two files that may
 * import everything.
 */
import { randomUUID } from 'node:crypto'
import {
  type Dial,
  type LinkPrincipal,
  Session,
  TunnelError,
  allIdle,
  formatPrincipal,
  serve,
  systemClock
} from '@tendril/common'
import type { Admin } from '@tendril/common/admin/admin-listener'
import type { Service } from '@tendril/common/command'
import { FairBudget } from '@tendril/common/fair-budget'
import { type SendShare, SendShares } from '@tendril/common/send-share'
import { AdmittedCertificates } from '@tendril/common/identity/admitted'
import { Bundle, followWarnings } from '@tendril/common/identity/bundle'
import { followRenewals } from '@tendril/common/identity/renewal'
import { holdToServerCertificate } from '@tendril/common/identity/server-certificate'
import type { EstablishedConnection } from '@tendril/common/tunnel/tunnel-manager'
import { LinkHost } from '@tendril/common/link/host'
import type { Link } from '@tendril/common/link/link'
import { LinkDialer } from '@tendril/common/link/link-dialer'
import { readAnnouncement } from '@tendril/common/link/announcement'
import { logListening } from '@tendril/common/listen-address'
import type { Log } from '@tendril/common/log'
import { CLIENT_LINES, LogLimiter, REFUSAL_LINES } from '@tendril/common/log-limiter'
import type { Metrics } from '@tendril/common/metrics'
import { linkLimits, resolveOptions, sessionLimits } from '@tendril/common/config/sections'
import { type Route, readRoute, sortRoutes } from '@tendril/common/policy/routes'
import { remembering } from '@tendril/common/remember'
import { type Resolve, createResolve, logResolver } from '@tendril/common/resolve'
import { type Connected, connect } from '@tendril/common/transport/connect'
import { SERVER_HEADER, WebSocketCarrier } from '@tendril/common/transport/websocket'
import { parseHostPort } from '@tendril/common/wire/host-port'
import { type Acceptor, type TunnelConnection, listenAcceptor } from './acceptor/acceptor.js'
import { type SiblingListener, connectSibling, listenSiblings } from './acceptor/siblings.js'
import { CLUSTER_HEADER } from './acceptor/upgrader.js'
import { createAdmin } from './admin/server-admin.js'
import { refuseClientDials } from './client-dials.js'
import type { FrontConfig, SeedConfig } from './config.js'
import { type Front, listenFront } from './front/front.js'
import { createRoute } from './front/route.js'
import { Limits } from './limits.js'
import { type ServerMetrics, createServerMetrics } from './server-metrics.js'
import { type Party, SERVERS, formatParty, partiesOf, partyOf } from './party.js'
import { type PeersConfig, withoutNeedlessBrackets } from './peers-config.js'
import { leaseSource } from './peers/leases.js'
import { FIRST_ATTEMPTS_MS, Peers } from './peers/peers.js'
import { type PeerSource, dnsSource, staticSource } from './peers/source.js'
import { Announcements } from './registry/announcements.js'
import { type Registration, Registry } from './registry/registry.js'

/** The peer of a carrier, with the key that LinkHost binds links to. */
type RemoteIdentity = Pick<TunnelConnection, 'principal' | 'remoteAddress'> &
  Partial<Pick<TunnelConnection, 'socket' | 'identity'>> & { key: string; sibling?: boolean }

/** For one of several workers: its own Unix socket, and those of the other workers. */
export type Siblings = { own: string; others: readonly string[] }

/** A client that is connected, or is down within its resume window. */
type HostedClient = { link: Link; session: Session }

export class Server implements Service {
  /** Identifies this replica. A restart gives a new id. */
  readonly id = randomUUID()
  readonly closed: Promise<void>
  readonly #config: SeedConfig
  readonly #log: Log
  /** Limits of the log lines that clients cause, and of those about refusals. */
  readonly #clientLines = new LogLimiter(CLIENT_LINES)
  readonly #refusals = new LogLimiter(REFUSAL_LINES)
  readonly #metrics: Metrics
  readonly #counts: ServerMetrics
  readonly #registry: Registry
  readonly #announcements = new Announcements()
  /** Resolves the names of peers. */
  readonly #resolve: Resolve
  /** Undefined if there are no other workers. */
  readonly #siblings: Siblings | undefined
  /** Other replicas, when there are any. */
  readonly #peers: Peers | undefined
  readonly #host: LinkHost<RemoteIdentity>
  readonly #hostedClients = new Set<HostedClient>()
  readonly #limits: Limits
  /** Shared by the clusters; the links between servers are one party more. */
  readonly #replayBudget: FairBudget<Party>
  readonly #sessionBudget: FairBudget<Party>
  /** By party: what its links may send in a turn. */
  readonly #sendShares: ReadonlyMap<Party, SendShare>
  /** By cluster: routes that its clients may announce. */
  readonly #routes: Map<string, Route[]>
  readonly #bundles: Bundle[] = []
  /** Certificates of clients and peers whose links are up. */
  #admitted: AdmittedCertificates | undefined
  /** By link: the release of its certificate. */
  readonly #admissions = new WeakMap<Link, () => void>()
  /** The certificate that is shown to peers. */
  #peerBundle: Bundle | undefined
  /** Certificates of peers to which this server has connections. */
  #peerCertificates: AdmittedCertificates | undefined
  readonly #fronts: Front[] = []
  #acceptor: Acceptor | undefined
  #siblingListener: SiblingListener | undefined
  #admin: Admin | undefined
  #open = false
  #stopping: Promise<void> | undefined
  #over!: () => void

  constructor(
    config: SeedConfig,
    { log, metrics, siblings }: { log: Log; metrics: Metrics; siblings?: Siblings }
  ) {
    this.#config = config
    this.#siblings = siblings
    this.#log = siblings ? log.child({ worker: this.id.slice(0, 8) }) : log
    this.#metrics = metrics
    this.#resolve = remembering(createResolve(resolveOptions(config.dns)), {
      clock: systemClock,
      onRemembered: (name, reason) =>
        this.#log.warn({ name, reason }, 'using the last known addresses of a name')
    })
    const { clusters, link, session, peers } = config
    this.#replayBudget = new FairBudget(link.replayBudget)
    this.#sessionBudget = new FairBudget(session.processBudget)
    const hasPeers = (peers ?? siblings) !== undefined
    const parties = partiesOf(clusters, hasPeers)
    for (const budget of [this.#replayBudget, this.#sessionBudget]) {
      for (const party of parties) budget.share(party)
    }
    const sendShares = new SendShares()
    this.#sendShares = new Map(parties.map(party => [party, sendShares.add()]))
    this.#limits = new Limits({
      clusters,
      peers: hasPeers,
      linkLimit: link.linkLimit,
      maxConnections: config.tunnel.maxConnections,
      onRefused: event => this.#counts.limitRefused(event)
    })
    this.#routes = new Map(
      config.clusters.map(({ name, routes }) => [name, routes.flatMap(route => readRoute(route) ?? [])])
    )
    this.#registry = new Registry({
      dialRemote: (config.peers ?? siblings) && (cluster => this.#dialRemote(cluster)),
      observer: {
        dialed: event => this.#counts.registry.dialed(event),
        failedOver: event => this.#counts.registry.failedOver(event)
      },
      routesPerClient: cluster => this.#limits.routesPerClient(cluster)
    })
    this.#peers = (config.peers ?? siblings) && this.#newPeers(config.peers)
    this.#counts = createServerMetrics(metrics, {
      registry: this.#registry,
      clusters: config.clusters.map(({ name }) => name),
      replayBytes: () =>
        parties.map(party => [formatParty(party), this.#replayBudget.share(party).usedBytes]),
      peersUp: this.#peers && (() => this.#peers?.up ?? 0)
    })
    this.closed = new Promise(resolve => (this.#over = resolve))
    this.#host = new LinkHost<RemoteIdentity>({
      server: this.id,
      limits: linkLimits(config.link),
      budgetOf: ({ principal }) => this.#replayBudget.share(partyOf(principal)),
      admit: ({ name }, { principal, key }) =>
        this.#limits.acquireLink(partyOf(principal), ownerOf(key, name)),
      onLink: (link, { name }, remoteIdentity) => {
        const { principal, sibling = false } = remoteIdentity
        this.#holdToCertificate(link, remoteIdentity)
        link.on('down', () => this.#admissions.get(link)?.())
        link.on('close', () => this.#admissions.get(link)?.())
        if (principal.kind === 'server') this.#peers?.accept(link, name, principal, { sibling })
        else this.#hostOnLink(link, name, principal, remoteIdentity)
      },
      onResume: (link, remoteIdentity) => this.#holdToCertificate(link, remoteIdentity),
      onRefuse: (error, { principal, remoteAddress: remote }) => {
        const cluster = formatParty(partyOf(principal))
        this.#refusals.of(this.#log).warn(
          {
            cluster,
            principal: formatPrincipal(principal),
            remote,
            code: error.code,
            reason: error.message
          },
          'link refused'
        )
      }
    })
  }

  /**
   * Number of clients of a cluster that dials can use: 0 before the fronts are open, and 0 after the stop has begun.
   */
  clientsOf(cluster: string): number {
    return this.#open && !this.#stopping ? this.#registry.serving(cluster) : 0
  }

  /** Rejects with BAD_IDENTITY, BAD_CONFIG or LISTEN_FAILED; `stop` cleans up after a start that failed. */
  async start(): Promise<void> {
    const { tunnel, fronts, clusters, peers, admin } = this.#config
    logResolver(this.#log, resolveOptions(this.#config.dns))

    // The admin listener first: probes see a server that is alive and not ready while the rest starts.
    if (admin) {
      this.#admin = await createAdmin({
        ...admin,
        clusters,
        clientsOf: cluster => this.clientsOf(cluster),
        metrics: this.#metrics.registry,
        log: this.#log
      })
    }
    // Fronts are opened last. Peers and clients learn of this server (`members`) before, so that the first dial at a
    // front
    // finds links to peers, or at least clients that are connecting. The last `listening` line and readiness say that
    // callers may connect.
    const certificates = await this.#bundle(tunnel.tls)
    this.#admitted = new AdmittedCertificates({
      authorities: certificates,
      onExpiry: tunnel.tls.onExpiry,
      code: 'CLIENT_NOT_IDENTIFIED',
      log: this.#log
    })
    this.#acceptor = await listenAcceptor({
      listen: tunnel.listen,
      certificates,
      requireClientAuth: tunnel.tls.requireClientAuth,
      proxyProtocol: tunnel.proxyProtocol,
      proxyHeaderLimitBytes: tunnel.proxyHeaderLimit,
      clusters,
      ...(peers && { peers: peers.identities }),
      answerHeaders: { [SERVER_HEADER]: this.id },
      handshakeTimeoutMs: tunnel.handshakeTimeout,
      headerLimitBytes: tunnel.headerLimit,
      maxConnections: tunnel.maxConnections,
      maxPending: tunnel.maxPending,
      admit: cluster => this.#limits.acquireConnection(cluster),
      onPendingDropped: () => this.#counts.limitRefused({ limit: 'maxPending' }),
      onConnection: connection => this.#acceptorOnConnection(connection),
      onRefused: code => this.#counts.tunnelRefused(code),
      log: this.#log
    })
    logListening(this.#log, 'tunnel', this.#acceptor.address)
    // Peers after the acceptor, so that they can connect to this server as well, and before the fronts, which need
    // them.
    if (peers) {
      this.#peerBundle = peers.tls
        ? await this.#bundle({ ...peers.tls, clientCa: peers.tls.ca })
        : certificates
      this.#peerCertificates = new AdmittedCertificates({
        authorities: this.#peerBundle,
        onExpiry: tunnel.tls.onExpiry,
        code: 'SERVER_NOT_IDENTIFIED',
        log: this.#log
      })
      followRenewals(this.#peerBundle, withinMs => this.#peers?.renew(withinMs))
    }
    if (this.#siblings) {
      this.#siblingListener = await listenSiblings({
        path: this.#siblings.own,
        answerHeaders: { [SERVER_HEADER]: this.id },
        onConnection: (websocket, socket) => {
          this.#host.accept(new WebSocketCarrier(websocket, socket), {
            principal: { kind: 'server', name: 'sibling' },
            remoteAddress: undefined,
            key: 'sibling',
            sibling: true
          })
        }
      })
      logListening(this.#log, 'siblings', { path: this.#siblings.own })
    }
    if (this.#peers) {
      this.#peers.start()
      if (!(await this.#peers.firstAttempts()))
        this.#log.warn({ waitedMs: FIRST_ATTEMPTS_MS }, 'opening fronts before all peers have answered')
    }
    for (const config of fronts) {
      const front = await this.#openFront(config, certificates)
      this.#fronts.push(front)
      logListening(this.#log, `front ${front.name}`, front.address)
    }
    this.#open = true
  }

  /**
   * Is unready for `drainDelay`, waits for open streams within `drainTimeout`, then ends. May be called at any time,
   * and twice.
   */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop()
    return this.#stopping
  }

  async #stop(): Promise<void> {
    // The server is unready from now on, but still serves new callers: load balancers need time to notice.
    await this.#linger()
    await this.#drain()
    await Promise.all(this.#fronts.map(front => front.close()))
    for (const { session } of this.#hostedClients) session.close('DRAINING', 'the server stops')
    await this.#peers?.stop()
    await this.#siblingListener?.close()
    await this.#acceptor?.close()
    this.#admitted?.close()
    this.#peerCertificates?.close()
    await this.#admin?.close()
    for (const bundle of this.#bundles) bundle.unwatch()
    this.#over()
  }

  /**
   * Serves until load balancers have noticed that this server is unready. When a listener closes, the kernel resets
   * connections that it has accepted and the program has not, so no new callers may come by then.
   */
  async #linger(): Promise<void> {
    const { drainDelay } = this.#config
    if (!this.#open || drainDelay === 0) return
    this.#log.info({ drainDelayMs: drainDelay }, 'unready, serving on')
    await new Promise<void>(resolve => systemClock.after(drainDelay, resolve, { ref: true }))
  }

  /** Until the last stream has ended and the last caller has left, or drainTimeout is over. */
  async #drain(): Promise<void> {
    // A server that is no longer a member gets no new clients, and no new dials from peers.
    this.#peers?.drain()
    const clientSessions = [...this.#hostedClients].map(({ session }) => session)
    const sessions = [...clientSessions, ...(this.#peers?.sessions ?? [])]
    const streams = sessions.reduce((sum, { streamCount }) => sum + streamCount, 0)
    const { drainTimeout } = this.#config
    const endMs = systemClock.now() + drainTimeout
    this.#log.info({ streams, drainTimeoutMs: drainTimeout }, 'draining')
    this.#host.drain()
    for (const session of clientSessions) session.drain('DRAINING', 'the server stops')
    await allIdle(sessions, systemClock, drainTimeout)
    const callersGone = Promise.all(this.#fronts.map(front => front.stopAccepting()))
    await within(endMs - systemClock.now(), callersGone)
  }

  async #openFront(front: FrontConfig, tunnelCertificates: Bundle): Promise<Front> {
    const { clusters, peers } = this.#config
    const serverNames = Object.fromEntries(
      clusters.flatMap(({ name, serverNames }) => serverNames.map(serverName => [serverName, name]))
    )
    const reached = clusters.filter(({ serverNames }) => serverNames.length > 0).map(({ name }) => name)
    const shared =
      front.cluster === undefined && clusters.length > 1
        ? this.#limits.sharedFront(front, reached)
        : undefined
    return listenFront({
      name: front.name,
      listen: front.listen,
      ...(front.tls && {
        certificates: await this.#bundle(front.tls),
        onExpiry: front.tls.onExpiry,
        requireClientAuth: front.tls.requireClientAuth
      }),
      ...(front.callers && { callers: front.callers }),
      tunnel: { clusters, peers: peers?.identities, certificates: tunnelCertificates },
      ...(front.mode !== undefined && { mode: front.mode }),
      shared: this.#siblings !== undefined,
      route: createRoute({
        ...(front.cluster !== undefined && { cluster: front.cluster }),
        serverNames,
        clusters: clusters.map(({ name }) => name)
      }),
      dial: cluster => this.#limits.dial(cluster, this.#registry.dial(cluster), shared),
      headerLimitBytes: front.headerLimit,
      headerTimeoutMs: front.headerTimeout,
      dialTimeoutMs: front.dialTimeout,
      firstByteDelayMs: front.firstByteDelay,
      maxConnections: front.maxConnections,
      maxPending: front.maxPending,
      onPendingDropped: () => this.#counts.limitRefused({ limit: 'maxPending' }),
      observer: this.#counts.front,
      log: this.#log
    })
  }

  async #bundle({ cert, key, clientCa }: { cert: string; key: string; clientCa: string }): Promise<Bundle> {
    const bundle = await Bundle.load({ cert, key, ca: clientCa })
    bundle.on('change', () => this.#log.info({ cert, notAfter: bundle.notAfter }, 'certificate reloaded'))
    followWarnings(bundle, this.#log)
    bundle.on('error', err => this.#log.error({ err, cert }, 'certificate not reloaded, the old one stays'))
    bundle.watch()
    this.#bundles.push(bundle)
    return bundle
  }

  #acceptorOnConnection(connection: TunnelConnection): void {
    const { websocket, socket, principal, identity } = connection
    const { uris, commonName = '', dnsNames } = identity
    // The subject, not the certificate: a renewed certificate may resume the link of the old one.
    const subject = uris.find(uri => uri.startsWith('tendril:')) ?? `${commonName} ${dnsNames.join(' ')}`
    this.#host.accept(new WebSocketCarrier(websocket, socket), {
      ...connection,
      key: `${formatParty(partyOf(principal))} ${subject}`
    })
  }

  /**
   * Ends the link when the certificate of its newest connection expires. After a renewal the link continues with the
   * new certificate. A link that is down is not ended: it can only resume over a connection with a valid certificate.
   */
  #holdToCertificate(link: Link, { socket, identity }: RemoteIdentity): void {
    this.#admissions.get(link)?.()
    if (!socket || !identity || !this.#admitted) return
    const end = ({ code, detail }: TunnelError): void => link.close(code, detail)
    this.#admissions.set(link, this.#admitted.add(socket, identity, end))
  }

  #hostOnLink(
    link: Link,
    name: string,
    principal: Extract<LinkPrincipal, { kind: 'client' }>,
    { key, remoteAddress: remote }: RemoteIdentity
  ): void {
    const { cluster } = principal
    const id = link.id?.toString('hex') ?? ''
    const child = this.#log.child({ cluster, client: name, link: id.slice(0, 8) })
    const log = this.#clientLines.of(child, cluster)
    const warnings = this.#refusals.of(child, cluster)
    const sendShare = this.#sendShares.get(cluster)
    const session = new Session(link, {
      twoWay: 'odd',
      onOpen: serve(refuseClientDials(warnings), { remote: principal }),
      limits: sessionLimits(this.#config.session),
      budget: this.#sessionBudget.share(cluster),
      ...(sendShare && { sendShare })
    })
    const hostedClient = { link, session }
    const since = Date.now()
    let routes: readonly Route[] = []
    // A dial that comes after the replaced link has ended and before this session has opened waits for it.
    const arrived = this.#registry.expect(cluster)
    let registration: Registration | undefined
    const warnOfIgnored = (ignored: number): void => {
      if (ignored === 0) return
      const limit = `clusters[${cluster}].limits.routesPerClient: ${this.#limits.routesPerClient(cluster)}`
      warnings.warn({ ignored, limit }, 'routes ignored that are more than a client may announce')
    }
    /** Counts the routes above the limit of this client, over all its links. */
    const countIgnored = (): number => {
      const ignored = registration?.ignoredRoutes ?? 0
      if (ignored > 0) this.#counts.limitRefused({ limit: 'routesPerClient', cluster })
      return ignored
    }
    const dialer = new LinkDialer(link, session.dial, {
      clock: systemClock,
      // This client is not among them: it does not respond when this is called.
      hasOtherLink: () => this.#registry.hasWell(cluster) || (this.#peers?.up ?? 0) > 0,
      onResponsive: responsive => {
        if (responsive) log.info({}, 'client responds again')
        else log.warn({}, 'client does not respond, others are asked')
        registration?.changed()
      }
    })

    session.on('open', () => {
      registration = this.#registry.add({
        cluster,
        name,
        id,
        owner: ownerOf(key, name),
        dial: dialer.dial,
        get routes() {
          return routes
        },
        get state() {
          return {
            down: link.state !== 'up',
            silent: dialer.silent,
            draining: session.peerIsLeaving,
            streams: session.streamCount,
            rttMs: link.roundTripMs || session.roundTripMs,
            since
          }
        }
      })
      arrived()
      log.info({ remote, twoWay: session.twoWay }, 'client connected')
      warnOfIgnored(countIgnored())
    })
    link.on('up', ({ first, downMs, replayedBytes }) => {
      if (!first) log.info({ downMs: Math.round(downMs), replayedBytes }, 'link resumed')
      registration?.changed()
    })
    const announcements = this.#announcements.open(cluster, {
      read: text => {
        const counted = this.#limits.routes(cluster, readAnnouncement(text).routes ?? [])
        const sorted = sortRoutes(counted.routes, this.#routes.get(cluster) ?? [])
        routes = sorted.routes
        registration?.changed()
        log.info({ routes: routes.length }, 'client announces routes')
        if (sorted.refused.length > 0) {
          const { refused } = sorted
          const shown = refused.slice(0, SHOWN_ROUTES)
          warnings.warn(
            { refused: shown, count: refused.length },
            'routes ignored that this cluster may not announce'
          )
        }
        warnOfIgnored(counted.ignored + countIgnored())
      },
      onError: ({ code, detail }) => link.close(code, detail)
    })
    link.on('announcement', announcements.receive)
    link.on('down', error => {
      log.warn(
        { code: error.code, reason: error.message, streams: session.streamCount },
        'link down, waiting'
      )
      registration?.changed()
    })
    session.on('goaway', reason => {
      log.info({ reason: reason.message }, 'client drains')
      registration?.changed()
    })
    session.on('close', error => {
      announcements.close()
      registration?.release()
      arrived()
      this.#hostedClients.delete(hostedClient)
      const gone = { code: error.code, reason: error.message }
      if (error.code === 'VERSION_MISMATCH')
        warnings.warn(gone, 'client speaks another version of the protocol')
      else log.info(gone, 'client gone')
    })
    this.#hostedClients.add(hostedClient)
    if (this.#peers) link.announce(membersAnnouncement(this.#peers))
  }

  #newPeers(config: PeersConfig | undefined): Peers {
    const { link, session, clusters } = this.#config
    const sendShare = this.#sendShares.get(SERVERS)
    const siblings = this.#siblings?.others
    return new Peers({
      self: this.id,
      source: config ? this.#sourceOf(config) : staticSource([]),
      ...(siblings && { siblings }),
      ...(sendShare && { sendShare }),
      connect: (address, signal) => this.#connectPeer(config, address, signal),
      clusters: clusters.map(({ name }) => name),
      dialLocal: cluster => this.#limits.dial(cluster, this.#registry.dialLocal(cluster)),
      onMembers: () => this.#announceMembers(),
      onAnswer: event => this.#counts.forwarded(event),
      link: linkLimits(link),
      session: sessionLimits(session),
      replayBudget: this.#replayBudget.share(SERVERS),
      sessionBudget: this.#sessionBudget.share(SERVERS),
      log: this.#log
    })
  }

  #sourceOf({ static: addresses, dns, leases, resolveInterval }: PeersConfig): PeerSource {
    const log = this.#log
    if (leases) {
      const { duration: durationMs, address, ...options } = leases
      const own = withoutNeedlessBrackets(address)
      return leaseSource({ ...options, address: own, durationMs, holder: this.id, log })
    }
    if (dns !== undefined) {
      const resolve = createResolve(resolveOptions(this.#config.dns))
      return dnsSource({ ...parseHostPort(dns), intervalMs: resolveInterval, resolve, log })
    }
    return staticSource(addresses ?? [])
  }

  async #connectPeer(
    config: PeersConfig | undefined,
    address: string,
    signal: AbortSignal
  ): Promise<EstablishedConnection> {
    const leaf = this.#peerBundle?.leaf
    const connected: Connected =
      config && !this.#siblings?.others.includes(address)
        ? await this.#connectReplica(config, address, signal)
        : await connectSibling(address, { signal })
    const { websocket, socket, secured, headers } = connected
    const carrier = new WebSocketCarrier(websocket, socket)
    if (leaf !== this.#peerBundle?.leaf) {
      carrier.close('CLOSED', 'certificates have changed')
      throw new TunnelError('CLOSED', 'certificates have changed during the attempt')
    }
    const server = headers[SERVER_HEADER]
    if (typeof server === 'string') {
      const verified = this.#peerCertificates
      return {
        carrier,
        server,
        ...(verified && { leftMs: holdToServerCertificate(carrier, secured, verified) })
      }
    }
    carrier.close('PROTOCOL_ERROR', 'a server says its id')
    throw new TunnelError('PROTOCOL_ERROR', `${address} did not say which server it is`)
  }

  #connectReplica(
    { connectTimeout, dns, serverName }: PeersConfig,
    address: string,
    signal: AbortSignal
  ): Promise<Connected> {
    const name = serverName ?? (dns && parseHostPort(dns).host)
    return connect(
      { url: `wss://${address}`, ...(name !== undefined && { serverName: name }) },
      {
        ...(this.#peerBundle && { tls: this.#peerBundle.tlsOptions() }),
        headers: { [CLUSTER_HEADER]: formatParty(SERVERS) },
        timeoutMs: connectTimeout,
        resolve: this.#resolve,
        signal
      }
    )
  }

  #dialRemote(cluster: string): Dial {
    if (!this.#peers) throw new TunnelError('NO_CLIENT', `for cluster ${cluster}`)
    return this.#peers.dial(cluster)
  }

  #announceMembers(): void {
    if (!this.#peers) return
    const announcement = membersAnnouncement(this.#peers)
    for (const { link } of this.#hostedClients) link.announce(announcement)
  }
}

/** Most refused routes in a log line, which also has their number. */
const SHOWN_ROUTES = 8

/** Identifies the client of a link: its verified identity and its name. */
function ownerOf(key: string, name: string): string {
  return JSON.stringify([key, name])
}

/** docs/protocol.md §6.4. */
function membersAnnouncement({ members }: Peers): string {
  return JSON.stringify({ members })
}

/** Waits for `promise`, at most `ms`. */
async function within(ms: number, promise: Promise<unknown>): Promise<void> {
  await new Promise<void>(resolve => {
    const timer = systemClock.after(Math.max(0, ms), resolve, { ref: true })
    const done = (): void => {
      timer.cancel()
      resolve()
    }
    promise.then(done, done)
  })
}
