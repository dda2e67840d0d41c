/** A client for tests of the registry: what it is like is told, and who looked at it is counted. */
import { PassThrough } from 'node:stream'
import type { Dial } from '@tendril/common'
import { type Route, readRoute } from '@tendril/common/policy/routes'
import type { Client } from '../../src/registry/registered-client.js'

export type Traits = Partial<Client['state']> & {
  cluster?: string
  owner?: string
  routes?: string[]
  dial?: Dial
}

export function client(
  name: string,
  { cluster = 'demo', owner = name, routes = [], dial, ...state }: Traits = {}
) {
  const asked: number[] = []
  const stream = new PassThrough()
  const own = {
    asked,
    stream,
    state: { down: false, silent: false, draining: false, streams: 0, rttMs: 1, since: 0, ...state },
    routes: routesOf(routes),
    /** How often its state was read. */
    looks: 0
  }
  const client: Client = {
    cluster,
    name,
    id: name,
    owner,
    dial: async (target, options) => {
      asked.push(options.timeoutMs ?? 0)
      return dial ? dial(target, options) : stream
    },
    get routes() {
      return own.routes
    },
    get state() {
      own.looks++
      return own.state
    }
  }
  return Object.assign(own, { client })
}

export function routesOf(texts: readonly string[]): Route[] {
  return texts.flatMap(text => readRoute(text) ?? [])
}
