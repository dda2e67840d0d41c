/**
 * Nameservers that do not answer, seen from the outside: other names are dialled as before, and the link comes back.
 */
import { setMaxListeners } from 'node:events'
import t, { type Test } from 'tap'
import { dnsServer } from '@tendril/common/test/support/dns-server'
import { cuttable } from '../support/cuttable.js'
import { type Settings, deploy } from '../support/deployment.js'
import { echoTarget } from '../support/targets.js'
import { echo } from './talk.js'

const SILENT_NAMES = 100

/** A deployment whose client finds everything by one nameserver; names that begin with `silent` have no answer, `state.dead` none has. */
async function deployByName(t: Test) {
  const state = { dead: false }
  const dns = await dnsServer(t, (name, family) => {
    if (state.dead || name.startsWith('silent')) return undefined
    return { addresses: family === 4 ? ['127.0.0.1'] : [] }
  })
  let relay: Awaited<ReturnType<typeof cuttable>> | undefined
  const running = await deploy(t, {
    before: async tunnel => (relay = await cuttable(t, tunnel)),
    shoot: settings => ({
      ...settings,
      servers: [
        { url: (settings['servers'] as Settings[])[0]!['url']!, address: `vpn.demo.test:${relay!.port}` }
      ],
      dns: { resolver: 'own', nameservers: [dns.nameserver] }
    })
  })
  return { ...running, dns, state, relay: relay! }
}

t.test('100 dials to names whose nameserver is silent hold up neither other names nor the link', async t => {
  const { dial, dns, state, relay, clients } = await deployByName(t)
  const target = await echoTarget(t)
  const port = target.addr.split(':').at(-1) ?? ''
  const median = async (): Promise<number> => {
    const times: number[] = []
    for (let round = 0; round < 20; round++) {
      const startedMs = performance.now()
      const stream = await dial(`good${round}.test:${port}`)
      times.push(performance.now() - startedMs)
      stream.destroy()
    }
    return times.sort((a, b) => a - b)[10] ?? NaN
  }
  const aloneMs = await median()
  const leave = new AbortController()
  setMaxListeners(0, leave.signal)
  let over = 0
  const silent = Array.from({ length: SILENT_NAMES }, (_, at) =>
    dial(`silent${at}.test:${port}`, { signal: leave.signal }).catch((error: unknown) => {
      over++
      return error
    })
  )
  await dns.waitFor(`silent${SILENT_NAMES - 1}.test A`)

  const besideMs = await median()
  const overMeanwhile = over
  const kept = await dial(`kept.test:${port}`)
  state.dead = true
  const cutMs = performance.now()
  relay.cut()
  t.ok(await echo(kept, 'still here'), 'the stream lives on over the next connection')
  const backMs = performance.now() - cutMs

  t.comment(
    `figure: a dial by name beside ${SILENT_NAMES} silent ones ${besideMs.toFixed(1)} ms, alone ${aloneMs.toFixed(1)} ms (median of 20; ${overMeanwhile} of them over by then)`
  )
  t.comment(`figure: echo over a link that was cut while no nameserver answered: ${backMs.toFixed(0)} ms`)
  t.match(clients[0]?.log(), /using the last known addresses of a name/)
  kept.destroy()
  leave.abort()
  await Promise.all(silent)
})
