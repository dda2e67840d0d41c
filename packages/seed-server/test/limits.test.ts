import { PassThrough } from 'node:stream'
import t from 'tap'
import { type Dial, TunnelError } from '@tendril/common'
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import { seedSchema } from '../src/config.js'
import { Limits } from '../src/limits.js'
import { SERVERS } from '../src/party.js'
import { dialContext } from '@tendril/common/test/support/dial-context'

const SMALL = {
  links: 4,
  linksPerClient: 2,
  routesPerClient: 3,
  connections: 2,
  streams: 2,
  dialsPerSecond: 5
}
const target = { proto: 'tcp' as const, host: 'h', port: 1 }

function make(limits: Partial<typeof SMALL> = {}, linkLimit = 100, maxConnections = 100) {
  const clock = new FakeClock()
  const refused: string[] = []
  const made = new Limits({
    clusters: [
      { name: 'a', limits: { ...SMALL, ...limits } },
      { name: 'b', limits: { ...SMALL, ...limits } }
    ],
    peers: true,
    linkLimit,
    maxConnections,
    onRefused: ({ limit, cluster }) => refused.push(`${cluster ?? 'no cluster'} ${limit}`),
    clock
  })
  return { clock, refused, limits: made }
}

/** What a dial through the limits comes to. */
async function outcome(dial: Dial): Promise<string> {
  try {
    await dial(target, dialContext())
    return 'OK'
  } catch (error) {
    const { code, detail = '' } = TunnelError.from(error)
    return `${code} ${detail}`
  }
}

t.test('a client has so many links, a cluster so many, and another cluster notices neither', async t => {
  const { limits, refused } = make()
  const first = limits.acquireLink('a', 'one')
  limits.acquireLink('a', 'one')
  t.throws(() => limits.acquireLink('a', 'one'), {
    code: 'OVERLOADED',
    detail: 'clusters[a].limits.linksPerClient: 2 links of this client are open'
  })
  limits.acquireLink('a', 'two')
  limits.acquireLink('a', 'two')
  t.throws(() => limits.acquireLink('a', 'three'), {
    code: 'OVERLOADED',
    detail: 'clusters[a].limits.links: 4 links are open'
  })

  t.doesNotThrow(() => limits.acquireLink('b', 'one'))
  first()
  first()
  limits.acquireLink('a', 'three')
  t.throws(() => limits.acquireLink('a', 'four'), { code: 'OVERLOADED' })
  t.same(refused, ['a linksPerClient', 'a links', 'a links'])
})

t.test('a refused link leaves nothing counted', async t => {
  const { limits } = make({}, 1)
  const only = limits.acquireLink('a', 'one')
  for (let count = 0; count < 10; count++) {
    t.throws(() => limits.acquireLink('a', 'one'), {
      code: 'OVERLOADED',
      detail: 'link.linkLimit: 1 links are open'
    })
  }

  only()

  t.doesNotThrow(() => limits.acquireLink('a', 'one'))
})

t.test('links of other servers share the total like one cluster more', async t => {
  const { limits, refused } = make({ links: 1 }, 5)
  for (let count = 0; count < 3; count++) limits.acquireLink(SERVERS, 'server')

  t.throws(() => limits.acquireLink(SERVERS, 'server'), {
    code: 'OVERLOADED',
    detail: 'link.linkLimit: 3 of 5 links are open, what is left is kept for other clusters'
  })
  t.same(refused, ['* linkLimit'])
})

t.test(
  'connections of a cluster are bounded; those of servers share the total like one cluster more',
  async t => {
    const { limits, refused } = make()
    const first = limits.acquireConnection('a')
    limits.acquireConnection('a')

    t.throws(() => limits.acquireConnection('a'), {
      code: 'OVERLOADED',
      detail: 'clusters[a].limits.connections: 2 connections are open'
    })
    // Of 100 one sixth is kept for each of a, b and the servers.
    for (let count = 0; count < 100 - 2 * 16; count++) limits.acquireConnection(SERVERS)
    t.throws(() => limits.acquireConnection(SERVERS), {
      code: 'OVERLOADED',
      detail: 'tunnel.maxConnections: 70 of 100 connections are open, what is left is kept for other clusters'
    })
    first()
    t.doesNotThrow(() => limits.acquireConnection('a'))
    t.same(refused, ['a connections', '* maxConnections'])
  }
)

const TLS = { cert: 'tls.crt', key: 'tls.key', clientCa: 'ca.crt' }

/** The limits of a server that serves these clusters at one front, with all that can be left out left out. */
function byDefault(clusters: string[]) {
  const config = seedSchema.parse({
    tunnel: { listen: '127.0.0.1:0', tls: TLS },
    fronts: [{ name: 'front', listen: '127.0.0.1:0', tls: TLS }],
    clusters: clusters.map(name => ({ name, serverNames: [`${name}.example.org`] }))
  })
  const { linkLimit } = config.link
  const { maxConnections } = config.tunnel
  const clock = new FakeClock()
  const limits = new Limits({
    clusters: config.clusters,
    linkLimit,
    maxConnections,
    onRefused: () => {},
    clock
  })
  const front = limits.sharedFront(config.fronts[0]!, clusters)
  const open: Dial = async () => new PassThrough()
  const links = async (cluster: string) => void limits.acquireLink(cluster, `client ${next++}`)
  const connections = async (cluster: string) => void limits.acquireConnection(cluster)
  const streams = async (cluster: string) => {
    clock.tick(1)
    await limits.dial(cluster, open, front)(target, dialContext())
  }
  let next = 0
  return {
    of: { links, connections, streams },
    total: { links: linkLimit, connections: maxConnections, streams: front.limit }
  }
}

/** How often it can be had. */
async function takeAll(take: () => Promise<void>): Promise<number> {
  for (let count = 0; ; count++) {
    try {
      await take()
    } catch (error) {
      t.equal((error as TunnelError).code, 'OVERLOADED')
      return count
    }
  }
}

for (const clusters of [2, 10]) {
  for (const what of ['links', 'connections', 'streams'] as const) {
    t.test(
      `by default ${clusters - 1} of ${clusters} clusters take what they can, the last has its ${what}`,
      async t => {
        const names = Array.from({ length: clusters }, (_, at) => `c${at}`)
        const { of, total } = byDefault(names)
        const greedy = names.slice(1)

        const first = await takeAll(() => of[what](greedy[0]!))
        for (const name of greedy) await takeAll(() => of[what](name))
        const left = await takeAll(() => of[what](names[0]!))

        t.ok(first > total[what] / 2, `one alone has ${first} of ${total[what]}`)
        t.equal(left, Math.floor(total[what] / clusters / 2), 'half of an equal part')
      }
    )
  }
}

t.test('1000 clients with 3 connections fit by default, alone and beside another cluster', async t => {
  const { of } = byDefault(['a', 'b'])
  for (let count = 0; count < 3_000; count++) await of.links('a')
  t.equal(await takeAll(() => of.links('b')), 1_096)

  const alone = byDefault(['a'])
  for (let count = 0; count < 4_096; count++) await alone.of.links('a')
  await t.rejects(alone.of.links('a'), { code: 'OVERLOADED', detail: 'link.linkLimit: 4096 links are open' })
})

t.test('streams count while they are dialled and open, over all dials into the cluster', async t => {
  const { limits, refused, clock } = make()
  const streams: PassThrough[] = []
  let hold = (): void => {}
  const open: Dial = async () => {
    const stream = new PassThrough()
    streams.push(stream)
    return stream
  }
  const held: Dial = () =>
    new Promise((_, reject) => (hold = () => reject(new TunnelError('TARGET_REFUSED'))))

  t.equal(await outcome(limits.dial('a', open)), 'OK')
  const waiting = outcome(limits.dial('a', held))
  t.equal(await outcome(limits.dial('a', open)), 'OVERLOADED clusters[a].limits.streams: 2 streams are open')
  t.equal(await outcome(limits.dial('b', open)), 'OK')
  hold()
  t.match(await waiting, /^TARGET_REFUSED/)
  t.equal(await outcome(limits.dial('a', open)), 'OK')
  t.match(await outcome(limits.dial('a', open)), /^OVERLOADED/)

  streams[0]?.destroy()
  await new Promise(resolve => setImmediate(resolve))
  clock.tick(1_000)
  t.equal(await outcome(limits.dial('a', open)), 'OK')
  t.same(refused, ['a streams', 'a streams'])
})

t.test('dials in a second are bounded, and a refused one takes no stream', async t => {
  const { limits, refused, clock } = make({ dialsPerSecond: 3, streams: 100 })
  const refuse: Dial = () => Promise.reject(new TunnelError('TARGET_REFUSED'))
  for (let count = 0; count < 3; count++) t.match(await outcome(limits.dial('a', refuse)), /^TARGET_REFUSED/)

  t.equal(
    await outcome(limits.dial('a', refuse)),
    'OVERLOADED clusters[a].limits.dialsPerSecond: more than 3 dials in a second'
  )
  t.match(await outcome(limits.dial('b', refuse)), /^TARGET_REFUSED/)
  clock.tick(334)
  t.match(await outcome(limits.dial('a', refuse)), /^TARGET_REFUSED/)
  t.same(refused, ['a dialsPerSecond'])
})

t.test('a dial that comes back closed already gives its place back', async t => {
  const { limits } = make({ streams: 1 })
  const closed: Dial = async () => {
    const stream = new PassThrough()
    stream.destroy()
    await new Promise(resolve => stream.once('close', resolve))
    return stream
  }

  for (let count = 0; count < 3; count++) t.equal(await outcome(limits.dial('a', closed)), 'OK')
})

t.test('the first routes of a client count, the others are ignored', async t => {
  const { limits, refused } = make()

  t.same(limits.routes('a', ['1', '2']), { routes: ['1', '2'], ignored: 0 })
  t.same(limits.routes('a', ['1', '2', '3']), { routes: ['1', '2', '3'], ignored: 0 })
  t.same(limits.routes('a', ['1', '2', '3', '4']), { routes: ['1', '2', '3'], ignored: 1 })
  t.same(refused, ['a routesPerClient'])
})
