/** Every Carrier there is, through the same suite. */
import t from 'tap'
import { linkPair, websocketCarrierPair } from '../support/carriers.js'
import { memoryCarriers } from '@tendril/common/test/support/memory-carrier'
import { carrierCompliance } from './carrier-compliance.js'

carrierCompliance(t, 'memory', () => memoryCarriers())
carrierCompliance(t, 'websocket', websocketCarrierPair)
carrierCompliance(t, 'link over memory', t => linkPair(t, memoryCarriers()), { outlivesLoss: true })
carrierCompliance(t, 'link over websocket', async t => linkPair(t, await websocketCarrierPair(t)), {
  outlivesLoss: true
})
