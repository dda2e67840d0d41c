/** SIGTERM to the installed programs: what is under way is finished, nothing new begins, and nobody waits too long. */
import t from 'tap'
import { ask } from '../support/ask.js'
import { type Settings, deploy } from '../support/deployment.js'
import { until } from '../support/child-process.js'
import { echoTarget } from '../support/targets.js'
import { echo, figure, took } from './traffic.js'

t.test('a server that is told to stop is unready at once, and takes callers for drainDelay', async t => {
  const seed = (settings: Settings): Settings => ({ ...settings, drainDelay: '3s' })
  const { dial, server } = await deploy(t, { seed })
  const target = await echoTarget(t)

  const gone = server.stop()
  const { status } = await ask(`${server.admin}/readyz`)
  const talk = echo(await dial(target.addr))
  await until('a new caller is served', () => talk.rounds() > 2)
  await talk.stop()
  await gone

  t.equal(status, 503)
  const order = /"unready, serving on"[^]*"draining"/
  t.match(server.log(), order, 'it drained afterwards')
  await t.rejects(dial(target.addr), 'nobody listens any more')
})

for (const who of ['seed-server', 'shoot-client'] as const) {
  const short = (settings: Settings): Settings => ({ ...settings, drainTimeout: '1500ms' })
  /** Whoever ends before that did not wait for it. */
  const endless = (settings: Settings): Settings => ({ ...settings, drainTimeout: '1h' })

  t.test(`${who}: SIGTERM waits for an open stream and ends as soon as it is done`, async t => {
    const { dial, server, clients } = await deploy(t, { processes: true, seed: endless, shoot: endless })
    const program = who === 'seed-server' ? server : clients[0]!
    const talk = echo(await dial((await echoTarget(t)).addr))
    await until('it talks', () => talk.rounds() > 2)

    const gone = program.kill('SIGTERM')
    await until('it drains', () => program.log().includes('"draining"'))
    const before = talk.rounds()
    await until('it still talks', () => talk.rounds() > before + 5)
    await talk.stop()
    const endedMs = await took(gone)

    figure(t, `${who} drained: ended ms after its last stream`, endedMs)
  })

  t.test(`${who}: a stream that does not end is cut off after drainTimeout`, async t => {
    const { dial, server, clients } = await deploy(t, { processes: true, seed: short, shoot: short })
    const program = who === 'seed-server' ? server : clients[0]!
    const stream = await dial((await echoTarget(t)).addr)
    stream.on('error', () => {})

    const endedMs = await took(program.kill('SIGTERM'))

    figure(t, `${who}, drainTimeout 1500 ms, a stream that stays: ended ms`, endedMs)
    await until(
      'the caller hears of it',
      () => stream.destroyed || stream.readableEnded || stream.errored !== null
    )
    stream.destroy()
  })

  t.test(`${who}: a second signal ends it at once`, async t => {
    const other = who === 'seed-server' ? { seed: endless, shoot: short } : { seed: short, shoot: endless }
    const { dial, server, clients } = await deploy(t, { processes: true, ...other })
    const program = who === 'seed-server' ? server : clients[0]!
    const stream = await dial((await echoTarget(t)).addr)
    stream.on('error', () => {}).resume()
    void program.kill('SIGTERM')
    await until('it drains', () => program.log().includes('"draining"'))

    figure(t, `${who}, a second signal: ended ms`, await took(program.kill('SIGTERM')))
    stream.destroy()
  })
}
