import { PassThrough } from 'node:stream'
import t from 'tap'
import { dialContext } from '../support/dial-context.js'
import type { Dial, Target } from '../../src/dial.js'
import { guard } from '../../src/policy/guard.js'
import { createPolicy } from '../../src/policy/policy.js'

function guarded() {
  const dialled: Target[] = []
  const dial: Dial = async target => {
    dialled.push(target)
    return new PassThrough()
  }
  return { dialled, dial: guard(dial, createPolicy({ deny: ['10.1.0.0/16'] }), 'server') }
}
const context = dialContext()

t.test('a denied literal never reaches the dial behind, and the side is named', async t => {
  const { dial, dialled } = guarded()

  await t.rejects(dial({ proto: 'tcp', host: '10.1.0.9', port: 22 }, context), {
    code: 'TARGET_DENIED',
    message: 'target denied: by the server\'s policy (rule "deny 10.1.0.0/16")'
  })
  await t.rejects(dial({ proto: 'tcp', host: 'fe80::1%eth0', port: 22 }, context), { code: 'TARGET_DENIED' })

  t.same(dialled, [])
})

t.test('an allowed literal and a name pass', async t => {
  const { dial, dialled } = guarded()

  await dial({ proto: 'tcp', host: '10.2.0.9', port: 22 }, context)
  await dial({ proto: 'tcp', host: 'kubernetes.default.svc', port: 443 }, context)

  t.same(
    dialled.map(target => target.host),
    ['10.2.0.9', 'kubernetes.default.svc']
  )
})
