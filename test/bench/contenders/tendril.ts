/**
 * Tendril as an operator runs it: seed-server and shoot-client as two processes with their default configuration,
 * the caller at a front over mTLS or over a Unix socket.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { program, type Contender, type Context, type IdleClients } from '../contender.js'
import type { Child } from '../processes.js'
import type { Endpoint, TlsFiles } from '../protocol.js'
import { PACKAGES } from '../bench-paths.js'

const CLUSTER = 'demo'
const READY_TIMEOUT_MS = 20_000
/** Garbage collection and the kernel's own settling after SIGUSR2. */
const SETTLE_MS = 1_500
/** Load processes for idle clients, and how long a thousand of them may take to connect. */
const IDLE_CLIENT_PROCESSES = 2
const IDLE_CLIENTS_TIMEOUT_MS = 180_000
const CLIENTS_METRIC = /^tendril_server_clients\{[^}]*\} (\d+)/gm
/** Makes `gc()` callable for settle.ts; changes nothing else. */
const SETTLE_FLAGS = ['--expose-gc', '--import', pathToFileURL(join(import.meta.dirname, 'settle.js')).href]

export const tendrilTls: Contender = tendril('tendril-tls', 'mTLS')
export const tendrilUds: Contender = tendril('tendril-uds', 'Unix socket')

function tendril(name: string, front: 'mTLS' | 'Unix socket'): Contender {
  return {
    name,
    title: `seed-server and shoot-client, mTLS between them, front over ${front}`,
    available: async () => true,
    async start(context) {
      const { workDir, pki, processes, target, line } = context
      const to = await target()
      const tls = ({ cert, key, ca }: TlsFiles): object => ({ cert, key, clientCa: ca })
      const socketPath = join(workDir, 'front.sock')
      const seed = start(context, 'seed-server', {
        tunnel: { listen: '127.0.0.1:0', tls: tls(pki.server) },
        fronts: [
          front === 'mTLS'
            ? {
                name: 'kube-apiserver',
                listen: '127.0.0.1:0',
                tls: tls(pki.server),
                cluster: CLUSTER
              }
            : { name: 'kube-apiserver', listen: `unix:${socketPath}`, cluster: CLUSTER }
        ],
        clusters: [{ name: CLUSTER }],
        admin: { listen: '127.0.0.1:0' }
      })
      const seedStartMs = performance.now()
      const frontPort = portOf(await processes.address(seed, 'front kube-apiserver', READY_TIMEOUT_MS))
      const tunnelPort = portOf(await processes.address(seed, 'tunnel'))
      const seedAdminPort = portOf(await processes.address(seed, 'admin'))
      const nearMs = performance.now() - seedStartMs

      const hop = await line({ host: '127.0.0.1', port: tunnelPort })
      const { ca, cert, key } = pki.client
      const shootConfig = {
        cluster: CLUSTER,
        servers: [
          {
            url: `wss://${pki.server.servername}:${tunnelPort}`,
            address: `${hop.host}:${hop.port}`
          }
        ],
        tls: { ca, cert, key },
        proxy: 'none',
        targets: { allow: ['127.0.0.0/8'], deny: [] }
      }
      const shoot = start(context, 'shoot-client', {
        ...shootConfig,
        admin: { listen: '127.0.0.1:0' }
      })
      const shootStartMs = performance.now()
      const shootAdminPort = portOf(await processes.address(shoot, 'admin', READY_TIMEOUT_MS))
      await processes.until(shoot, () => answers(shootAdminPort, '/readyz'), READY_TIMEOUT_MS)
      const farMs = performance.now() - shootStartMs

      const asked = `${to.host}:${to.port}`
      const endpoint: Endpoint =
        front === 'mTLS'
          ? { kind: 'connect-tls', host: '127.0.0.1', port: frontPort, tls: pki.caller, target: asked }
          : { kind: 'connect-uds', path: socketPath, target: asked }
      return {
        endpoint,
        programs: [program(seed, 'near'), program(shoot, 'far')],
        readyMs: { near: nearMs, far: farMs },
        async settle() {
          for (const { process } of [seed, shoot]) process.kill('SIGUSR2')
          await sleep(SETTLE_MS)
        },
        idleClients: count => idleClients(context, shootConfig, count, () => connectedClients(seedAdminPort))
      }
    }
  }
}

function start(
  { workDir, processes, nodeFlags }: Context,
  name: 'seed-server' | 'shoot-client',
  config: object
): Child {
  const file = join(workDir, `${name}.yaml`)
  writeFileSync(file, JSON.stringify(config, null, 2), { mode: 0o600 })
  const command = join(PACKAGES, name, 'bin', `${name}.js`)
  return processes.program(name, [
    process.execPath,
    ...flagsOf(command),
    ...nodeFlags,
    ...SETTLE_FLAGS,
    command,
    'run',
    '--config',
    file
  ])
}

/** What the installed command gives Node by itself: the words of its first line behind `#!/usr/bin/env -S node`. */
function flagsOf(command: string): string[] {
  const [first = ''] = readFileSync(command, 'utf8').split('\n', 1)
  return first.split(' ').slice(3)
}

/**
 * Clients of the same cluster with the same certificate: the server tells them apart, and keeps for each what it would
 * keep for one of another cluster.
 */
async function idleClients(
  { workDir, processes }: Context,
  config: object,
  count: number,
  connected: () => Promise<number>
): Promise<IdleClients> {
  const file = join(workDir, 'idle-clients.yaml')
  writeFileSync(file, JSON.stringify(config), { mode: 0o600 })
  const before = await connected()
  const helpers = Array.from({ length: IDLE_CLIENT_PROCESSES }, () =>
    processes.helper('clients', [file, `${Math.ceil(count / IDLE_CLIENT_PROCESSES)}`])
  )
  const [first] = helpers
  if (first)
    await processes.until(first, async () => (await connected()) >= before + count, IDLE_CLIENTS_TIMEOUT_MS)
  return {
    programs: [],
    async stop() {
      for (const { process } of helpers) process.kill('SIGKILL')
    }
  }
}

/** 0 for a Unix socket. */
function portOf(address: string): number {
  return address.startsWith('unix:') ? 0 : Number(address.slice(address.lastIndexOf(':') + 1))
}

async function answers(port: number, path: string): Promise<boolean> {
  try {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { signal: AbortSignal.timeout(2000) })
    await response.arrayBuffer()
    return response.ok
  } catch {
    return false
  }
}

/** What the server itself says about how many clients it has. */
async function connectedClients(adminPort: number): Promise<number> {
  const response = await fetch(`http://127.0.0.1:${adminPort}/metrics`)
  const text = await response.text()
  return [...text.matchAll(CLIENTS_METRIC)].reduce((total, [, count]) => total + Number(count), 0)
}
