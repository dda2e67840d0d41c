/** A path that swallows packets without a word: how soon it is noticed, and that streams go on when it is back. */
import t from 'tap'
import type { Test } from 'tap'
import { type Settings, house } from '../support/house.js'
import { until } from '../support/process.js'
import { echoTarget, sourceTarget } from '../support/targets.js'
import { type Way, way } from './paths.js'
import { MIB, WHOLE, echo, figure, hashOf, logged } from './traffic.js'

type Limits = { pingInterval: string; deadAfter: string }
const SHORT: Limits = { pingInterval: '300ms', deadAfter: '600ms' }
const DEAD_AFTER_MS = 600

async function houseBehindRelay(t: Test, link: Settings | undefined = SHORT) {
  const state: { relay?: Way } = {}
  const withLink = (settings: Settings): Settings => ({
    ...settings,
    ...(link && { link }),
    ...('servers' in settings ? { connectTimeout: '700ms', reconnect: { maxDelay: '200ms' } } : {})
  })
  const built = await house(t, {
    before: async tunnel => (state.relay = await way(t, tunnel)),
    seed: withLink,
    shoot: withLink
  })
  const relay = state.relay!
  return { ...built, relay, client: built.clients[0]! }
}

t.test('an idle black hole is noticed by both sides, and the stream goes on over another path', async t => {
  const { dial, client, server, relay } = await houseBehindRelay(t)
  const talk = echo(await dial((await echoTarget(t)).addr), 64, 2_000)
  await until('a round came back', () => talk.rounds() > 0)

  // Only this connection is swallowed; a new one gets through, as after a failover of a stateful firewall.
  const began = performance.now()
  relay.freeze({ newOnes: false })
  await until('the client notices', () => logged(client.log(), 'link down, dialling again').length > 0)
  const noticedMs = Math.round(performance.now() - began)
  await until('the link is resumed', () => logged(client.log(), 'link resumed').length > 0)
  const resumedMs = Math.round(performance.now() - began)

  t.ok(noticedMs < DEAD_AFTER_MS + 500, `noticed after ${noticedMs} ms`)
  t.match(logged(client.log(), 'link down, dialling again')[0], { code: 'LINK_LOST' })
  await talk.stop()
  figure(t, `black hole, deadAfter ${DEAD_AFTER_MS} ms: noticed / resumed ms`, `${noticedMs} / ${resumedMs}`)
  // What the old path still holds arrives now, and must not be heard.
  relay.thaw()
  await new Promise(resolve => setTimeout(resolve, 200))
  t.equal(logged(client.log(), 'link resumed').length, 1)
  t.same(logged(server.log(), 'client gone'), [])
})

t.test('a black hole in the middle of a transfer, then nothing gets through for two seconds', async t => {
  const { dial, client, relay } = await houseBehindRelay(t)
  const source = await sourceTarget(t, 64 * MIB)
  const stream = await dial(source.addr)
  const hash = hashOf(stream)
  await until('bytes flow', () => relay.up > MIB)

  relay.freeze()
  await until('the client notices', () => logged(client.log(), 'link down, dialling again').length > 0)
  await new Promise(resolve => setTimeout(resolve, 2_000))
  // Whoever connects meanwhile is accepted and hears nothing: half-open, as behind a balancer with a dead back end.
  t.ok(
    logged(client.log(), 'no link yet, dialling again').length >= 1,
    'attempts into the void end by their timeout'
  )
  const thawedAt = performance.now()
  relay.thaw()

  await until('the link is resumed', () => logged(client.log(), 'link resumed').length > 0)
  const backMs = Math.round(performance.now() - thawedAt)
  t.equal(await hash, source.sha256)
  t.ok(backMs < 2_000, `back ${backMs} ms after the path`)
  await until('old connections are gone', () => relay.open === 1)
})

t.test('a dial made while the line is down waits for it within its own bound', async t => {
  const { dial, relay } = await houseBehindRelay(t)
  const target = await echoTarget(t)
  await relay.refuse()
  relay.cut()

  const dialled = dial(target.addr)
  await new Promise(resolve => setTimeout(resolve, 500))
  await relay.listen()
  const stream = await dialled

  await echo(stream, 64, 1).stop()
})

if (WHOLE) {
  t.test('with the defaults a black hole is noticed within ten seconds of the last byte', async t => {
    const { dial, client, server, relay } = await houseBehindRelay(t, { resumeWindow: '60s' })
    const talk = echo(await dial((await echoTarget(t)).addr), 64, 100)
    await until('rounds come back', () => talk.rounds() > 3)

    const began = performance.now()
    relay.freeze({ newOnes: false })
    await until(
      'the client notices',
      () => logged(client.log(), 'link down, dialling again').length > 0,
      20_000
    )
    const clientMs = Math.round(performance.now() - began)
    await until('the link is resumed', () => logged(client.log(), 'link resumed').length > 0)
    const resumedMs = Math.round(performance.now() - began)
    await talk.stop()

    t.ok(clientMs <= 10_250, `${clientMs} ms`)
    figure(t, 'black hole, defaults: noticed / resumed ms', `${clientMs} / ${resumedMs}`)
    t.same(logged(server.log(), 'client gone'), [])
  })
}
