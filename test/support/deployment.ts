/**
 * A whole deployment for a test: a PKI, seed-servers, shoot-clients and what lies between them, configured by the same
 * files that operators write. In this process, or as the installed programs (`processes: true`). Everything is stopped
 * in reverse order with the test, which then fails if anything is left open.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { Duplex } from 'node:stream'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import type { Service } from '@tendril/common/command'
import { loadConfig } from '@tendril/common/config'
import { createLog, type Log } from '@tendril/common/log'
import { createMetrics, type Metrics } from '@tendril/common/metrics'
import { seedSchema } from '@tendril/seed-server/config'
import { writePki } from '@tendril/seed-server/identity/authority'
import { Server } from '@tendril/seed-server/server'
import { Client } from '@tendril/shoot-client/client'
import { shootSchema } from '@tendril/shoot-client/config'
import { apiserverDial, type ApiserverOptions, type Front } from './apiserver.js'
import { ask } from './ask.js'
import { nothingLeft } from './leaks.js'
import { TEARDOWN_MS, start, until } from './child-process.js'
import { reserveAddress } from './ports.js'
import type { Address } from './proxies.js'

const root = resolve(fileURLToPath(import.meta.url), '../../../..')

/** Lines of log kept per program that runs in this process. */
const LOG_LINES = 5_000

/** A configuration as its file would hold it; what is left out has its default. */
export type Settings = { [key: string]: Settings | Settings[] | string | number | boolean | string[] }

export type DeploymentOptions = {
  /** Run the programs as child processes, through their bins. Default false: in this process. */
  processes?: boolean
  /** For processes only: what to start instead of Node with these arguments. */
  launch?: Launch
  /** Default `['demo']`. Each gets a front of its name with the cluster fixed. */
  clusters?: string[]
  /** Clients per cluster. Default 1. Each connects to every server. */
  clients?: number
  /** Servers of the same clusters, which know each other as `peers.static`. Default 1, without peers. */
  servers?: number
  /** Names in the server's certificate beside 127.0.0.1, ::1 and localhost. Clients ask for the first. Default `vpn.demo.test`. */
  hosts?: string[]
  /** How the fronts listen. Default `tls`. */
  front?: 'tls' | 'plain' | 'unix'
  /** Puts something before the tunnel listener (a proxy, a relay); clients connect to what it returns. */
  before?: (tunnel: Address) => Promise<Address> | Address
  /** Last words on the configurations, before they are written; `index` counts the servers, or a cluster's clients. */
  seed?: (settings: Settings, index: number) => Settings
  shoot?: (settings: Settings, cluster: string, index: number) => Settings
  /** False: the clients are made but not started. Default true. */
  startClients?: boolean
}

export type Kind = 'seed-server' | 'shoot-client'

/** The command of a program and variables for it. `args`: its script, and what comes behind. */
export type Launch = (kind: Kind, args: string[]) => { command: string[]; env?: NodeJS.ProcessEnv }

/** One program of the deployment. */
export interface Program {
  readonly name: string
  readonly configFile: string
  /** Base URL of its admin listener. */
  readonly admin: string
  /** The process id; this process's own when it lives here. */
  readonly pid: number
  /** Resolves when everything listens that its configuration names. */
  start(): Promise<void>
  /** Gracefully, a process for `graceMs` at most; may be called twice, and be followed by `start` at the same addresses. */
  stop(graceMs?: number): Promise<void>
  /** For processes only. */
  kill(signal: NodeJS.Signals): Promise<void>
  log(): string
  /** For processes only: nobody reads what it writes until the returned function is called. */
  stopReading(): () => void
  /** Resolves when `/readyz` answers 200. */
  ready(): Promise<void>
  metrics(): Promise<string>
}

/** One server, and where it is reached. */
export type Replica = {
  server: Program
  tunnel: Address
  /** By cluster. */
  fronts: Record<string, Front>
}

export type Deployment = {
  /** The file of the PKI with this name: `ca.crt`, `client-demo.key`. */
  pki(file: string): string
  directory: string
  /** All servers. `server`, `tunnel` and `fronts` are those of the first. */
  replicas: Replica[]
  server: Program
  clients: Program[]
  tunnel: Address
  fronts: Record<string, Front>
  /** A dial as kube-apiserver makes it, with its certificate where the front asks for one. `at`: index of the server. */
  dial(
    addr: string,
    options?: { cluster?: string; at?: number; signal?: AbortSignal; tls?: ApiserverOptions['tls'] }
  ): Promise<Duplex>
}

/** Builds and starts a deployment; resolves when every started client is connected. */
export async function deploy(t: Test, options: DeploymentOptions = {}): Promise<Deployment> {
  const { clusters = ['demo'], clients: clientCount = 1, hosts = ['vpn.demo.test'], front = 'tls' } = options
  nothingLeft(t)
  const directory = mkdtempSync(join(tmpdir(), 'tendril-deployment-'))
  t.teardown(() => {
    rmSync(directory, { recursive: true, force: true })
  })
  const pki = (file: string) => join(directory, 'pki', file)
  await writePki({
    dir: join(directory, 'pki'),
    hosts: ['127.0.0.1', '::1', 'localhost', ...hosts],
    clusters
  })

  const tunnels: Address[] = []
  for (let index = 0; index < (options.servers ?? 1); index += 1) tunnels.push(await reserveAddress())
  const serverTls = { cert: pki('server.crt'), key: pki('server.key'), clientCa: pki('ca.crt') }
  const makeProgram = options.processes ? processProgram : localProgram
  const make = (kind: Kind, name: string, admin: Address, settings: Settings): Program => {
    const configFile = join(directory, `${name}.yaml`)
    mkdirSync(directory, { recursive: true })
    // JSON is YAML.
    writeFileSync(configFile, JSON.stringify(settings, undefined, 2))
    const program = makeProgram({
      kind,
      name,
      configFile,
      admin: `http://${written(admin)}`,
      listeners: listenersOf(settings),
      launch: options.launch ?? ((_, args) => ({ command: [process.execPath, ...args] }))
    })
    t.teardown(async () => {
      await program.stop(TEARDOWN_MS)
      if (!t.passing()) t.comment(`log of ${name}:\n${program.log()}`)
    })
    return program
  }

  const replicas: (Replica & { reached: Address })[] = []
  for (const [index, tunnel] of tunnels.entries()) {
    const fronts: Record<string, Front> = {}
    for (const cluster of clusters) {
      fronts[cluster] =
        front === 'unix' ? { path: join(directory, `${cluster}-${index}.sock`) } : await reserveAddress()
    }
    const admin = await reserveAddress()
    const seed: Settings = {
      tunnel: { listen: written(tunnel), tls: serverTls },
      fronts: clusters.map(cluster => ({
        name: cluster,
        listen: written(fronts[cluster]!),
        cluster,
        ...(front === 'tls' ? { tls: serverTls } : {})
      })),
      clusters: clusters.map(name => ({ name })),
      ...(tunnels.length > 1 ? { peers: { static: tunnels.map(written) } } : {}),
      admin: { listen: written(admin) },
      log: { level: 'debug', format: 'json' }
    }
    const name = index === 0 ? 'seed-server' : `seed-server-${index}`
    const server = make('seed-server', name, admin, options.seed?.(seed, index) ?? seed)
    await server.start()
    replicas.push({ server, tunnel, fronts, reached: (await options.before?.(tunnel)) ?? tunnel })
  }

  const clients: Program[] = []
  /** URLs of servers that some client connects to. */
  const known = new Set<string>()
  for (const cluster of clusters) {
    for (let index = 0; index < clientCount; index += 1) {
      const admin = await reserveAddress()
      const shoot: Settings = {
        cluster,
        servers: replicas.map(({ tunnel, reached }) => ({
          url: `wss://${hosts[0] ?? 'localhost'}:${tunnel.port}`,
          address: written(reached)
        })),
        tls: { ca: pki('ca.crt'), cert: pki(`client-${cluster}.crt`), key: pki(`client-${cluster}.key`) },
        proxy: 'none',
        targets: { allow: ['127.0.0.0/8', '::1'] },
        admin: { listen: written(admin) },
        log: { level: 'debug', format: 'json' }
      }
      const settings = options.shoot?.(shoot, cluster, index) ?? shoot
      for (const { url } of settings['servers'] as { url: string }[]) known.add(url)
      clients.push(make('shoot-client', `client-${cluster}-${index}`, admin, settings))
    }
  }
  if (options.startClients ?? true) {
    for (const client of clients) await client.start()
    for (const client of clients) await client.ready()
    for (const { server, tunnel } of replicas) {
      if ([...known].some(url => new URL(url).port === String(tunnel.port))) await server.ready()
    }
  }

  const caller = front === 'tls' && {
    ca: readFileSync(pki('ca.crt')),
    cert: readFileSync(pki('kube-apiserver.crt')),
    key: readFileSync(pki('kube-apiserver.key'))
  }
  return {
    pki,
    directory,
    replicas,
    clients,
    ...replicas[0]!,
    dial(addr, { cluster = clusters[0]!, at = 0, signal, tls } = {}) {
      const material = tls ?? (caller || undefined)
      return apiserverDial({
        front: replicas[at]!.fronts[cluster]!,
        addr,
        ...(material ? { tls: material } : {}),
        ...(signal ? { signal } : {})
      })
    }
  }
}

type Plan = {
  kind: Kind
  name: string
  configFile: string
  admin: string
  listeners: string[]
  launch: Launch
}

/** Names in the `event: listening` lines of a program. */
function listenersOf({ tunnel, fronts = [], admin }: Settings): string[] {
  const names = (fronts as { name: string }[]).map(({ name }) => `front ${name}`)
  return [...(tunnel ? ['tunnel'] : []), ...names, ...(admin ? ['admin'] : [])]
}

/** The program as a child process, through its bin. */
function processProgram({ kind, name, configFile, admin, listeners, launch }: Plan): Program {
  const bin = join(root, 'packages', kind, 'bin', `${kind}.js`)
  let child: ReturnType<typeof start> | undefined
  let earlierLog = ''
  const log = () => earlierLog + (child?.log() ?? '')
  const ended = async () => {
    earlierLog = log()
    child = undefined
  }
  return {
    name,
    configFile,
    admin,
    get pid() {
      return child?.pid ?? -1
    },
    async start() {
      const { command, env } = launch(kind, [bin, 'run', '--config', configFile])
      const [executable = '', ...args] = command
      const starting = (child ??= start(name, executable, args, env))
      await Promise.all(listeners.map(listener => starting.listening(listener)))
    },
    async stop(graceMs) {
      await child?.stop(graceMs)
      await ended()
    },
    async kill(signal) {
      child?.kill(signal)
      if (signal === 'SIGSTOP' || signal === 'SIGCONT') return
      await child?.exited
      await ended()
    },
    log,
    stopReading: () => child?.stopReading() ?? (() => {}),
    ready: () => ready(name, admin),
    metrics: async () => (await ask(`${admin}/metrics`)).body
  }
}

/** The program in this process: the same file, the same class, a log that is kept. */
function localProgram({ kind, name, configFile, admin }: Plan): Program {
  const lines: string[] = []
  let running: Service | undefined
  return {
    name,
    configFile,
    admin,
    pid: process.pid,
    async start() {
      if (running) return
      const log = createLog({
        level: 'debug',
        destination: {
          write(line) {
            lines.push(line)
            if (lines.length > LOG_LINES) lines.shift()
          }
        }
      })
      const metrics = createMetrics({ program: kind, version: 'test', processMetrics: false })
      running = await build(kind, configFile, { log, metrics })
      // Awaited by whoever cares; until then a failure must not count as unhandled.
      running.closed.catch(() => {})
      await running.start()
    },
    async stop() {
      const stopping = running
      running = undefined
      await stopping?.stop()
    },
    kill: async () => {
      throw new Error(`${name} lives in the test's own process`)
    },
    log: () => lines.join(''),
    stopReading() {
      throw new Error(`${name} lives in the test's own process`)
    },
    ready: () => ready(name, admin),
    metrics: async () => (await ask(`${admin}/metrics`)).body
  }
}

async function build(kind: Kind, file: string, parts: { log: Log; metrics: Metrics }): Promise<Service> {
  return kind === 'seed-server'
    ? new Server(await loadConfig(seedSchema, { file }), parts)
    : new Client(await loadConfig(shootSchema, { file }), parts)
}

async function ready(name: string, admin: string): Promise<void> {
  await until(`${name} is ready`, async () => (await ask(`${admin}/readyz`)).status === 200)
}

function written(where: Front): string {
  return 'path' in where ? `unix:${where.path}` : `${where.host}:${where.port}`
}
