/**
 * The service of shoot-client: builds its parts, connects them, starts and stops them. One of the two files that may
 * import everything.
 */
import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { type Dial, Session, TunnelError, allIdle, principalName, serve, systemClock } from '@tendril/common'
import { localAddresses } from '@tendril/common/address-order'
import type { Admin } from '@tendril/common/admin/admin-listener'
import { createBackoff } from '@tendril/common/backoff'
import type { Service } from '@tendril/common/command'
import { linkLimits, resolveOptions, sessionLimits } from '@tendril/common/config/sections'
import { AdmittedCertificates } from '@tendril/common/identity/admitted'
import { Bundle, followWarnings } from '@tendril/common/identity/bundle'
import { loadAuthorities } from '@tendril/common/identity/credentials'
import { followRenewals } from '@tendril/common/identity/renewal'
import { holdToServerCertificate } from '@tendril/common/identity/server-certificate'
import { type EstablishedConnection, TunnelManager } from '@tendril/common/tunnel/tunnel-manager'
import { Tunnel } from '@tendril/common/tunnel/tunnel'
import { type BudgetShare, FairBudget } from '@tendril/common/fair-budget'
import { Link } from '@tendril/common/link/link'
import { INSTANCE_BYTES } from '@tendril/common/link/link-message'
import { readAnnouncement } from '@tendril/common/link/announcement'
import type { Log } from '@tendril/common/log'
import { CLIENT_LINES, LogLimiter } from '@tendril/common/log-limiter'
import type { Metrics } from '@tendril/common/metrics'
import { createPolicy } from '@tendril/common/policy/policy'
import { remembering } from '@tendril/common/remember'
import { type Resolve, createResolve, logResolver } from '@tendril/common/resolve'
import { SERVER_HEADER, WebSocketCarrier } from '@tendril/common/transport/websocket'
import { type LinkView, createAdmin } from './admin/client-admin.js'
import type { ShootConfig } from './config.js'
import { type ClientMetrics, createClientMetrics } from './client-metrics.js'
import { findProxies } from './chosen-proxies.js'
import { createTargetDial } from './targets/dial-target.js'
import { connectServer } from './transport/client-connect.js'

type ServerConfig = ShootConfig['servers'][number]

export class Client implements Service {
  readonly closed: Promise<void>
  readonly #config: ShootConfig
  readonly #log: Log
  readonly #metrics: Metrics
  readonly #counts: ClientMetrics
  readonly #dialTarget: Dial
  /** Resolves the names of servers and proxies. Names of targets, which others choose, have a resolver of their own. */
  readonly #resolve: Resolve
  /** Random for each process, so that the server can see a restart. */
  readonly #instance = randomBytes(INSTANCE_BYTES)
  readonly #replayBudget: BudgetShare
  readonly #sessionBudget: BudgetShare
  /** When a link was last resumed. */
  #resumedAtMs = -Infinity
  #bundle: Bundle | undefined
  /** Certificates of servers to which this client has connections. */
  #servers: AdmittedCertificates | undefined
  /** The last warnings about the authorities in `proxyCa`. */
  #proxyCaWarnings: readonly string[] = []
  #admin: Admin | undefined
  #manager: TunnelManager | undefined
  #stopping: Promise<void> | undefined
  #over!: () => void

  constructor(config: ShootConfig, { log, metrics }: { log: Log; metrics: Metrics }) {
    this.#config = config
    this.#log = log.child({ cluster: config.cluster })
    this.#metrics = metrics
    this.#counts = createClientMetrics(metrics.registry)
    this.#replayBudget = new FairBudget(config.link.replayBudget).share()
    this.#sessionBudget = new FairBudget(config.session.processBudget).share()
    this.closed = new Promise(resolve => (this.#over = resolve))
    const { allow, deny, dialTimeout, maxPendingDials } = config.targets
    this.#resolve = remembering(createResolve(resolveOptions(config.dns)), {
      clock: systemClock,
      onRemembered: (name, reason) =>
        this.#log.warn({ name, reason }, 'using the last known addresses of a name')
    })
    const targets = createTargetDial({
      resolve: createResolve(resolveOptions(config.dns)),
      policy: createPolicy({
        ...(allow && { allow }),
        deny,
        ownListeners: () => (this.#admin ? [this.#admin.address] : []),
        ownAddresses: localAddresses
      }),
      clock: systemClock,
      limits: { maxPendingDials },
      metrics: this.#counts,
      resumedAtMs: () => this.#resumedAtMs
    })
    this.#dialTarget = (target, context) =>
      targets(target, { ...context, timeoutMs: Math.min(context.timeoutMs, dialTimeout) })
  }

  /**
   * Resolves when the tunnel manager runs, whether or not a tunnel is up. Rejects with BAD_CONFIG, BAD_IDENTITY or
   * LISTEN_FAILED.
   */
  async start(): Promise<void> {
    const { tls, admin, reconnect, servers, connections } = this.#config
    for (const variable of findProxies(this.#config, process.env).ignored)
      this.#log.warn(
        { event: 'proxy.ignored', variable },
        'ignoring a SOCKS proxy, only HTTP proxies are supported'
      )
    logResolver(this.#log, resolveOptions(this.#config.dns))
    // Only to refuse a wrong file at the start: it is read again for each attempt.
    await this.#loadProxyCa()
    if (admin) {
      this.#admin = await createAdmin({
        ...admin,
        links: () => this.#links(),
        metrics: this.#metrics.registry,
        log: this.#log
      })
    }
    const { onExpiry, ...files } = tls
    const bundle = await Bundle.load(files)
    this.#bundle = bundle
    const verified = new AdmittedCertificates({
      authorities: bundle,
      onExpiry,
      code: 'SERVER_NOT_IDENTIFIED',
      log: this.#log
    })
    this.#servers = verified
    bundle.on('change', () =>
      this.#log.info({ cert: tls.cert, notAfter: bundle.notAfter }, 'certificate reloaded')
    )
    followWarnings(bundle, this.#log)
    followRenewals(bundle, withinMs => this.#manager?.renew(withinMs))
    bundle.on('error', err => this.#log.error({ err }, 'certificate not reloaded, the old one stays'))
    bundle.watch()
    if (this.#stopping) return
    this.#manager = new TunnelManager({
      endpoints: servers.map(server => ({
        name: server.url,
        connect: signal => this.#connect(server, { bundle, verified }, signal)
      })),
      connections,
      newTunnel: (server, connectionIndex, onChange) => this.#newTunnel(server, connectionIndex, onChange),
      newBackoff: () => createBackoff({ baseMs: BACKOFF_BASE_MS, capMs: reconnect.maxDelay }),
      clock: systemClock,
      log: this.#log,
      onEnd: error => this.#counts.linkEnded(error.code)
    })
  }

  /** For readiness: one entry for each server of the configuration, also before the manager runs. */
  #links(): LinkView[] {
    if (!this.#manager)
      return this.#config.servers.map(({ url }) => ({ server: url, up: false, detail: 'starting' }))
    return this.#manager.endpoints.map(({ name, up, lastError }) => ({
      server: name,
      up,
      ...(lastError && { detail: lastError.message })
    }))
  }

  /** Accepts no new streams, waits for open ones within `drainTimeout`, then ends. May be called twice. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop()
    return this.#stopping
  }

  async #stop(): Promise<void> {
    if (this.#manager) {
      this.#manager.drain()
      await this.#idle(this.#manager)
      this.#manager.stop(new TunnelError('DRAINING', 'the client stops'))
      await this.#manager.stopped
    }
    this.#servers?.close()
    this.#bundle?.unwatch()
    await this.#admin?.close()
    this.#over()
  }

  /** Waits until the last stream has ended, at most `drainTimeout`. */
  #idle({ tunnels }: TunnelManager): Promise<void> {
    const sessions = tunnels.map(({ session }) => session)
    const streams = sessions.reduce((sum, { streamCount }) => sum + streamCount, 0)
    this.#log.info({ streams, drainTimeoutMs: this.#config.drainTimeout }, 'draining')
    for (const session of sessions) session.drain('DRAINING', 'the client stops')
    return allIdle(sessions, systemClock, this.#config.drainTimeout)
  }

  async #connect(
    server: ServerConfig,
    { bundle, verified }: { bundle: Bundle; verified: AdmittedCertificates },
    signal: AbortSignal
  ): Promise<EstablishedConnection> {
    const { cluster, proxy, upstreamProxy, connectTimeout } = this.#config
    const hopCa = await this.#loadProxyCa()
    const { leaf } = bundle
    const { websocket, socket, secured, headers } = await connectServer(server, {
      tls: bundle.tlsOptions(),
      proxy,
      ...(hopCa && { hopCa }),
      ...(upstreamProxy && { upstreamProxy }),
      headers: { 'Tendril-Cluster': cluster },
      timeoutMs: connectTimeout,
      resolve: this.#resolve,
      signal
    })
    const carrier = new WebSocketCarrier(websocket, socket)
    // Otherwise nothing would replace this connection before its old certificate expires.
    if (leaf !== bundle.leaf) {
      carrier.close('CLOSED', 'certificates have changed')
      throw new TunnelError('CLOSED', 'certificates have changed during the attempt')
    }
    const id = headers[SERVER_HEADER]
    const leftMs = holdToServerCertificate(carrier, secured, verified)
    return { carrier, server: typeof id === 'string' ? id : undefined, leftMs }
  }

  /** Authorities for the certificates of proxies. Their warnings are logged when they change. */
  async #loadProxyCa(): Promise<string[] | undefined> {
    const { proxyCa } = this.#config
    if (proxyCa === undefined) return undefined
    const { ca, warnings } = await loadAuthorities(proxyCa)
    for (const warning of warnings) if (!this.#proxyCaWarnings.includes(warning)) this.#log.warn(warning)
    this.#proxyCaWarnings = warnings
    return ca
  }

  /** A new tunnel, not connected yet. */
  #newTunnel(server: string, connectionIndex: number, onChange: (tunnel: Tunnel) => void): Tunnel {
    const {
      name = hostname(),
      maxConnectionAge,
      link: section,
      session: limits,
      routes,
      targets
    } = this.#config
    const child = this.#log.child({
      server: server.slice(0, 8),
      ...(connectionIndex > 0 && { connectionIndex })
    })
    const log = new LogLimiter(CLIENT_LINES).of(child)
    const link = new Link({ limits: linkLimits(section), budget: this.#replayBudget })
    const session = new Session(link, {
      twoWay: 'even',
      onOpen: serve(this.#dialTarget, {
        remote: { kind: 'server', name: principalName(server) },
        timeoutMs: targets.dialTimeout
      }),
      limits: sessionLimits(limits),
      budget: this.#sessionBudget
    })
    if (routes.length > 0) link.announce(JSON.stringify({ routes }))
    let down = (): void => {}
    link.on('up', ({ first, downMs, replayedBytes }) => {
      down()
      down = this.#counts.linkUp()
      if (first) return log.info({}, 'link up')
      this.#resumedAtMs = systemClock.now()
      log.info({ downMs: Math.round(downMs), replayedBytes }, 'link resumed')
    })
    link.on('down', error => {
      down()
      this.#counts.linkEnded(error.code)
      const { code, message: reason } = error
      log.warn({ code, reason, streams: session.streamCount }, 'link down, dialling again')
    })
    link.on('announcement', text => {
      const { members } = readAnnouncement(text)
      if (members) this.#manager?.announced(members, server)
    })
    link.on('close', error => {
      down()
      this.#counts.linkEnded(error.code)
      log.info({ code: error.code, reason: error.message }, 'link closed')
    })
    session.on('goaway', reason => log.info({ reason: reason.message }, 'server drains'))
    return new Tunnel({
      server,
      link,
      session,
      self: { name, instance: this.#instance, connectionIndex },
      clock: systemClock,
      maxAgeMs: maxConnectionAge,
      random: Math.random,
      onChange
    })
  }
}

/**
 * Longest second wait, in milliseconds: when a thousand clients lose a server, they connect again over seconds, not at
 * once.
 */
const BACKOFF_BASE_MS = 1_000
