import t from 'tap'
import { readiness } from '../../src/admin/server-readiness.js'

const clientsOf = (counts: Record<string, number>) => (cluster: string) => counts[cluster] ?? 0

t.test('ready means a client for every required cluster', async t => {
  const clusters = [
    { name: 'a', required: true },
    { name: 'b', required: true },
    { name: 'c', required: false }
  ]

  t.same(readiness({ clusters, clientsOf: clientsOf({ a: 1, b: 2 }) }), {
    ok: true,
    reasons: [
      'cluster a (required): 1 client connected',
      'cluster b (required): 2 clients connected',
      'cluster c: no client connected'
    ]
  })
  t.equal(readiness({ clusters, clientsOf: clientsOf({ a: 1, c: 1 }) }).ok, false)
})

t.test('where no cluster is required, any client will do', async t => {
  const clusters = [
    { name: 'a', required: false },
    { name: 'b', required: false }
  ]

  t.equal(readiness({ clusters, clientsOf: clientsOf({}) }).ok, false)
  t.equal(readiness({ clusters, clientsOf: clientsOf({ b: 1 }) }).ok, true)
})
