/**
 * Checks 7: servers that find each other through the API server's Leases; and the end of checks 3, a rolling restart of
 * them. Before 7.1 the API server was not there yet, and before 7.2 nobody has allowed the servers anything.
 */
import { expect, delay, kubectl, type CheckContext } from '../support/check-context.js'
import { until } from '../support/namespace-process.js'
import { LEASE_NAMESPACE, LEASE_USER, type Server } from '../support/e2e-tunnel.js'
import { EXEC_KILL_EVERY_MS, EXEC_KILLS, execThrough } from './stream-checks.js'

const COMPLAINT = 'own lease not renewed, trying again'
/** The longest wait between two attempts of a server to reach the API, and a margin for a slow machine. */
const RETRY_LIMIT_MS = 15_000
/** From a server's start until its clients and the other servers are connected to it. */
const JOIN_LIMIT_MS = 10_000
/** From kill -9 of a server until the others dial elsewhere. */
const LOSS_LIMIT_MS = 1_000
/** The same for a client whose connections were cut again and again: it is backing off. */
const JOIN_AFTER_CUTS_LIMIT_MS = 30_000
const REQUEST_EVERY_MS = 50
/** Lines of the exec that outlives all servers: about 15 s of them. */
const EXEC_LINES = 300_000

/** Before kube-apiserver is started. */
export async function withoutApi(context: CheckContext): Promise<void> {
  const { report, tunnel } = context
  if (tunnel?.kind !== 'replicas') return
  await report.check('7.1', 'the API server away at start: servers say so and serve meanwhile', async () => {
    await tunnel.startServer(1)
    for (const server of tunnel.servers) await says(server, COMPLAINT, 'ECONNREFUSED')
    const [first] = tunnel.servers
    expect(await first!.ready(), 'the first server is not ready')
  })
}

export async function replicas(context: CheckContext): Promise<void> {
  const { report, tunnel, cluster } = context
  const { api } = cluster
  if (tunnel?.kind !== 'replicas') return

  await report.check(
    '7.2',
    'without permission for Leases: a clear error, and each server goes on alone',
    async () => {
      for (const server of tunnel.servers) {
        await says(
          server,
          COMPLAINT,
          '403: the ServiceAccount needs list, watch, create, update and delete on leases'
        )
      }
      await kubectl(context, ['logs', 'chatty', '--tail=1'])
    }
  )

  await report.check('7.3', 'two servers find each other through Leases as soon as they may', async () => {
    for (const object of permission()) await api.apply(object as Parameters<typeof api.apply>[0])
    const tookMs = await joined(context, RETRY_LIMIT_MS)
    const leases = await leaseAddresses(context)
    expect(leases.length === 2, `Leases: ${leases.join(' ')}`)
    return `${tookMs.toFixed(0)} ms`
  })

  await report.check(
    '7.4',
    'a third server joins, and the client finds it behind the same name',
    async () => {
      await tunnel.startServer(2)
      const tookMs = await joined(context, JOIN_LIMIT_MS)
      return `${tookMs.toFixed(0)} ms`
    }
  )

  await report.check(
    '7.5',
    'after kill -9 of one of three kubectl works at once, and its successor joins',
    async () => {
      const last = tunnel.servers.at(-1)!
      await tunnel.stopServer(last, 'SIGKILL')
      const begun = performance.now()
      // Whatever balancer and client know by now: nobody is sent into the void for longer than this.
      await until(
        'kubectl logs',
        async () => (await cluster.kubectl(['logs', 'chatty', '--tail=1'])).code === 0
      )
      const backMs = performance.now() - begun
      expect(backMs < LOSS_LIMIT_MS, `it took ${backMs.toFixed(0)} ms`)
      await tunnel.startServer(last.index)
      const tookMs = await joined(context, JOIN_LIMIT_MS)
      return `kubectl ${backMs.toFixed(0)} ms, successor ${tookMs.toFixed(0)} ms`
    }
  )

  await report.check(
    '3.20',
    `an exec streams through ${EXEC_KILLS} killed connections and a rolling restart of all servers; no other request fails`,
    async () => {
      const requests = new Requests(context)
      const leaving: Promise<void>[] = []
      const disturb = async (): Promise<void> => {
        for (let kill = 0; kill < EXEC_KILLS; kill++) {
          await delay(EXEC_KILL_EVERY_MS)
          await tunnel.killConnections()
        }
        // As a Deployment does it: a new one first, then the old one goes.
        for (const old of [...tunnel.servers]) {
          await tunnel.startServer(old.index + 3)
          await joined(context, JOIN_AFTER_CUTS_LIMIT_MS)
          leaving.push(tunnel.stopServer(old))
        }
      }
      const begun = performance.now()
      const exec = await settle(execThrough(context, disturb, EXEC_LINES))
      const execMs = performance.now() - begun
      // What kube-apiserver keeps open in case it needs it again holds them up until their drainTimeout.
      const left = await settle(Promise.all(leaving))
      const { count, failures } = await requests.end()
      for (const error of [exec, left]) if (error) throw error
      expect(failures.length === 0, `${failures.length} of ${count} requests failed: ${failures.at(0) ?? ''}`)
      expect(count > 100, `only ${count} requests`)
      return `exec ${(execMs / 1000).toFixed(1)} s, ${count} requests beside it`
    }
  )

  await report.check('7.6', 'servers that left took their Leases with them', async () => {
    let addresses: string[] = []
    // The Lease of the one that was killed goes when its successor notices that nobody renews it.
    await until(`${tunnel.servers.length} Leases`, async () => {
      addresses = await leaseAddresses(context)
      return addresses.length === tunnel.servers.length
    })
    return addresses.join(' ')
  })
}

/** What a promise ends with, as long as others have to be waited for as well. */
const settle = (promise: Promise<unknown>): Promise<Error | undefined> =>
  promise.then(
    () => undefined,
    (error: unknown) => (error instanceof Error ? error : new Error(String(error)))
  )

/** Until every server is connected to all others and to the client. Returns how long that took, in milliseconds. */
async function joined({ tunnel }: CheckContext, limitMs: number): Promise<number> {
  const begun = performance.now()
  const { servers } = tunnel!
  await until(
    `${servers.length} servers to be one`,
    async () => {
      for (const server of servers) {
        const ended = await server.service.end()
        if (ended) return ended
        if ((await server.metric('tendril_server_peers')) < servers.length - 1 || !(await server.ready()))
          return false
      }
      return true
    },
    limitMs
  )
  return performance.now() - begun
}

/** Until the server's log has a line with both. */
async function says(server: Server, ...parts: string[]): Promise<void> {
  await until(
    `${server.service.name} to say: ${parts.join(': ')}`,
    async () => (await server.log()).split('\n').some(line => parts.every(part => line.includes(part))),
    RETRY_LIMIT_MS
  )
}

async function leaseAddresses({ cluster }: CheckContext): Promise<string[]> {
  type Leases = { items: { metadata: { annotations?: Record<string, string> } }[] }
  const path = `/apis/coordination.k8s.io/v1/namespaces/${LEASE_NAMESPACE}/leases`
  const { items } = await cluster.api.get<Leases>(path)
  return items.map(({ metadata }) => metadata.annotations?.['tendril/address'] ?? '?').sort()
}

/** What docs/operations.md says that the servers need, and nothing else. */
function permission(): object[] {
  const metadata = { name: LEASE_USER, namespace: LEASE_NAMESPACE }
  const group = 'rbac.authorization.k8s.io'
  const verbs = ['get', 'list', 'watch', 'create', 'update', 'delete']
  return [
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: LEASE_NAMESPACE } },
    {
      ...{ apiVersion: `${group}/v1`, kind: 'Role', metadata },
      rules: [{ apiGroups: ['coordination.k8s.io'], resources: ['leases'], verbs }]
    },
    {
      ...{ apiVersion: `${group}/v1`, kind: 'RoleBinding', metadata },
      roleRef: { apiGroup: group, kind: 'Role', name: LEASE_USER },
      subjects: [{ apiGroup: group, kind: 'User', name: LEASE_USER }]
    }
  ]
}

/** Small requests through kube-apiserver into the shoot, one after the other until the end. */
class Requests {
  readonly #ended: Promise<void>
  readonly #failures: string[] = []
  #count = 0
  #over = false

  constructor({ cluster }: CheckContext) {
    this.#ended = this.#run(async () => {
      const path = '/api/v1/namespaces/default/services/web:main/proxy/?bytes=1000'
      const { status, text } = await cluster.api.ask('GET', path)
      if (status !== 200 || text.length !== 1000) throw new Error(`${status} ${text.slice(0, 300)}`)
    })
  }

  async end(): Promise<{ count: number; failures: string[] }> {
    this.#over = true
    await this.#ended
    return { count: this.#count, failures: this.#failures }
  }

  async #run(request: () => Promise<void>): Promise<void> {
    while (!this.#over) {
      this.#count++
      await request().catch((error: unknown) => this.#failures.push(String(error)))
      await delay(REQUEST_EVERY_MS)
    }
  }
}
