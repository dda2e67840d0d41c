import { setMaxListeners } from 'node:events'
import t, { type Test } from 'tap'
import { systemClock } from '../src/clock.js'
import { ADDRESS_LIMIT, OTHER_FAMILY_MS, candidatesOf } from '../src/dns-lookup.js'
import { createResolve } from '../src/resolve.js'
import { type Zone, dnsServer } from './support/dns-server.js'
import { FakeClock } from './support/fake-clock.js'

type Files = { resolvConf?: string; hosts?: string; nsswitch?: string }

/** Files as of a pod, whose nameserver is the one given. */
function pathsOf(test: Test, { resolvConf = '', hosts = '', nsswitch = 'hosts: files dns\n' }: Files = {}) {
  const directory = test.testdir({ resolvConf, hosts, nsswitch })
  return {
    resolvConf: `${directory}/resolvConf`,
    hosts: `${directory}/hosts`,
    nsswitch: `${directory}/nsswitch`
  }
}

const never = () => new AbortController().signal
const only = (addresses: Record<string, string[]>): Zone => {
  return (name, family) => {
    const all = addresses[name]
    if (!all) return { rcode: 'NXDOMAIN' }
    return { addresses: all.filter(address => address.includes(':') === (family === 6)) }
  }
}

t.test('a name of a pod is looked for in its search domains, as many dots as it has', async t => {
  const search = ['shop.svc.cluster.local', 'svc.cluster.local', 'cluster.local']
  t.same(candidatesOf('web', { search, ndots: 5 }), [
    'web.shop.svc.cluster.local',
    'web.svc.cluster.local',
    'web.cluster.local',
    'web'
  ])
  t.same(candidatesOf('a.b.c.d.e', { search: ['x'], ndots: 5 }), ['a.b.c.d.e.x', 'a.b.c.d.e'])
  t.same(candidatesOf('a.b.c.d.e.f', { search: ['x'], ndots: 5 }), ['a.b.c.d.e.f', 'a.b.c.d.e.f.x'])
  t.same(candidatesOf('web.', { search, ndots: 5 }), ['web'], 'a final dot: nowhere else')
  t.same(candidatesOf('web', { search: [], ndots: 1 }), ['web'])
  const long = 'a'.repeat(250)
  for (const [domain, count] of [
    ['xx', 2],
    ['xxx', 1]
  ] as const)
    t.equal(candidatesOf(long, { search: [domain], ndots: 1 }).length, count, 'at most 253 characters')

  const server = await dnsServer(t, only({ 'web.svc.cluster.local': ['10.96.0.1'] }))
  const paths = pathsOf(t, {
    resolvConf: `search ${search.join(' ')}\nnameserver ${server.nameserver}\noptions ndots:5\n`
  })
  const resolve = createResolve({ resolver: 'own', paths })
  t.same(await resolve('web', never()), ['10.96.0.1'])
  t.same(
    [...new Set(server.asked.map(question => question.split(' ')[0]))],
    ['web.shop.svc.cluster.local', 'web.svc.cluster.local']
  )
  await t.rejects(resolve('web.', never()), { code: 'ENOTFOUND', message: 'the name web. does not exist' })
})

t.test('hosts and localhost need no nameserver, and the order of nsswitch.conf counts', async t => {
  const server = await dnsServer(t, only({ pod: ['10.0.0.9'], 'other.test': ['10.0.0.8'] }))
  const files = {
    hosts: '10.0.0.1 pod\n10.0.0.1 POD.test\n',
    resolvConf: `nameserver ${server.nameserver}\n`
  }
  const resolve = createResolve({ resolver: 'own', paths: pathsOf(t, files) })

  t.same(await resolve('pod', never()), ['10.0.0.1'])
  t.same(await resolve('Pod.TEST.', never()), ['10.0.0.1'])
  t.same((await resolve('localhost', never())).sort(), ['127.0.0.1', '::1'])
  t.same((await resolve('a.localhost.', never())).sort(), ['127.0.0.1', '::1'])
  t.same(server.asked, [])

  const dnsFirst = createResolve({
    resolver: 'own',
    paths: pathsOf(t, { ...files, nsswitch: 'hosts: dns files' })
  })
  t.same(await dnsFirst('pod', never()), ['10.0.0.9'])
  const dnsOnly = createResolve({ resolver: 'own', paths: pathsOf(t, { ...files, nsswitch: 'hosts: dns' }) })
  await t.rejects(dnsOnly('pod.test', never()), { code: 'ENOTFOUND' })
})

t.test(
  'both families are asked for at once, no name is no address, and no more than 64 are taken',
  async t => {
    const many = (count: number) => Array.from({ length: count }, (_, at) => `10.0.0.${at}`)
    const server = await dnsServer(
      t,
      only({ both: ['10.0.0.1', '2001:db8::1'], empty: [], n63: many(63), n64: many(64), n65: many(65) })
    )
    const resolve = createResolve({ resolver: 'own', nameservers: [server.nameserver], paths: pathsOf(t) })

    t.same((await resolve('both', never())).sort(), ['10.0.0.1', '2001:db8::1'])
    await t.rejects(resolve('empty', never()), { code: 'ENOTFOUND' })
    await t.rejects(resolve('none', never()), { code: 'ENOTFOUND' })
    await t.rejects(resolve('no..name', never()), { code: 'ENOTFOUND' })
    for (const count of [63, 64, 65])
      t.equal((await resolve(`n${count}`, never())).length, Math.min(count, ADDRESS_LIMIT))
    t.ok(server.asked.includes('both AAAA'))

    const onlyFour = createResolve({
      resolver: 'own',
      paths: pathsOf(t, { resolvConf: `nameserver ${server.nameserver}\noptions no-aaaa\n` })
    })
    t.same(await onlyFour('both', never()), ['10.0.0.1'])
  }
)

t.test('an answer that is cut short is asked for again over TCP', async t => {
  const addresses = Array.from({ length: 60 }, (_, at) => `10.0.1.${at}`)
  const server = await dnsServer(t, (_, family) =>
    family === 4 ? { truncated: addresses } : { addresses: [] }
  )
  const resolve = createResolve({ resolver: 'own', nameservers: [server.nameserver], paths: pathsOf(t) })

  t.equal((await resolve('many.test', never())).length, 60)
  t.ok(server.asked.includes('many.test A tcp'))
})

t.test(
  'a nameserver that is silent or cannot say is followed by the next, and asked last from then on',
  async t => {
    const clock = new FakeClock()
    const silent = await dnsServer(t, () => undefined)
    const failing = await dnsServer(t, () => ({ rcode: 'SERVFAIL' }))
    const good = await dnsServer(t, only({ 'a.test': ['10.0.0.1'], 'b.test': ['10.0.0.2'] }))
    const nameservers = [silent, failing, good].map(({ nameserver }) => nameserver)
    const resolve = createResolve({ resolver: 'own', nameservers, clock, paths: pathsOf(t) })

    const first = resolve('a.test', never())
    await silent.waitFor('a.test A')
    clock.tick(2_000)
    t.same(await first, ['10.0.0.1'])
    t.same(await resolve('b.test', never()), ['10.0.0.2'], 'at once')
    t.notOk(silent.asked.includes('b.test A'))
    t.ok(failing.asked.includes('b.test A'), 'one that answers keeps its place')
    t.equal(clock.pending, 0)
  }
)

t.test('when nobody can say, the sentence says who did not', async t => {
  const clock = new FakeClock()
  const silent = await dnsServer(t, () => undefined)
  const resolve = createResolve({
    resolver: 'own',
    nameservers: [silent.nameserver],
    clock,
    paths: pathsOf(t, { resolvConf: 'options attempts:2 timeout:1\n' })
  })
  const failure = t.rejects(resolve('a.test', never()), {
    code: 'EAI_AGAIN',
    message: `nameserver ${silent.nameserver} does not answer`
  })
  for (const attempt of [1, 2]) {
    while (silent.asked.length < 2 * attempt) await new Promise(setImmediate)
    clock.tick(1_000)
    await new Promise(setImmediate)
  }
  await failure
  t.equal(silent.asked.length, 4, 'two attempts, two families')

  for (const rcode of ['SERVFAIL', 'REFUSED'] as const) {
    const server = await dnsServer(t, () => ({ rcode }))
    const cannotSay = createResolve({ resolver: 'own', nameservers: [server.nameserver], paths: pathsOf(t) })
    await t.rejects(cannotSay('a.test', never()), {
      code: 'EAI_AGAIN',
      message: `nameserver ${server.nameserver} answered ${rcode}`
    })
  }
  const nobody = createResolve({ resolver: 'own', nameservers: ['127.0.0.1:1'], paths: pathsOf(t) })
  await t.rejects(nobody('a.test', never()), { code: 'EAI_AGAIN', message: /127\.0\.0\.1:1 is not there/ })
})

t.test('a nameserver that answers for one family only holds a name up for a second at most', async t => {
  const clock = new FakeClock()
  const server = await dnsServer(t, (_, family) => (family === 4 ? { addresses: ['10.0.0.1'] } : undefined))
  const resolve = createResolve({
    resolver: 'own',
    nameservers: [server.nameserver],
    clock,
    paths: pathsOf(t)
  })

  const answer = resolve('a.test', never())
  while (clock.pending < 3) await new Promise(setImmediate)
  clock.tick(OTHER_FAMILY_MS)
  t.same(await answer, ['10.0.0.1'])
  t.equal(clock.pending, 0)
})

t.test('who leaves takes his question back: nothing goes on for nobody', async t => {
  const clock = new FakeClock()
  const server = await dnsServer(t, () => undefined)
  const resolve = createResolve({
    resolver: 'own',
    nameservers: [server.nameserver],
    clock,
    paths: pathsOf(t)
  })
  const controller = new AbortController()

  const failure = t.rejects(resolve('a.test', controller.signal), { message: 'left' })
  await server.waitFor('a.test A')
  controller.abort(new Error('left'))
  await failure
  await new Promise(setImmediate)
  t.equal(clock.pending, 0)
})

t.test('100 names whose nameserver is silent hold up no other', async t => {
  const server = await dnsServer(t, (name, family) => {
    if (name.startsWith('silent')) return undefined
    return { addresses: family === 4 ? ['10.0.0.1'] : [] }
  })
  const resolve = createResolve({ resolver: 'own', nameservers: [server.nameserver], paths: pathsOf(t) })
  const median = async (): Promise<number> => {
    const times: number[] = []
    for (let round = 0; round < 20; round++) {
      const startedMs = systemClock.now()
      t.same(await resolve(`good${round}.test`, never()), ['10.0.0.1'])
      times.push(systemClock.now() - startedMs)
    }
    return times.sort((a, b) => a - b)[10] ?? NaN
  }
  const aloneMs = await median()
  const controller = new AbortController()
  setMaxListeners(0, controller.signal)
  let over = 0
  const silent = Array.from({ length: 100 }, (_, at) =>
    resolve(`silent${at}.test`, controller.signal).catch(() => over++)
  )
  await server.waitFor('silent99.test A')

  const besideMs = await median()

  t.equal(over, 0, 'all of them were under way meanwhile')
  t.comment(
    `figure: a good name beside 100 silent ones ${besideMs.toFixed(1)} ms, alone ${aloneMs.toFixed(1)} ms (median of 20)`
  )
  controller.abort()
  await Promise.all(silent)
})
