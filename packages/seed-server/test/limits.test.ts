import { PassThrough } from 'node:stream'
import t from 'tap'
import { type Dial, TunnelError } from '@tendril/common'
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import { Limits } from '../src/limits.js'

const SMALL = {
  links: 4,
  linksPerClient: 2,
  routesPerClient: 3,
  connections: 2,
  streams: 2,
  dialsPerSecond: 5
}
const target = { proto: 'tcp' as const, host: 'h', port: 1 }

function make(limits: Partial<typeof SMALL> = {}, linkLimit = 100) {
  const clock = new FakeClock()
  const refused: string[] = []
  const made = new Limits({
    clusters: [
      { name: 'a', limits: { ...SMALL, ...limits } },
      { name: 'b', limits: { ...SMALL, ...limits } }
    ],
    linkLimit,
    onRefused: ({ limit, cluster }) => refused.push(cluster === undefined ? limit : `${cluster} ${limit}`),
    clock
  })
  return { clock, refused, limits: made }
}

/** What a dial through the limits comes to. */
async function outcome(dial: Dial): Promise<string> {
  try {
    await dial(target, { signal: new AbortController().signal })
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

t.test('links of other servers count only for the process', async t => {
  const { limits, refused } = make({ links: 1 }, 3)
  for (let count = 0; count < 3; count++) limits.acquireLink('*', 'server')

  t.throws(() => limits.acquireLink('*', 'server'), {
    code: 'OVERLOADED',
    detail: 'link.linkLimit: 3 links are open'
  })
  t.same(refused, ['linkLimit'])
})

t.test('connections of a cluster are bounded; those of servers are not', async t => {
  const { limits, refused } = make()
  const first = limits.acquireConnection('a')
  limits.acquireConnection('a')

  t.throws(() => limits.acquireConnection('a'), {
    code: 'OVERLOADED',
    detail: 'clusters[a].limits.connections: 2 connections are open'
  })
  for (let count = 0; count < 10; count++) limits.acquireConnection('*')
  first()
  t.doesNotThrow(() => limits.acquireConnection('a'))
  t.same(refused, ['a connections'])
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
