import t from 'tap'
import { type Route, fit, readRoute, sortRoutes } from '../../src/policy/routes.js'

function routes(...texts: string[]): Route[] {
  return texts.map(text => {
    const route = readRoute(text)
    if (!route) throw new Error(`${text} is no route`)
    return route
  })
}

t.test('networks, addresses, names and wildcards are read; what only looks like one is not', async t => {
  for (const text of [
    '10.0.0.0/8',
    '10.1.2.3',
    'fd00::/8',
    '::1',
    '::ffff:10.0.0.0/104',
    '*',
    '*.svc',
    'a',
    'A.b.',
    'node_1.x-y'
  ]) {
    t.ok(readRoute(text), text)
  }
  for (const text of [
    '',
    '.',
    '10.0.0.1/8',
    '10.0.0.0/33',
    '10.1',
    '10.0.0.256',
    '*.',
    '**',
    'a*',
    '*a',
    'a..b',
    '-a',
    'a b',
    'http://a',
    'a:80',
    '[::1]',
    'x'.repeat(254)
  ]) {
    t.equal(readRoute(text), undefined, text)
  }
})

t.test('the closer a route fits, the higher the number', async t => {
  const table: [announced: string[], host: string, wanted: number][] = [
    [[], '10.0.0.5', 0],
    [[], 'a.example', 0],
    [['0.0.0.0/0'], '10.0.0.5', 0],
    [['10.0.0.0/8'], '10.0.0.5', 8],
    [['10.0.0.0/8', '10.0.0.0/24', '10.0.0.0/16'], '10.0.0.5', 24],
    [['10.0.0.5'], '10.0.0.5', 32],
    [['10.0.0.5'], '::ffff:10.0.0.5', 32],
    [['::ffff:10.0.0.0/104'], '10.0.0.5', 8],
    [['10.0.0.0/8'], '11.0.0.5', -1],
    [['10.0.0.0/8'], 'fd00::5', -1],
    [['fd00::/8', 'fd00::/64'], 'fd00::5', 64],
    [['*'], 'a.example', 0],
    [['*'], '10.0.0.5', -1],
    [['*.example'], 'a.example', 8],
    [['*.example', '*.b.example'], 'a.b.example', 10],
    [['*.example'], 'example', -1],
    [['*.example'], 'anexample', -1],
    [['*', 'A.example.'], 'a.Example', 256],
    [['10.0.0.0/8'], 'a.example', -1]
  ]
  for (const [announced, host, wanted] of table) {
    t.equal(fit(routes(...announced), host), wanted, `${announced.join(' ')} for ${host}`)
  }
})

t.test('what a cluster may announce is kept, what it may not is named', async t => {
  const allowed = routes('10.0.0.0/8', 'fd00::1', '*.svc', 'node-1')
  const table: [announced: string, kept: boolean][] = [
    ['10.0.0.0/8', true],
    ['10.20.0.0/16', true],
    ['10.0.0.5', true],
    ['10.0.0.0/7', false],
    ['0.0.0.0/0', false],
    ['fd00::1', true],
    ['fd00::/64', false],
    ['a.svc', true],
    ['*.ns.svc', true],
    ['*.svc', true],
    ['svc', false],
    ['*', false],
    ['NODE-1', true],
    ['*.node-1', false],
    ['node-2', false],
    ['not a route', false]
  ]
  const { routes: kept, refused } = sortRoutes(
    table.map(([text]) => text),
    allowed
  )

  t.same(
    refused,
    table.filter(([, keep]) => !keep).map(([text]) => text)
  )
  t.equal(kept.length, table.length - refused.length)
  t.same(
    sortRoutes(['*', '0.0.0.0/0', '::/0'], routes('0.0.0.0/0', '::/0', '*')).refused,
    [],
    'the default allows all'
  )
  t.same(sortRoutes(['a.b', '10.0.0.1'], []).refused, ['a.b', '10.0.0.1'], 'nothing allowed, nothing kept')
})
