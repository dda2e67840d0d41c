import t from 'tap'
import { type Route, readRoute, sortRoutes } from '../../src/policy/routes.js'

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
