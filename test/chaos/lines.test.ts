/** Lines that are replaced on purpose, lines beside each other, and a machine that misbehaves: clock, descriptors. */
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import t from 'tap'
import { deploy } from '../support/deployment.js'
import { requireTool, until } from '../support/child-process.js'
import { echoTarget } from '../support/targets.js'
import { type NetworkPath, networkPath } from './network-path.js'
import { echo, figure, logged } from './traffic.js'

t.test('a connection is replaced before maxConnectionAge, and no stream notices', async t => {
  const state: { relay?: NetworkPath } = {}
  const { dial, clients, server } = await deploy(t, {
    before: async tunnel => (state.relay = await networkPath(t, tunnel)),
    shoot: settings => ({ ...settings, maxConnectionAge: '600ms' })
  })
  const relay = state.relay!
  const talk = echo(await dial((await echoTarget(t)).addr), 4_096, 1)

  await until('five connections followed each other', () => relay.accepted >= 6)
  await talk.stop()

  t.same(logged(clients[0]!.log(), 'link down, dialling again'), [], 'it was never down')
  t.same(logged(server.log(), 'link down, waiting'), [])
  await until('older ones are closed', () => relay.open <= 2)
  figure(
    t,
    'connections replaced / slowest echo ms',
    `${relay.accepted - 1} / ${Math.round(talk.slowestMs())}`
  )
})

t.test('connections: 2 makes two links, and streams spread over them', async t => {
  const state: { relay?: NetworkPath } = {}
  const { dial, clients } = await deploy(t, {
    before: async tunnel => (state.relay = await networkPath(t, tunnel)),
    shoot: settings => ({ ...settings, connections: 2 })
  })
  const relay = state.relay!
  await until('both links are up', () => logged(clients[0]!.log(), 'link up').length === 2)
  t.equal(relay.accepted, 2)
  const target = await echoTarget(t)

  const talks = await Promise.all([...Array(8)].map(async () => echo(await dial(target.addr))))
  await until('they talk', () => talks.every(talk => talk.rounds() > 3))
  // Both are cut: each link resumes on its own.
  relay.cut()
  await until('both are back', () => logged(clients[0]!.log(), 'link resumed').length === 2)
  for (const talk of talks) await talk.stop()

  const waiting = logged(clients[0]!.log(), 'link down, dialling again').map(({ streams }) => Number(streams))
  t.equal(
    waiting.reduce((sum, streams) => sum + streams, 0),
    8
  )
  t.ok(Math.max(...waiting) < 8, `streams per link: ${waiting.join(', ')}`)
})

t.test('a wall clock that jumps an hour changes nothing', async t => {
  const { dial, clients } = await deploy(t, {})
  const talk = echo(await dial((await echoTarget(t)).addr))
  await until('it talks', () => talk.rounds() > 2)
  const realNow = Date.now
  t.teardown(() => (Date.now = realNow))

  for (const jumpMs of [3_600_000, -3_600_000]) {
    Date.now = () => realNow() + jumpMs
    const before = talk.rounds()
    await until('it still talks', () => talk.rounds() > before + 10)
  }
  Date.now = realNow
  await talk.stop()

  t.same(logged(clients[0]!.log(), 'link down, dialling again'), [])
})

t.test('a server out of file descriptors keeps what it has, and recovers', async t => {
  if (!requireTool(t, 'prlimit')) return
  const { dial, server } = await deploy(t, { processes: true })
  const target = await echoTarget(t)
  const talk = echo(await dial(target.addr))
  await until('it talks', () => talk.rounds() > 2)

  const used = readdirSync(`/proc/${server.pid}/fd`).length
  const limit = (files: number): void => {
    const { status } = spawnSync('prlimit', ['--pid', String(server.pid), `--nofile=${files}:4096`])
    t.equal(status, 0)
  }
  limit(used + 40)
  const results = await Promise.allSettled([...Array(100)].map(() => dial(target.addr)))
  const open = results.flatMap(result => (result.status === 'fulfilled' ? [result.value] : []))
  const before = talk.rounds()
  await until('the old stream goes on', () => talk.rounds() > before + 5)
  t.ok(open.length > 10 && open.length < 60, `${open.length} of 100 dials were served`)
  for (const stream of open) stream.on('error', () => {}).destroy()
  await talk.stop()

  await until('new dials work again', async () => {
    try {
      await echo(await dial(target.addr)).stop()
      return true
    } catch {
      return false
    }
  })
})
