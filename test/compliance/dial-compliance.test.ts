/** Every Dial there is, through the same suite. */
import t from 'tap'
import { systemClock } from '@tendril/common'
import { createPolicy } from '@tendril/common/policy/policy'
import { createTargetDial } from '@tendril/shoot-client/targets/dial-target'
import { linkPair, sessionPair, websocketCarrierPair } from '../support/carriers.js'
import { memoryCarriers } from '@tendril/common/test/support/memory-carrier'
import { dialCompliance } from './dial-compliance.js'

const policy = createPolicy({ allow: ['127.0.0.0/8', '::1'] })
const targetDial = createTargetDial({ policy, clock: systemClock })

dialCompliance(t, 'tcp', () => ({ dial: targetDial, destroyResets: false }))
dialCompliance(t, 'session over memory', t => sessionPair(t, memoryCarriers(), targetDial))
dialCompliance(t, 'session over websocket', async t =>
  sessionPair(t, await websocketCarrierPair(t), targetDial)
)
dialCompliance(t, 'session over link', async t =>
  sessionPair(t, await linkPair(t, await websocketCarrierPair(t)), targetDial)
)
