/**
 * A simulation for the manager: servers with real link hosts and sessions, joined in memory, behind endpoints that take as long
 * as a dial takes. Time is in the test's hands; chance is a seed.
 */
import { createBackoff } from '../../src/backoff.js'
import { TunnelError } from '../../src/errors.js'
import {
  type EstablishedConnection,
  type Endpoint,
  TunnelManager,
  type TunnelManagerOptions
} from '../../src/tunnel/tunnel-manager.js'
import { Tunnel } from '../../src/tunnel/tunnel.js'
import { LinkHost } from '../../src/link/host.js'
import { Link, type LinkLimits } from '../../src/link/link.js'
import { Session } from '../../src/mux/session.js'
import { FakeClock } from '../support/fake-clock.js'
import { type MemoryCarrier, memoryCarriers } from '../support/memory-carrier.js'

/** TCP, TLS and the upgrade over a continent, with a server that has other things to do. */
const DIAL_MS = { least: 25, most: 60 }

/** Mulberry32. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

export class Replica {
  readonly id: string
  readonly host: LinkHost<{ key: string }>
  readonly links = new Set<Link>()
  readonly sessions = new Set<Session>()
  /** Connections to it, the oldest first. */
  readonly carriers: MemoryCarrier[] = []
  /** False: connects are refused. */
  up = true

  constructor(id: string, clock: FakeClock, limits: Partial<LinkLimits> = {}) {
    this.id = id
    this.host = new LinkHost({
      server: id,
      clock,
      limits,
      onLink: link => {
        const session = new Session(link, { clock })
        this.links.add(link)
        this.sessions.add(session)
        link.on('close', () => {
          this.links.delete(link)
          this.sessions.delete(session)
        })
      }
    })
  }

  announce(members: readonly Replica[]): void {
    for (const link of this.links) link.announce(JSON.stringify({ members: members.map(({ id }) => id) }))
  }

  drain(): void {
    this.host.drain()
    for (const session of this.sessions) session.drain('DRAINING')
  }

  /** As a process that is killed: its connections break, and it remembers nothing. */
  kill(): void {
    this.up = false
    for (const link of [...this.links]) link.terminate(new TunnelError('LINK_LOST', 'killed'))
  }
}

export type SimulationOptions = Partial<Omit<TunnelManagerOptions, 'endpoints' | 'clock' | 'newTunnel'>> & {
  seed?: number
  /** Default: one server behind one endpoint. */
  endpoints?: (simulation: Simulation) => Endpoint[]
  servers?: number
  maxAgeMs?: number
  /** Servers tell who they are when the connection is made. Default true. */
  named?: boolean
  limits?: Partial<LinkLimits>
}

export type Simulation = ReturnType<typeof createSimulation>

export function createSimulation(options: SimulationOptions = {}) {
  const clock = new FakeClock()
  const random = seeded(options.seed ?? 1)
  const { limits = {}, named = true } = options
  const replicas = [...Array(options.servers ?? 1).keys()].map(at => new Replica(`s${at}`, clock, limits))
  const carriers: MemoryCarrier[] = []
  /** When each attempt was made. */
  const attempts: number[] = []
  const logged: [level: string, message: string, fields: Record<string, unknown>][] = []
  const log = (level: string) => (fields: object, message: string) =>
    void logged.push([level, message, fields as Record<string, unknown>])
  const state = { connecting: 0, open: 0 }

  /** A connection to `choose()`, after as long as that takes. */
  const dial = (choose: () => Replica | undefined, signal: AbortSignal): Promise<EstablishedConnection> => {
    attempts.push(clock.now() - 1_000)
    state.connecting++
    return new Promise<EstablishedConnection>((resolve, reject) => {
      const end = (act: () => void): void => {
        state.connecting--
        timer.cancel()
        signal.removeEventListener('abort', onAbort)
        act()
      }
      const onAbort = (): void => end(() => reject(new TunnelError('CLOSED', 'stopped')))
      const took = DIAL_MS.least + random() * (DIAL_MS.most - DIAL_MS.least)
      const timer = clock.after(took, () =>
        end(() => {
          const replica = choose()
          if (!replica?.up) return reject(new TunnelError('SERVER_UNREACHABLE', 'connection refused'))
          const [near, far] = memoryCarriers()
          carriers.push(near)
          replica.carriers.push(near)
          state.open++
          near.on('close', () => state.open--)
          replica.host.accept(far, { key: 'k' })
          resolve({ carrier: near, server: named ? replica.id : undefined })
        })
      )
      signal.addEventListener('abort', onAbort)
      if (signal.aborted) onAbort()
    })
  }

  const simulation = {
    clock,
    random,
    replicas,
    carriers,
    attempts,
    logged,
    /** Connections under way or open. */
    busy: () => state.connecting + state.open,
    dial,
    /** An endpoint to one of the servers that are up, whichever. */
    balancer: (name = 'balancer'): Endpoint => ({
      name,
      connect: signal =>
        dial(() => {
          const up = replicas.filter(one => one.up)
          return up[Math.floor(random() * up.length)]
        }, signal)
    }),
    /** An endpoint to one server only. */
    endpoint: (at: number, name = `endpoint${at}`): Endpoint => ({
      name,
      single: true,
      connect: signal => dial(() => replicas[at], signal)
    }),
    addReplica(id: string): Replica {
      const replica = new Replica(id, clock, limits)
      replicas.push(replica)
      return replica
    },
    manager: undefined as unknown as TunnelManager,
    /** Servers with a tunnel that is up, sorted. */
    reached: () =>
      [...new Set(simulation.manager.tunnels.filter(({ up }) => up).map(({ server }) => server))].sort(),
    /** Lets time pass in small steps, and everything that follows from it happen. */
    async pass(ms: number, until: () => boolean = () => false): Promise<boolean> {
      const endMs = clock.now() + ms
      for (;;) {
        for (let turn = 0; turn < 4; turn++) await new Promise(resolve => setImmediate(resolve))
        if (until()) return true
        if (clock.now() >= endMs) return false
        clock.tick(Math.min(ms > 60_000 ? 250 : 5, endMs - clock.now()))
      }
    },
    /** As `pass`, but from one timer to the next: for long times in which little happens. */
    async leap(ms: number): Promise<void> {
      const endMs = clock.now() + ms
      while (clock.now() < endMs) {
        for (let turn = 0; turn < 4; turn++) await new Promise(resolve => setImmediate(resolve))
        clock.tick(Math.max(0, Math.min(clock.nextMs, endMs) - clock.now()))
      }
    },
    now: () => clock.now() - 1_000,
    async end(): Promise<void> {
      simulation.manager.stop(new TunnelError('DRAINING', 'the test ends'))
      await simulation.pass(50)
      await simulation.manager.stopped
      for (const replica of replicas) replica.kill()
    }
  }
  simulation.manager = new TunnelManager({
    connections: 1,
    newBackoff: () => createBackoff({ baseMs: 1_000, random }),
    log: { info: log('info'), warn: log('warn'), error: log('error'), debug: log('debug') },
    random,
    ...options,
    clock,
    endpoints: options.endpoints?.(simulation) ?? [simulation.endpoint(0)],
    newTunnel: (server, connectionIndex, onChange) => {
      const link = new Link({ clock, limits })
      const session = new Session(link, { clock, onOpen: incoming => void incoming.accept() })
      link.on('announcement', text =>
        simulation.manager.announced((JSON.parse(text) as { members: string[] }).members, server)
      )
      const self = { name: 'c', instance: Buffer.alloc(8, 1), connectionIndex }
      const { maxAgeMs = 0 } = options
      return new Tunnel({ server, link, session, self, clock, maxAgeMs, random, onChange })
    }
  })
  return simulation
}
