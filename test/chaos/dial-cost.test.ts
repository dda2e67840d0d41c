/** What a dial costs the server when a cluster has a thousand clients of 64 routes each, beside one client without routes. */
import t from 'tap'
import { Session, type Target } from '@tendril/common'
import { readRoute } from '@tendril/common/policy/routes'
import { Registry } from '@tendril/seed-server/registry/registry'
import { memoryCarriers } from '@tendril/common/test/support/memory-carrier'
import { WHOLE, figure } from './traffic.js'
import { dialContext } from '@tendril/common/test/support/dial-context'

const CLIENTS = 1_000
const ROUTES = 64
/** Networks of /24 that the clients announce: each network is announced by 64 clients. */
const NETWORKS = 1_000
const DIALS = WHOLE ? 5_000 : 500
const ROUNDS = WHOLE ? 5 : 1

/** Clients that announce `routes` networks each; their dials go over one session to a side that accepts all. */
function registryOf(clients: number, routes: number) {
  const [near, far] = memoryCarriers()
  const session = new Session(near)
  const server = new Session(far, { onOpen: incoming => void incoming.accept().resume().end() })
  const registry = new Registry()
  let looks = 0
  for (let client = 0; client < clients; client++) {
    const own = Array.from({ length: routes }, (_, at) => {
      return readRoute(`${networkOf(client * routes + at)}.0/24`) ?? []
    }).flat()
    registry.add({
      cluster: 'demo',
      name: `client-${client}`,
      id: String(client),
      owner: String(client),
      dial: session.dial,
      routes: own,
      get state() {
        looks++
        return { down: false, silent: false, draining: false, streams: 0, rttMs: 1, since: 0 }
      }
    })
  }
  const dial = registry.dial('demo')
  const { signal } = new AbortController()
  return {
    looks: () => looks,
    end: () => (session.close(), server.close()),
    /** Microseconds of CPU of each dial: asked, answered, ended on both sides. */
    async cost(dials: number): Promise<number> {
      const before = process.cpuUsage()
      for (let at = 0; at < dials; at++) {
        const target: Target = { proto: 'tcp', host: `${networkOf(at * 37)}.7`, port: 10250 }
        const stream = await dial(target, dialContext({ signal, timeoutMs: 30_000 }))
        stream.resume().end()
      }
      const { user, system } = process.cpuUsage(before)
      return (user + system) / dials
    }
  }
}

function networkOf(number: number): string {
  const network = number % NETWORKS
  return `10.${network >> 8}.${network & 255}`
}

t.test('a dial looks at few clients, however many there are and whatever they announce', async t => {
  const one = registryOf(1, 0)
  const many = registryOf(CLIENTS, ROUTES)
  t.teardown(() => (one.end(), many.end()))
  await one.cost(DIALS)
  await many.cost(DIALS)
  const looksBefore = many.looks()

  const costs = { one: [] as number[], many: [] as number[] }
  for (let round = 0; round < ROUNDS; round++) {
    costs.one.push(await one.cost(DIALS))
    costs.many.push(await many.cost(DIALS))
  }

  const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1] as number
  figure(t, 'one client without routes: CPU of a dial, µs', median(costs.one))
  figure(t, '1000 clients of 64 routes: CPU of a dial, µs', median(costs.many))
  figure(t, 'ratio', median(costs.many) / median(costs.one))
  const looks = (many.looks() - looksBefore) / (DIALS * ROUNDS)
  t.ok(looks <= 20, `${looks} looks at clients for a dial`)
})
