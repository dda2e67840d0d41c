import t from 'tap'
import { ClientIndex, type IndexedClient, WHOLE_SIZE, health } from '../../src/registry/client-index.js'
import { type Traits, client, routesOf } from './fake-client.js'

const CONNECTED = [health.WELL, health.SILENT, health.DRAINING]

/** Names in the order in which a dial that always fails would ask. */
function order(index: ClientIndex, host = '10.1.2.3'): string {
  const asked = new Set<IndexedClient>()
  for (;;) {
    const next = index.best(host, CONNECTED, entry => !asked.has(entry))
    if (!next) return [...asked].map(({ client }) => client.name).join(' ')
    asked.add(next)
  }
}

function indexOf(clients: Record<string, Traits>) {
  const index = new ClientIndex()
  const all = Object.entries(clients).map(([name, traits]) => client(name, traits))
  const entries = all.map(({ client }) => index.add(client))
  return { index, all, entries }
}

t.test('who is asked first', async t => {
  const table: [rule: string, host: string, clients: Record<string, Traits>, order: string][] = [
    [
      'the longest prefix',
      '10.1.2.3',
      { a: { routes: ['10.0.0.0/8'] }, b: { routes: ['10.1.2.0/24'] }, c: { routes: ['10.1.2.3'] } },
      'c b a'
    ],
    [
      'a route before none, none before others',
      '10.1.2.3',
      { a: {}, b: { routes: ['11.0.0.0/8'] }, c: { routes: ['10.0.0.0/8'] } },
      'c a b'
    ],
    [
      'a route for all as none',
      '10.1.2.3',
      { a: {}, b: { routes: ['0.0.0.0/0'] }, c: {}, d: { routes: ['::/0'] } },
      'c b a d'
    ],
    ['the exact name', 'node-1', { a: {}, b: { routes: ['node-1'] }, c: { routes: ['*'] } }, 'b c a'],
    ['a route before fewer streams', '10.1.2.3', { a: {}, b: { routes: ['10.0.0.0/8'], streams: 9 } }, 'b a'],
    [
      'then fewer streams',
      '10.1.2.3',
      { a: { streams: 2 }, b: { streams: 1, rttMs: 99 }, c: { streams: 3 } },
      'b a c'
    ],
    [
      'then the shorter round trip',
      '10.1.2.3',
      { a: { rttMs: 20 }, b: { rttMs: 10 }, c: { rttMs: 30 } },
      'b a c'
    ],
    ['then the newest', '10.1.2.3', { a: {}, b: {}, c: {} }, 'c b a'],
    [
      'those that are well before any route, and who is down not at all',
      '10.1.2.3',
      {
        a: { routes: ['10.1.2.3'], silent: true },
        b: { routes: ['10.1.2.3'], draining: true },
        c: { routes: ['10.1.2.3'], down: true },
        d: {}
      },
      'd a b'
    ]
  ]
  for (const [rule, host, clients, wanted] of table)
    t.equal(order(indexOf(clients).index, host), wanted, rule)
})

t.test('what a client is like is seen when it is looked at', async t => {
  const { index, all } = indexOf({ a: {}, b: {}, c: {} })
  const [a, , c] = all
  t.equal(order(index), 'c b a')
  c!.state.draining = true
  t.equal(order(index), 'b a c')
  a!.state.streams = -1
  t.equal(order(index), 'a b c')
  for (const { state } of all) state.down = true
  t.equal(order(index), '')
  t.same(index.counts, { well: 0, silent: 0, draining: 0, down: 3 })
  a!.state.down = false
  t.equal(order(index), 'a')
})

t.test('routes that are announced anew count from then on, and the old ones no more', async t => {
  const { index, all, entries } = indexOf({ a: { routes: ['10.0.0.0/8', '10.0.0.0/8'] }, b: {} })
  t.equal(order(index), 'a b')
  all[0]!.routes = routesOf(['11.0.0.0/8'])
  index.refresh(entries[0]!)
  t.equal(order(index), 'b a')
  t.equal(order(index, '11.0.0.1'), 'a b')
  all[0]!.routes = []
  index.refresh(entries[0]!)
  t.equal(order(index), 'b a')
  for (const entry of entries) index.remove(entry)
  t.equal(order(index), '')
  t.same(index.clients, [])
})

t.test('who is back counts as having come; who said that it drains takes streams again', async t => {
  const { index, all, entries } = indexOf({ a: {} })
  const [a] = all
  const [entry] = entries
  t.equal(index.came, 1)
  entry!.saidDraining = true
  index.refresh(entry!)
  t.equal(entry!.health, health.DRAINING)
  a!.state.down = true
  index.refresh(entry!)
  a!.state.down = false
  index.refresh(entry!)
  t.equal(entry!.health, health.WELL)
  t.same([index.came, entry!.cameAt], [2, 2])
  a!.state.silent = true
  index.refresh(entry!)
  a!.state.silent = false
  t.equal(index.best('x', [health.WELL]), entry, 'nobody said so')
  t.equal(index.came, 3)
})

/** Random numbers that are the same in each run. */
function seeded(seed = 1): () => number {
  return () => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
    return seed / 2 ** 32
  }
}

t.test('a choice looks at so many clients, however many there are and whatever they announce', async t => {
  for (const [count, announce] of [
    [WHOLE_SIZE, 0],
    [1_000, 0],
    [1_000, 64]
  ] as const) {
    const index = new ClientIndex({ random: seeded() })
    const all = Array.from({ length: count }, (_, number) => {
      // All of them fit: some with a route of their own, all with one of everybody.
      const own = Array.from({ length: announce }, (_, at) => `10.${at}.${number >> 8}.${number & 255}`)
      return client(`${number}`, { routes: announce ? ['10.0.0.0/8', ...own] : [] })
    })
    for (const { client } of all) index.add(client)
    for (const one of all) one.looks = 0

    for (const host of ['10.1.2.3', '10.200.0.1', 'a.name', '192.168.0.1'])
      t.ok(index.best(host, [health.WELL]))

    const looks = all.reduce((sum, { looks }) => sum + looks, 0)
    t.ok(looks <= 4 * WHOLE_SIZE, `${looks} looks at ${count} clients with ${announce} routes`)
  }
})

t.test('one that is well is found among any number that are not', async t => {
  const index = new ClientIndex({ random: seeded() })
  const all = Array.from({ length: 500 }, (_, number) => client(`${number}`, { routes: ['10.0.0.0/8'] }))
  const entries = all.map(({ client }) => index.add(client))
  for (const { state, client } of all) if (client.name !== '123') state.silent = true

  t.equal(index.best('10.0.0.1', [health.WELL])?.client.name, '123', 'when all at once have changed')
  index.refreshAll()
  for (const one of all) one.looks = 0
  t.equal(index.best('10.0.0.1', [health.WELL])?.client.name, '123')
  const looks = all.reduce((sum, { looks }) => sum + looks, 0)
  t.ok(looks <= 2 * WHOLE_SIZE, `${looks} looks the next time`)

  t.equal(
    index.best('10.0.0.1', [health.WELL], ({ client }) => client.name !== '123'),
    undefined
  )
  for (const { state } of all) Object.assign(state, { down: false, silent: false, draining: false })
  for (const entry of entries) index.refresh(entry)
  const all500 = new Set<string>()
  for (let one; (one = index.best('10.0.0.1', [health.WELL], ({ client }) => !all500.has(client.name)));)
    all500.add(one.client.name)
  t.equal(all500.size, 500, 'each is found when the others were asked')
})

t.test('of more clients than are compared the load is still even', async t => {
  const index = new ClientIndex({ random: seeded() })
  const all = Array.from({ length: 100 }, (_, number) => client(`${number}`))
  for (const { client } of all) index.add(client)

  for (let dials = 0; dials < 1_000; dials++) {
    const { client } = index.best('10.0.0.1', [health.WELL])!
    all[Number(client.name)]!.state.streams++
  }

  const loads = all.map(({ state }) => state.streams)
  t.ok(
    Math.min(...loads) >= 8 && Math.max(...loads) <= 12,
    `from ${Math.min(...loads)} to ${Math.max(...loads)}`
  )
})

t.test('a client costs its own routes when it comes, changes and goes, not those of others', async t => {
  const index = new ClientIndex({ random: seeded() })
  const others = Array.from({ length: 1_000 }, (_, number) => client(`${number}`, { routes: ['10.0.0.0/8'] }))
  for (const { client } of others) index.add(client)
  for (const one of others) one.looks = 0

  const one = client('one', { routes: ['10.0.0.0/8', '10.1.0.0/16'] })
  const entry = index.add(one.client)
  one.state.down = true
  index.refresh(entry)
  one.routes = routesOf(['11.0.0.0/8'])
  index.refresh(entry)
  index.remove(entry)

  t.equal(
    others.reduce((sum, { looks }) => sum + looks, 0),
    0
  )
})

/** An index where each client has three different routes, and links of the client `one` beside one of another client. */
function links(...announced: string[][]) {
  const index = new ClientIndex({ routesPerClient: 3 })
  const own = announced.map((routes, number) => client(`link${number}`, { owner: 'one', routes }))
  const entries = own.map(({ client }) => index.add(client))
  index.add(client('other', { streams: 9 }).client)
  /** Whether a dial to this host prefers a link of `one` by a route, though it has more streams. */
  const uses = (host: string): boolean => {
    for (const { state } of own) state.streams = 99
    return index.best(host, [health.WELL])?.client.owner === 'one'
  }
  const announce = (at: number, ...routes: string[]): void => {
    own[at]!.routes = routesOf(routes)
    index.refresh(entries[at]!)
  }
  return { index, entries, uses, announce, ignored: () => entries.map(({ ignored }) => ignored) }
}

t.test('all links of a client together have so many routes: one less, as many, one more', async t => {
  for (const [second, ignored, used] of [
    [['10.0.3.0/24'].slice(1), 0, []],
    [['10.0.3.0/24'], 0, ['10.0.3.1']],
    [['10.0.3.0/24', '10.0.4.0/24'], 1, ['10.0.3.1']]
  ] as const) {
    const one = links(['10.0.1.0/24', '10.0.2.0/24'], [...second])
    t.same(one.ignored(), [0, ignored])
    for (const host of ['10.0.1.1', '10.0.2.1', ...used]) t.ok(one.uses(host), host)
    t.notOk(one.uses('10.0.4.1'))
  }
})

t.test('a route that several links of a client announce counts once, however it is written', async t => {
  const all = ['10.0.1.0/24', 'node-1', '*.example.com']
  const { ignored, announce, uses } = links(all, all, [...all, 'NODE-1.', '10.0.1.0/24'])
  t.same(ignored(), [0, 0, 0])

  announce(1, ...all, '10.0.2.0/24', '10.0.3.0/24')
  t.same(ignored(), [0, 2, 0])
  t.notOk(uses('10.0.2.1'))
})

t.test('the routes of one client take nothing from another one', async t => {
  const index = new ClientIndex({ routesPerClient: 1 })
  const [a, b] = ['a', 'b'].map(name => index.add(client(name, { routes: [name] }).client))
  t.same([a!.ignored, b!.ignored], [0, 0])
})

t.test('routes that are given back make room for those that were ignored', async t => {
  const { index, entries, uses, announce, ignored } = links(
    ['10.0.1.0/24', '10.0.2.0/24'],
    ['10.0.3.0/24', '10.0.4.0/24'],
    ['10.0.5.0/24', '10.0.1.0/24']
  )
  t.same(ignored(), [0, 1, 1])

  announce(0, '10.0.2.0/24')
  t.same(ignored(), [0, 1, 1], 'another link has the route still')
  announce(2, '10.0.5.0/24')
  t.same(ignored(), [0, 1, 0], 'its own ignored one comes first')
  t.ok(uses('10.0.5.1'))
  t.notOk(uses('10.0.4.1'))

  index.remove(entries[0]!)
  t.same(ignored(), [0, 0, 0])
  t.ok(uses('10.0.4.1'), 'the link that left made room')
  t.notOk(uses('10.0.2.1'))

  index.remove(entries[1]!)
  index.remove(entries[2]!)
  t.equal(index.size, 1)
  const anew = index.add(client('again', { owner: 'one', routes: ['a', 'b', 'c'] }).client)
  t.equal(anew.ignored, 0)
})

t.test('with no routes allowed a client serves as one that announced none', async t => {
  const index = new ClientIndex({ routesPerClient: 0 })
  const entry = index.add(client('a', { routes: ['10.0.0.0/8'] }).client)
  t.equal(entry.ignored, 1)
  t.equal(order(index), 'a')
})
