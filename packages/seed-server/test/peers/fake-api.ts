/** As much of a Kubernetes API server as Leases need: list, watch, create, update, delete, with versions and conflicts. */
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type IncomingMessage, type ServerResponse, createServer } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export type StoredLease = {
  metadata: {
    name: string
    resourceVersion: string
    labels?: Record<string, string>
    annotations?: Record<string, string>
  }
  spec: { holderIdentity?: string; leaseDurationSeconds?: number; renewTime?: string }
}

type Teardown = { teardown(callback: () => unknown): void }

const COLLECTION = '/apis/coordination.k8s.io/v1/namespaces/seed/leases'

export class FakeApi {
  readonly leases = new Map<string, StoredLease>()
  /** As `GET`, `WATCH`, `POST name`, in order. */
  readonly requests: string[] = []
  readonly news: (() => void)[] = []
  readonly #server = createServer((request, response) => void this.#serve(request, response))
  readonly #sockets = new Set<Socket>()
  readonly #watches = new Set<ServerResponse>()
  #version = 100
  port = 0
  /** Answers everything with this status. */
  refuse: number | undefined

  static async start(t: Teardown, port = 0): Promise<FakeApi> {
    const api = new FakeApi()
    api.#server.on('connection', socket => {
      api.#sockets.add(socket)
      socket.on('close', () => api.#sockets.delete(socket))
    })
    api.#server.listen(port, '127.0.0.1')
    await once(api.#server, 'listening')
    api.port = (api.#server.address() as AddressInfo).port
    t.teardown(() => api.stop())
    return api
  }

  get watches(): number {
    return this.#watches.size
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise(resolve => this.#server.close(resolve))
  }

  /** A file that leads here. */
  kubeconfig(t: Teardown): string {
    const directory = mkdtempSync(join(tmpdir(), 'tendril-kube-'))
    t.teardown(() => rmSync(directory, { recursive: true }))
    const file = join(directory, 'kubeconfig')
    const named = (name: string, value: object) => [{ name: 'fake', [name]: value }]
    writeFileSync(
      file,
      JSON.stringify({
        clusters: named('cluster', {
          server: `http://127.0.0.1:${this.port}`,
          // The library refuses http: otherwise.
          'insecure-skip-tls-verify': true
        }),
        users: named('user', { token: 'secret' }),
        contexts: named('context', { cluster: 'fake', user: 'fake' }),
        'current-context': 'fake'
      })
    )
    return file
  }

  /** Ends all watches, as the API does now and then. */
  endWatches(): void {
    for (const watch of this.#watches) watch.end()
  }

  put(name: string, address: string, label = 'group=a'): StoredLease {
    const [key = '', value = ''] = label.split('=')
    const metadata = { name, labels: { [key]: value }, annotations: { 'tendril/address': address } }
    return this.#store({ metadata: { ...metadata, resourceVersion: '' }, spec: { holderIdentity: name } })
  }

  delete(name: string): void {
    const lease = this.leases.get(name)
    if (!lease) return
    this.leases.delete(name)
    this.#version++
    this.#sendEvent('DELETED', lease)
  }

  /** Resolves when `fact` holds, looked at after each request and change. */
  async until(fact: () => boolean): Promise<void> {
    while (!fact()) await new Promise<void>(resolve => this.news.push(resolve))
  }

  #store(lease: StoredLease): StoredLease {
    const known = this.leases.has(lease.metadata.name)
    lease.metadata.resourceVersion = String(++this.#version)
    this.leases.set(lease.metadata.name, lease)
    this.#sendEvent(known ? 'MODIFIED' : 'ADDED', lease)
    return lease
  }

  #sendEvent(type: string, object: StoredLease): void {
    for (const watch of this.#watches) watch.write(`${JSON.stringify({ type, object })}\n`)
    this.#notify()
  }

  #notify(): void {
    for (const notify of this.news.splice(0)) notify()
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams } = new URL(request.url ?? '', 'http://api')
    const name = pathname.slice(COLLECTION.length + 1)
    const isWatch = searchParams.get('watch') === 'true'
    this.requests.push(isWatch ? 'WATCH' : [request.method, name].filter(Boolean).join(' '))
    const body = await read(request)
    const answer = (status: number, value: object): void => {
      response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(value))
      this.#notify()
    }
    const no = (code: number): void => answer(code, { kind: 'Status', code })
    if (request.headers.authorization !== 'Bearer secret') return no(401)
    if (this.refuse !== undefined) return no(this.refuse)
    if (!pathname.startsWith(COLLECTION)) return no(404)

    const known = this.leases.get(name)
    const asked = body as StoredLease & { preconditions?: { resourceVersion?: string } }
    switch (request.method) {
      case 'GET': {
        if (isWatch) {
          response.writeHead(200, { 'Content-Type': 'application/json' }).flushHeaders()
          this.#watches.add(response)
          response.on('close', () => {
            this.#watches.delete(response)
            this.#notify()
          })
          return this.#notify()
        }
        const [key = '', value] = (searchParams.get('labelSelector') ?? '').split('=')
        const items = [...this.leases.values()].filter(({ metadata }) => metadata.labels?.[key] === value)
        return answer(200, { kind: 'LeaseList', metadata: { resourceVersion: String(this.#version) }, items })
      }
      case 'POST':
        return this.leases.has(asked.metadata.name) ? no(409) : answer(201, this.#store(asked))
      case 'PUT':
        if (!known) return no(404)
        return known.metadata.resourceVersion === asked.metadata.resourceVersion
          ? answer(200, this.#store(asked))
          : no(409)
      case 'DELETE': {
        if (!known) return no(404)
        const wanted = asked.preconditions?.resourceVersion
        if (wanted !== undefined && wanted !== known.metadata.resourceVersion) return no(409)
        this.delete(name)
        return answer(200, { kind: 'Status', status: 'Success' })
      }
      default:
        return no(405)
    }
  }
}

async function read(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return chunks.length > 0 ? JSON.parse(Buffer.concat(chunks).toString()) : {}
}
