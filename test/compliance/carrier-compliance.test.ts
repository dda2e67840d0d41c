/** Every Carrier there is, through the same suite. */
import t from 'tap'
import { linkPair, websocketCarrierPair } from '../support/carriers.js'
import { memoryCarrierPair } from '../support/simple-memory-carrier.js'
import { carrierCompliance } from './carrier-compliance.js'

carrierCompliance(t, 'memory', () => memoryCarrierPair())
carrierCompliance(t, 'websocket', websocketCarrierPair)
carrierCompliance(t, 'link over memory', t => linkPair(t, memoryCarrierPair()), { outlivesLoss: true })
carrierCompliance(t, 'link over websocket', async t => linkPair(t, await websocketCarrierPair(t)), {
  outlivesLoss: true
})
