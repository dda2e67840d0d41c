/** A path that swallows packets without a word: how soon it is noticed, and that streams go on when it is back. */
import t from 'tap'
import type { Test } from 'tap'
import { type Settings, deploy } from '../support/deployment.js'
import { until } from '../support/child-process.js'
import { echoTarget, sourceTarget } from '../support/targets.js'
import { type NetworkPath, networkPath } from './network-path.js'
import { MIB, WHOLE, echo, figure, hashOf, logged } from './traffic.js'

type Limits = { pingInterval: string; deadAfter: string }
/** A machine that is busy may stand still for a second; a path that lives must not count as dead then. */
const SHORT: Limits = { pingInterval: '1s', deadAfter: '3s' }

async function deployBehindRelay(t: Test, link: Settings | undefined = SHORT, dialTimeout = '4s') {
  const state: { relay?: NetworkPath } = {}
  const withLink = (settings: Settings): Settings => ({
    ...settings,
    ...(link && { link }),
    ...('servers' in settings ? { connectTimeout: '2s', reconnect: { maxDelay: '200ms' } } : {})
  })
  const built = await deploy(t, {
    before: async tunnel => (state.relay = await networkPath(t, tunnel)),
    seed: settings => ({
      ...withLink(settings),
      fronts: (settings['fronts'] as Settings[]).map(front => ({ ...front, dialTimeout }))
    }),
    shoot: withLink
  })
  const relay = state.relay!
  return { ...built, relay, client: built.clients[0]! }
}

t.test('an idle black hole is noticed by both sides, and the stream goes on over another path', async t => {
  const { dial, client, server, relay } = await deployBehindRelay(t)
  const talk = echo(await dial((await echoTarget(t)).addr), 64, 2_000)
  await until('a round came back', () => talk.rounds() > 0)

  // Only this connection is swallowed; a new one gets through, as after a failover of a stateful firewall.
  const began = performance.now()
  relay.freeze({ newOnes: false })
  await until('the client notices', () => logged(client.log(), 'link down, dialling again').length > 0)
  const noticedMs = Math.round(performance.now() - began)
  await until('the link is resumed', () => logged(client.log(), 'link resumed').length > 0)
  const resumedMs = Math.round(performance.now() - began)

  t.match(logged(client.log(), 'link down, dialling again')[0], { code: 'LINK_LOST' })
  await talk.stop()
  figure(t, `black hole, deadAfter ${SHORT.deadAfter}: noticed / resumed ms`, `${noticedMs} / ${resumedMs}`)
  // What the old path still holds arrives now, and must not be heard.
  relay.thaw()
  await until('the old path is closed', () => relay.open === 1)
  t.equal(logged(client.log(), 'link resumed').length, 1)
  t.same(logged(server.log(), 'client gone'), [])
})

t.test('a black hole in the middle of a transfer, and nothing gets through for a while', async t => {
  const { dial, client, relay } = await deployBehindRelay(t)
  const source = await sourceTarget(t, 64 * MIB)
  const stream = await dial(source.addr)
  const hash = hashOf(stream)
  await until('bytes flow', () => relay.up > MIB)

  relay.freeze()
  await until('the client notices', () => logged(client.log(), 'link down, dialling again').length > 0)
  // Whoever connects meanwhile is accepted and hears nothing: half-open, as behind a balancer with a dead back end.
  await until(
    'attempts into the void end by their timeout',
    () => logged(client.log(), 'no link yet, dialling again').length > 0
  )
  const thawedAt = performance.now()
  relay.thaw()

  await until('the link is resumed', () => logged(client.log(), 'link resumed').length > 0)
  const backMs = Math.round(performance.now() - thawedAt)
  t.equal(await hash, source.sha256)
  figure(t, 'black hole under load: link back, ms after the path', backMs)
  await until('old connections are gone', () => relay.open === 1)
})

t.test('a dial made while the line is down waits for it within its own bound', async t => {
  const { dial, relay, client } = await deployBehindRelay(t, SHORT, '30s')
  const target = await echoTarget(t)
  await relay.refuse()
  relay.cut()

  const dialled = dial(target.addr)
  const attempts = (): number => logged(client.log(), 'no link yet, dialling again').length
  const before = attempts()
  await until('the client has tried some times more', () => attempts() > before + 3)
  await relay.listen()
  const stream = await dialled

  await echo(stream, 64, 1).stop()
})

if (WHOLE) {
  t.test('with the defaults a black hole is noticed within ten seconds of the last byte', async t => {
    const { dial, client, server, relay } = await deployBehindRelay(t, { resumeWindow: '60s' })
    const talk = echo(await dial((await echoTarget(t)).addr), 64, 100)
    await until('rounds come back', () => talk.rounds() > 3)

    const began = performance.now()
    relay.freeze({ newOnes: false })
    await until('the client notices', () => logged(client.log(), 'link down, dialling again').length > 0)
    const clientMs = Math.round(performance.now() - began)
    await until('the link is resumed', () => logged(client.log(), 'link resumed').length > 0)
    const resumedMs = Math.round(performance.now() - began)
    await talk.stop()

    figure(t, 'black hole, defaults: noticed / resumed ms', `${clientMs} / ${resumedMs}`)
    t.same(logged(server.log(), 'client gone'), [])
  })
}
