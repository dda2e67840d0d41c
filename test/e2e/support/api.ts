/**
 * A plain client of kube-apiserver with the admin's certificate, for what kubectl would be too slow at: statuses,
 * counting metrics, hundreds of timed requests. Runs in the seed's network namespace like everything that uses it.
 */
import { readFileSync } from 'node:fs'
import { Agent, request } from 'node:https'
import type { KeyPair } from './openssl-certificates.js'

const REQUEST_TIMEOUT_MS = 60_000

export type KubeObject = {
  apiVersion: string
  kind: string
  metadata: { name: string; namespace?: string; labels?: Record<string, string> }
  [field: string]: unknown
}

export class Api {
  readonly #url: string
  readonly #agent: Agent

  constructor(url: string, ca: string, identity: KeyPair) {
    this.#url = url
    this.#agent = new Agent({
      keepAlive: true,
      ca: readFileSync(ca),
      cert: readFileSync(identity.cert),
      key: readFileSync(identity.key)
    })
  }

  /** The body of a 2xx answer. @throws Error with kube-apiserver's own words otherwise */
  async send(
    method: string,
    path: string,
    body?: unknown,
    contentType = 'application/json'
  ): Promise<string> {
    const { status, text } = await this.ask(method, path, body, contentType)
    if (status >= 200 && status < 300) return text
    throw new Error(`${method} ${path}: ${status} ${messageOf(text)}`)
  }

  ask(
    method: string,
    path: string,
    body?: unknown,
    contentType = 'application/json'
  ): Promise<{ status: number; text: string }> {
    return new Promise((resolve, reject) => {
      const headers = body === undefined ? {} : { 'content-type': contentType }
      const outgoing = request(new URL(path, this.#url), { method, agent: this.#agent, headers }, answer => {
        const chunks: Buffer[] = []
        answer.on('data', (chunk: Buffer) => chunks.push(chunk))
        answer.on('end', () =>
          resolve({ status: answer.statusCode!, text: Buffer.concat(chunks).toString() })
        )
        answer.on('error', reject)
      })
      outgoing.setTimeout(REQUEST_TIMEOUT_MS, () =>
        outgoing.destroy(new Error(`${method} ${path}: no answer`))
      )
      outgoing.on('error', reject)
      outgoing.end(body === undefined ? undefined : JSON.stringify(body))
    })
  }

  async get<T>(path: string): Promise<T> {
    return JSON.parse(await this.send('GET', path)) as T
  }

  /** Creates or updates by server-side apply, and then the status where the object has one. */
  async apply(object: KubeObject): Promise<void> {
    const { status, ...rest } = object
    const query = '?fieldManager=e2e&force=true'
    await this.send('PATCH', pathOf(object) + query, rest, 'application/apply-patch+yaml')
    if (status !== undefined) {
      const { apiVersion, kind, metadata } = object
      const only = { apiVersion, kind, metadata: { name: metadata.name }, status }
      await this.send('PATCH', `${pathOf(object)}/status${query}`, only, 'application/apply-patch+yaml')
    }
  }

  /** The sum of all series of one metric whose labels contain `labels`; undefined when there is no such series. */
  async metric(name: string, labels = ''): Promise<number | undefined> {
    const lines = (await this.send('GET', '/metrics')).split('\n')
    const series = lines.filter(
      line => (line.startsWith(`${name}{`) || line.startsWith(`${name} `)) && line.includes(labels)
    )
    if (series.length === 0) return undefined
    return series.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
  }

  close(): void {
    this.#agent.destroy()
  }
}

/** Where an object lives; the plural of every kind used here is regular. */
export function pathOf({ apiVersion, kind, metadata }: KubeObject): string {
  const root = apiVersion === 'v1' ? '/api/v1' : `/apis/${apiVersion}`
  const within = metadata.namespace ? `/namespaces/${metadata.namespace}` : ''
  const lower = kind.toLowerCase()
  const plural = lower.endsWith('s')
    ? `${lower}es`
    : lower.endsWith('y')
      ? `${lower.slice(0, -1)}ies`
      : `${lower}s`
  return `${root}${within}/${plural}/${metadata.name}`
}

function messageOf(text: string): string {
  try {
    return (JSON.parse(text) as { message?: string }).message ?? text
  } catch {
    return text
  }
}
