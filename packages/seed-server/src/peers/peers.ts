/**
 * The other replicas: a tunnel to each of them, over which this server forwards dials, and the tunnels that they keep
 * to this one. From both this file computes the members: the servers that a client should be connected to. The options
 * say how a peer is reached and where addresses come from.
 *
 * Siblings, the workers of one seed-server, are peers with known addresses. Other replicas reach all of them at one
 * address, as clients reach servers behind a load balancer, so each sibling announces all of them to the peers that
 * connect.
 *
 *     source ──addresses──► manager ──a tunnel each──► forward (we dial)         members = self, and peers whose tunnel
 *     acceptor ──a link──► answer (they dial)                                  is up and who are not leaving
 */
import { randomBytes } from 'node:crypto'
import {
  type Clock,
  type Dial,
  HOP_LIMIT,
  type LinkPrincipal,
  Session,
  type SessionLimits,
  type Timer,
  TunnelError,
  serve,
  systemClock
} from '@tendril/common'
import { createBackoff } from '@tendril/common/backoff'
import type { BudgetShare } from '@tendril/common/fair-budget'
import type { SendShare } from '@tendril/common/send-share'
import { type EstablishedConnection, TunnelManager } from '@tendril/common/tunnel/tunnel-manager'
import { Tunnel } from '@tendril/common/tunnel/tunnel'
import { Link, type LinkLimits } from '@tendril/common/link/link'
import { LinkDialer } from '@tendril/common/link/link-dialer'
import { INSTANCE_BYTES } from '@tendril/common/link/link-message'
import { readAnnouncement } from '@tendril/common/link/announcement'
import type { Log } from '@tendril/common/log'
import { type ForwardedDialOptions, createForwardedDial } from './forwarded-dial.js'
import { type ForwardOptions, createForward } from './forward.js'
import type { PeerSource } from './source.js'

export type PeersOptions = ForwardedDialOptions & {
  /** Id of this server. */
  self: string
  source: PeerSource
  /** Addresses of siblings, each leading to one. Default none. */
  siblings?: readonly string[]
  /** One attempt to reach the server at an address. */
  connect: (address: string, signal: AbortSignal) => Promise<EstablishedConnection>
  /** Called when the members have changed, with all of them, sorted. */
  onMembers: (members: readonly string[]) => void
  onAnswer?: ForwardOptions['onAnswer']
  link?: LinkLimits
  session?: Partial<SessionLimits>
  /** Replay bytes that all links to and from peers share. */
  replayBudget?: BudgetShare
  /** Credit that all sessions with peers share. */
  sessionBudget?: BudgetShare
  /** What all links to and from peers may send in a turn. Default: as much as their carriers take. */
  sendShare?: SendShare
  clock?: Clock
  log: Log
}

/**
 * Changes within this time are announced together, in milliseconds: a replica that starts connects to all others at
 * once.
 */
export const MEMBERS_DELAY_MS = 50

/**
 * Longest wait of a start for the first attempts to reach the peers, in milliseconds. A host that is down does not
 * answer at all.
 */
export const FIRST_ATTEMPTS_MS = 3_000

/** Shorter than that of clients: there are few peers, and each of them is needed. */
const BACKOFF_CAP_MS = 5_000

export class Peers {
  /** Other replicas as a Dial into a cluster. */
  readonly dial: (cluster: string) => Dial
  readonly #options: PeersOptions
  readonly #clock: Clock
  readonly #log: Log
  readonly #manager: TunnelManager
  /** Answers what peers dial: the own clients, and those of siblings where hops are left. */
  readonly #answer: Dial
  readonly #instance = randomBytes(INSTANCE_BYTES)
  /** By address: the release of its endpoint. */
  readonly #endpoints = new Map<string, () => void>()
  /** Addresses that turned out to be this server's own. */
  readonly #own = new Set<string>()
  readonly #dialers = new WeakMap<Tunnel, LinkDialer>()
  /** Sessions in which peers dial. */
  readonly #accepted = new Set<Session>()
  /** Links over which other replicas dial. The ids of the siblings are announced over them. */
  readonly #replicas = new Set<Link>()
  /** Ids of siblings. */
  readonly #siblings = new Set<string>()
  /** Ids of servers that announced their siblings. Another server at their address does not mean that they are gone. */
  readonly #shared = new Set<string>()
  /** Whether the source has answered or failed once. */
  #sourceAsked = false
  /** Callbacks that wait for the first attempts. */
  readonly #waiting = new Set<() => void>()
  #draining = false
  #stopped = false
  #announcedMembers: readonly string[] = []
  #announceTimer: Timer | undefined

  constructor(options: PeersOptions) {
    const { clock = systemClock, log, onAnswer, dialLocal } = options
    this.#options = options
    this.#clock = clock
    this.#log = log
    const views = (tunnels: readonly Tunnel[]) =>
      tunnels.flatMap(tunnel => {
        const dialer = this.#dialers.get(tunnel)
        const { server } = tunnel
        const sibling = this.#siblings.has(server)
        return dialer ? [{ server, dial: dialer.dial, silent: dialer.silent, sibling }] : []
      })
    const dialSiblings = createForward({
      peers: () => views(this.#usable.filter(({ server }) => this.#siblings.has(server))),
      clock,
      ...(onAnswer && { onAnswer })
    })
    this.#answer = createForwardedDial({ ...options, dialLocal: nearest(dialLocal, dialSiblings) })
    this.#manager = new TunnelManager({
      endpoints: [],
      connections: 1,
      newTunnel: (server, connectionIndex, onChange) => this.#newTunnel(server, connectionIndex, onChange),
      newBackoff: () => createBackoff({ capMs: BACKOFF_CAP_MS }),
      clock,
      onEnd: () => this.#notifyWaiting(),
      // Attempts are logged at debug level; this file logs peers that connect and leave.
      log: {
        debug: (fields, message) => log.debug(fields, message),
        info: (fields, message) => log.debug(fields, message),
        warn: (fields, message) => log.warn(fields, message),
        error: (fields, message) => log.error(fields, message)
      }
    })
    this.dial = createForward({
      peers: () => views(this.#usable),
      clock,
      ...(onAnswer && { onAnswer })
    })
    this.#announcedMembers = this.members
  }

  /** Ids of all servers that accept new dials, this one included. */
  get members(): readonly string[] {
    const others = this.#usable.map(({ server }) => server)
    return [...new Set(this.#draining ? others : [this.#options.self, ...others])].sort()
  }

  /** Peers whose tunnel is up. */
  get up(): number {
    return this.#manager.tunnels.filter(({ up }) => up).length
  }

  /** Sessions to and from peers: a drain waits for their streams. */
  get sessions(): readonly Session[] {
    return [...this.#manager.tunnels.map(({ session }) => session), ...this.#accepted]
  }

  start(): void {
    for (const address of this.#options.siblings ?? []) this.#open(address, true)
    const onSourceAsked = (): void => {
      this.#sourceAsked = true
      this.#notifyWaiting()
    }
    this.#options.source.start(addresses => {
      this.#found(addresses)
      onSourceAsked()
    }, onSourceAsked)
  }

  /**
   * Resolves with true when the source has been asked once and each peer that it named is connected, or one attempt to
   * reach it has failed; with false after `timeoutMs`, or when all is stopped before.
   */
  firstAttempts(timeoutMs = FIRST_ATTEMPTS_MS): Promise<boolean> {
    return new Promise(resolve => {
      const end = (done: boolean): void => {
        timer.cancel()
        this.#waiting.delete(look)
        resolve(done)
      }
      const look = (): void => {
        if (this.#stopped || this.#firstAttemptsMade) end(!this.#stopped)
      }
      const timer = this.#clock.after(timeoutMs, () => end(false))
      this.#waiting.add(look)
      look()
    })
  }

  get #firstAttemptsMade(): boolean {
    const { endpoints, tunnels } = this.#manager
    const opening = tunnels.some(({ up, session }) => up && session.state === 'greeting')
    const tried = endpoints.every(
      ({ name, up, lastError }) => up || lastError !== undefined || this.#own.has(name)
    )
    return this.#sourceAsked && tried && !opening
  }

  #notifyWaiting(): void {
    for (const look of [...this.#waiting]) look()
  }

  /**
   * A peer's link, before anything was received on it: answers what it dials. `name` is its id. A dial of a replica has
   * come over one server at least, and a sibling is the last that a dial is passed on to; a peer of version 1.0 says
   * neither.
   */
  accept(link: Link, name: string, remote: LinkPrincipal, { sibling = false } = {}): void {
    const { session: limits, sessionBudget: budget, sendShare } = this.#options
    const log = this.#log.child({ peer: name.slice(0, 8) })
    const onOpen = serve(this.#answer, { remote, leastHops: sibling ? HOP_LIMIT : 1 })
    const session = new Session(link, {
      onOpen,
      clock: this.#clock,
      ...(limits && { limits }),
      ...(budget && { budget }),
      ...(sendShare && { sendShare })
    })
    this.#accepted.add(session)
    if (!sibling && this.#options.siblings) {
      this.#replicas.add(link)
      link.announce(this.#siblingsAnnouncement())
    }
    session.on('open', () => {
      log.debug('peer dials here')
      // The peer is reachable, so a pause before the next attempt can end.
      this.#manager.retryNow()
    })
    session.on('close', error => {
      this.#accepted.delete(session)
      this.#replicas.delete(link)
      log.debug({ code: error.code, reason: error.message }, 'peer dials here no longer')
    })
    if (this.#draining) session.drain('DRAINING', 'the server stops')
  }

  /** This server is no longer a member and accepts no new dials from peers. It may still forward its own. */
  drain(): void {
    if (this.#draining) return
    this.#draining = true
    for (const session of this.#accepted) session.drain('DRAINING', 'the server stops')
    void this.#options.source.leave()
    this.#announceMembers()
  }

  /** The certificate shown to replicas has changed: see `TunnelManager.renew`. */
  renew(withinMs: number): void {
    this.#manager.renew(withinMs)
  }

  /** Ends all tunnels. Safe to call twice. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#notifyWaiting()
    this.#announceTimer?.cancel()
    await this.#options.source.stop()
    this.#manager.stop(new TunnelError('DRAINING', 'the server stops'))
    for (const session of this.#accepted) session.close('DRAINING', 'the server stops')
    await this.#manager.stopped
  }

  /** Tunnels over which a dial can be forwarded now. */
  get #usable(): Tunnel[] {
    return this.#manager.tunnels.filter(
      ({ up, leaving, session }) =>
        up && !leaving && session.state !== 'greeting' && session.state !== 'closed'
    )
  }

  #found(addresses: readonly string[]): void {
    for (const address of this.#own) if (!addresses.includes(address)) this.#own.delete(address)
    for (const [address, release] of this.#endpoints) {
      if (addresses.includes(address)) continue
      this.#endpoints.delete(address)
      release()
    }
    for (const address of addresses)
      if (!this.#endpoints.has(address) && !this.#own.has(address)) this.#open(address)
  }

  #open(address: string, sibling = false): void {
    const shared = this.#shared
    /** Ids of the servers that answered there. */
    const led = new Set<string>()
    const release = this.#manager.open({
      name: address,
      get single() {
        return sibling || ![...led].some(server => shared.has(server))
      },
      connect: async signal => {
        const connection = await this.#options.connect(address, signal)
        if (connection.server !== this.#options.self) {
          const { server = address } = connection
          led.add(server)
          if (sibling) this.#siblings.add(server)
          return connection
        }
        // This address is the server's own and stays so as long as the process lives, so it is not tried again.
        // Siblings have other addresses.
        connection.carrier.close('CLOSED', 'a server is no peer of its own')
        this.#own.add(address)
        this.#endpoints.delete(address)
        release()
        this.#notifyWaiting()
        throw new TunnelError('CLOSED', `${address} is this server itself`)
      }
    })
    if (!sibling) this.#endpoints.set(address, release)
  }

  #newTunnel(server: string, connectionIndex: number, onChange: (tunnel: Tunnel) => void): Tunnel {
    const {
      self,
      link: limits,
      session: sessionLimits,
      replayBudget,
      sessionBudget,
      sendShare
    } = this.#options
    const log = this.#log.child({ peer: server.slice(0, 8) })
    const clock = this.#clock
    const link = new Link({ clock, ...(limits && { limits }), ...(replayBudget && { budget: replayBudget }) })
    const session = new Session(link, {
      clock,
      ...(sessionLimits && { limits: sessionLimits }),
      ...(sessionBudget && { budget: sessionBudget }),
      ...(sendShare && { sendShare })
    })
    link.on('up', ({ first, downMs }) => {
      if (first) log.info('peer connected')
      else log.info({ downMs: Math.round(downMs) }, 'peer connected again')
      this.#announceSoon()
    })
    link.on('down', ({ code, message: reason }) => {
      log.warn({ code, reason, streams: session.streamCount }, 'peer lost, dialling again')
      this.#announceSoon()
    })
    link.on('announcement', text => {
      const { members } = readAnnouncement(text)
      if (!members) return
      this.#shared.add(server)
      this.#manager.announced(
        members.filter(id => id !== self),
        server
      )
    })
    session.on('open', () => this.#announceSoon())
    session.on('goaway', ({ message: reason }) => {
      log.info({ reason }, 'peer drains')
      this.#announceSoon()
    })
    session.on('close', ({ code, message: reason }) => {
      this.#siblings.delete(server)
      this.#shared.delete(server)
      log.info({ code, reason }, 'peer gone')
      this.#announceSoon()
    })
    const tunnel = new Tunnel({
      server,
      link,
      session,
      self: { name: self, instance: this.#instance, connectionIndex },
      clock,
      maxAgeMs: 0,
      random: Math.random,
      onChange
    })
    const onResponsive = (responsive: boolean): void => {
      if (responsive) log.info('peer responds again')
      else log.warn('peer does not respond, others are asked')
    }
    this.#dialers.set(tunnel, new LinkDialer(link, session.dial, { clock, onResponsive }))
    return tunnel
  }

  #announceSoon(): void {
    this.#notifyWaiting()
    this.#announceTimer ??= this.#clock.after(MEMBERS_DELAY_MS, () => this.#announceMembers())
  }

  #announceMembers(): void {
    this.#announceTimer?.cancel()
    this.#announceTimer = undefined
    const { members } = this
    if (members.join() === this.#announcedMembers.join()) return
    this.#announcedMembers = members
    this.#log.info({ members: members.length }, 'members changed')
    const announcement = this.#siblingsAnnouncement()
    for (const link of this.#replicas) link.announce(announcement)
    this.#options.onMembers(members)
  }

  /** docs/protocol.md §6.5: who is behind the address of this server. */
  #siblingsAnnouncement(): string {
    return JSON.stringify({
      members: this.members.filter(id => id === this.#options.self || this.#siblings.has(id))
    })
  }
}

/** The own clients, and those of siblings where these cannot and hops are left. */
function nearest(
  dialLocal: (cluster: string) => Dial,
  dialSiblings: (cluster: string) => Dial
): (cluster: string) => Dial {
  return cluster => async (target, context) => {
    try {
      return await dialLocal(cluster)(target, context)
    } catch (error) {
      const own = TunnelError.from(error)
      if (!own.retryable) throw own
      return dialSiblings(cluster)(target, context).catch((error: unknown) => {
        const theirs = TunnelError.from(error)
        throw theirs.code === 'NO_CLIENT' ? own : theirs
      })
    }
  }
}
