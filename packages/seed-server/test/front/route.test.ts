import t from 'tap'
import { createRoute } from '../../src/front/route.js'

t.test('a front with a cluster reaches it under any name', async t => {
  const route = createRoute({ cluster: 'a', serverNames: { 'b.test': 'b' }, clusters: ['a', 'b'] })

  t.equal(route(undefined), 'a')
  t.equal(route('b.test'), 'a')
})

t.test('the server name decides, in any case of letters but exactly', async t => {
  const route = createRoute({ serverNames: { 'A.test': 'a', 'b.test': 'b' }, clusters: ['a', 'b'] })

  t.equal(route('a.TEST'), 'a')
  t.equal(route('a.test.'), 'a', 'a final dot says nothing here')
  t.equal(route('b.test'), 'b')
  for (const name of ['test', 'x.a.test', 'a.test..', 'a', '__proto__']) {
    t.throws(() => route(name), { code: 'UNKNOWN_CLUSTER', message: new RegExp(`"${name}" belongs to none`) })
  }
  t.throws(() => route(undefined), { code: 'UNKNOWN_CLUSTER', message: /ask for one by its server name/ })
})

t.test('the only cluster needs no name, but a name that is configured is not a suggestion', async t => {
  const bare = createRoute({ clusters: ['a'] })
  const named = createRoute({ serverNames: { 'a.test': 'a' }, clusters: ['a'] })

  t.equal(bare(undefined), 'a')
  t.equal(bare('vpn-seed-server'), 'a')
  t.equal(named(undefined), 'a')
  t.throws(() => named('b.test'), { code: 'UNKNOWN_CLUSTER' })
})

t.test('without names several clusters cannot be told apart', async t => {
  const route = createRoute({ clusters: ['a', 'b'] })

  t.throws(() => route('a'), {
    code: 'UNKNOWN_CLUSTER',
    message: 'unknown cluster: the server name "a" belongs to none'
  })
  t.throws(() => createRoute({ clusters: [] })(undefined), { code: 'UNKNOWN_CLUSTER' })
})
