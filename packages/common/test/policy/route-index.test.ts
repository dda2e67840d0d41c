import t from 'tap'
import { contains, addressFormsOf, readAddress } from '../../src/policy/networks.js'
import { EXACT_NAME, RouteIndex } from '../../src/policy/route-index.js'
import { type Route, plainName, readRoute } from '../../src/policy/routes.js'

function route(text: string): Route {
  const route = readRoute(text)
  if (!route) throw new Error(`${text} is no route`)
  return route
}

function indexOf(texts: readonly string[]): RouteIndex<string> {
  const index = new RouteIndex<string>()
  for (const text of texts) index.set(route(text), text)
  return index
}

/** The rule itself, one route after the other: -1 when it does not fit. */
function closenessOf(route: Route, host: string): number {
  const address = readAddress(host)
  if ('network' in route) {
    return address && contains(route.network, addressFormsOf(address)[0]) ? route.network.bits : -1
  }
  if (address) return -1
  const name = plainName(host)
  if ('name' in route) return route.name === name ? EXACT_NAME : -1
  return name.endsWith(route.suffix) ? route.suffix.length : -1
}

t.test('the closer a route fits, the higher the number', async t => {
  const table: [announced: string[], host: string, wanted: number | undefined][] = [
    [[], '10.0.0.5', undefined],
    [['0.0.0.0/0'], '10.0.0.5', 0],
    [['10.0.0.0/8'], '10.0.0.5', 8],
    [['10.0.0.0/8', '10.0.0.0/24', '10.0.0.0/16'], '10.0.0.5', 24],
    [['10.0.0.5'], '10.0.0.5', 32],
    [['10.0.0.5'], '::ffff:10.0.0.5', 32],
    [['::ffff:10.0.0.0/104'], '10.0.0.5', 8],
    [['10.0.0.0/8'], '11.0.0.5', undefined],
    [['10.0.0.0/8'], 'fd00::5', undefined],
    [['fd00::/8', 'fd00::/64'], 'fd00::5', 64],
    [['::/0', '0.0.0.0/0'], 'fd00::5', 0],
    [['fd00::5'], 'fd00::5', 128],
    [['*'], 'a.example', 0],
    [['*'], '10.0.0.5', undefined],
    [['*.example'], 'a.example', 8],
    [['*.example', '*.b.example'], 'a.b.example', 10],
    [['*.example'], 'example', undefined],
    [['*.example'], 'anexample', undefined],
    [['*', 'A.example.'], 'a.Example', EXACT_NAME],
    [['10.0.0.0/8'], 'a.example', undefined]
  ]
  for (const [announced, host, wanted] of table) {
    t.equal(indexOf(announced).find(host)[0]?.closeness, wanted, `${announced.join(' ')} for ${host}`)
  }
})

t.test('all routes that fit are found, closest first, as one look at each of them would say', async t => {
  const texts = [
    ...['*', '*.c', '*.b.c', '*.a.b.c', 'a.b.c', 'x.a.b.c', 'c', '*.d', '*.xb.c'],
    ...Array.from({ length: 33 }, (_, bits) => `${maskedIpv4(0x0a010203, bits)}/${bits}`),
    ...Array.from({ length: 33 }, (_, bits) => `${maskedIpv4(0x0a81_0000, bits)}/${bits}`),
    ...['::/0', 'fd00::/8', 'fd00::/64', 'fd00::1', '::/96', '2002::/16']
  ]
  const distinct = [...new Set(texts)]
  const index = indexOf(distinct)
  const hosts = [
    ...['a.b.c', 'X.a.b.C.', 'b.c', 'c', 'q', 'xb.c', 'y.xb.c', '', '.', '.c'],
    ...['10.1.2.3', '10.129.0.0', '10.0.0.0', '0.0.0.0', '255.255.255.255', '::ffff:10.1.2.3'],
    ...['fd00::1', 'fd00::2', '::', '::1', '2002:a01:203::', '64:ff9b::a01:203']
  ]
  for (const host of hosts) {
    const wanted = distinct
      .map(text => ({ value: text, closeness: closenessOf(route(text), host) }))
      .filter(({ closeness }) => closeness >= 0)
      .sort((a, b) => b.closeness - a.closeness)
    t.same(index.find(host), wanted, host)
  }
})

t.test('what is deleted fits no more, and one of two forms of a route is the other', async t => {
  const index = indexOf(['10.0.0.0/8', '10.0.0.5', 'node-1', '*.svc'])
  t.equal(index.get(route('::ffff:10.0.0.0/104')), '10.0.0.0/8')
  t.equal(index.get(route('NODE-1.')), 'node-1')
  index.set(route('::ffff:10.0.0.5'), 'the same')
  t.equal(index.size, 4)
  t.same(
    index.find('10.0.0.5').map(({ value }) => value),
    ['the same', '10.0.0.0/8']
  )

  for (const text of ['10.0.0.5', '10.0.0.5', '*.svc', 'never.there', '11.0.0.0/8']) index.delete(route(text))

  t.same(
    index.find('10.0.0.5').map(({ value }) => value),
    ['10.0.0.0/8']
  )
  t.same(index.find('a.svc'), [])
  index.delete(route('10.0.0.0/8'))
  index.delete(route('node-1'))
  t.equal(index.size, 0)
  t.same(index.find('10.0.0.5'), [])
})

function maskedIpv4(value: number, bits: number): string {
  const masked = bits === 0 ? 0 : (value >>> (32 - bits)) << (32 - bits)
  return [24, 16, 8, 0].map(shift => (masked >>> shift) & 0xff).join('.')
}
