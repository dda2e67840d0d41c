import t from 'tap'
import { readiness } from '../../src/admin/client-readiness.js'

t.test('ready means that a link is up, whichever', async t => {
  const up = { server: 'wss://a', up: true }
  const down = { server: 'wss://b', up: false, detail: 'server unreachable, next attempt in 3 s' }

  t.same(readiness([up, down]), {
    ok: true,
    reasons: [
      'server wss://a: link is up',
      'server wss://b: link is down, server unreachable, next attempt in 3 s'
    ]
  })
  t.equal(readiness([down]).ok, false)
  t.equal(readiness([]).ok, false)
})
