/** SIGTERM to the installed programs: what is under way is finished, nothing new begins, and nobody waits too long. */
import t from 'tap'
import { ask } from '../support/ask.js'
import { type Settings, house } from '../support/house.js'
import { until } from '../support/process.js'
import { echoTarget } from '../support/targets.js'
import { echo, figure, took } from './traffic.js'

t.test('a server that is told to stop is unready at once, and takes callers for drainDelay', async t => {
  const DELAY_MS = 800
  const seed = (settings: Settings): Settings => ({ ...settings, drainDelay: `${DELAY_MS}ms` })
  const { dial, server } = await house(t, { seed })
  const target = await echoTarget(t)

  const gone = took(server.stop())
  const { status } = await ask(`${server.admin}/readyz`)
  const talk = echo(await dial(target.addr))
  await until('a new caller is served', () => talk.rounds() > 2)
  await talk.stop()
  const goneMs = await gone

  t.equal(status, 503)
  t.ok(goneMs >= DELAY_MS - 1, `ended after ${goneMs} ms`)
  t.equal(server.log().includes('"draining"'), true, 'it drained afterwards')
  await t.rejects(dial(target.addr), 'nobody listens any more')
})

for (const who of ['seed-server', 'shoot-client'] as const) {
  const short = (settings: Settings): Settings => ({ ...settings, drainTimeout: '1500ms' })

  t.test(`${who}: SIGTERM waits for an open stream and ends as soon as it is done`, async t => {
    const { dial, server, clients } = await house(t, { processes: true })
    const inhabitant = who === 'seed-server' ? server : clients[0]!
    const talk = echo(await dial((await echoTarget(t)).addr))
    await until('it talks', () => talk.rounds() > 2)

    const gone = inhabitant.kill('SIGTERM')
    await until('it drains', () => inhabitant.log().includes('"draining"'))
    const before = talk.rounds()
    await until('it still talks', () => talk.rounds() > before + 5)
    await talk.stop()
    const endedMs = await took(gone)

    t.ok(endedMs < 2_500, `ended ${endedMs} ms after its last stream`)
    figure(t, `${who} drained: ended ms after its last stream`, endedMs)
  })

  t.test(`${who}: a stream that does not end is cut off after drainTimeout`, async t => {
    const { dial, server, clients } = await house(t, { processes: true, seed: short, shoot: short })
    const inhabitant = who === 'seed-server' ? server : clients[0]!
    const stream = await dial((await echoTarget(t)).addr)
    stream.on('error', () => {})

    const endedMs = await took(inhabitant.kill('SIGTERM'))

    t.ok(endedMs >= 1_400 && endedMs < 5_000, `after ${endedMs} ms`)
    await until(
      'the caller hears of it',
      () => stream.destroyed || stream.readableEnded || stream.errored !== null
    )
    stream.destroy()
  })

  t.test(`${who}: a second signal ends it at once`, async t => {
    const long = (settings: Settings): Settings => ({ ...settings, drainTimeout: '10s' })
    const other = who === 'seed-server' ? { seed: long, shoot: short } : { seed: short, shoot: long }
    const { dial, server, clients } = await house(t, { processes: true, ...other })
    const inhabitant = who === 'seed-server' ? server : clients[0]!
    const stream = await dial((await echoTarget(t)).addr)
    stream.on('error', () => {}).resume()
    void inhabitant.kill('SIGTERM')
    await until('it drains', () => inhabitant.log().includes('"draining"'))

    const endedMs = await took(inhabitant.kill('SIGTERM'))

    t.ok(endedMs < 1_500, `after ${endedMs} ms`)
    stream.destroy()
  })
}
