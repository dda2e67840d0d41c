/** Disks and pipes that hang: what the programs write to and read from beside the network may stall, the tunnel may not. */
import { once } from 'node:events'
import fs from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { connect } from 'node:net'
import t from 'tap'
import { deploy } from '../support/deployment.js'
import { until } from '../support/child-process.js'
import { echoTarget } from '../support/targets.js'
import { echo, figure, took } from './traffic.js'

/** More than the log's buffer (1 MiB), the kernel's, and what the reader has taken already. */
const LOGGED_BYTES = 3 << 20
/** Of a request that is refused, and logged with its method. */
const METHOD = 'X'.repeat(200)
const AT_ONCE = 50

t.test('a server whose log nobody reads serves on, and closes when it is told to', async t => {
  const { dial, server, fronts } = await deploy(t, { processes: true, front: 'plain' })
  const target = await echoTarget(t)
  const talk = echo(await dial(target.addr))
  await until('it talks', () => talk.rounds() > 2)
  const front = fronts['demo'] as { host: string; port: number }
  const refused = async (): Promise<void> => {
    const socket = connect(front).on('error', () => {})
    socket.end(`${METHOD} / HTTP/1.1\r\nHost: a\r\n\r\n`)
    await once(socket.resume(), 'close')
  }

  const before = server.log().length
  for (let at = 0; at < AT_ONCE; at++) await refused()
  await until('it is logged', () => server.log().length > before + AT_ONCE * 200)
  const lineBytes = (server.log().length - before) / AT_ONCE
  const readAgain = server.stopReading()
  t.teardown(readAgain)
  for (let said = 0; said < LOGGED_BYTES; said += AT_ONCE * lineBytes)
    await Promise.all([...Array(AT_ONCE)].map(refused))

  const rounds = talk.rounds()
  await until('the old stream goes on', () => talk.rounds() > rounds + 10)
  await talk.stop()
  const dialMs = await took(async () => echo(await dial(target.addr)).stop())
  figure(t, 'log not read: a dial, one round, ms', dialMs)

  // The last lines are waited for: nobody is served any more, and the process ends when they are taken (or by SIGKILL).
  const gone = server.kill('SIGTERM')
  await until('it has closed', async () =>
    dial(target.addr).then(
      stream => {
        stream.destroy()
        return false
      },
      () => true
    )
  )
  readAgain()
  figure(t, 'log read again: ended ms after', await took(gone))
})

t.test('certificates on a disk that hangs stay those that were read, and the tunnel serves on', async t => {
  const { dial, pki, server, clients } = await deploy(t, {})
  const target = await echoTarget(t)
  const talk = echo(await dial(target.addr))
  await until('it talks', () => talk.rounds() > 2)
  const realOpen = fs.open
  let hanging = 0
  let resumeReading = (): void => {}
  const resumed = new Promise<void>(resolve => (resumeReading = resolve))
  const heal = (): void => {
    fs.open = realOpen
    syncBuiltinESMExports()
    resumeReading()
  }
  t.teardown(heal)
  fs.open = async (...args) => {
    hanging += 1
    await resumed
    return realOpen(...args)
  }
  syncBuiltinESMExports()

  const now = new Date()
  for (const file of ['server.crt', 'client-demo.crt']) await fs.utimes(pki(file), now, now)
  await until('somebody reads', () => hanging > 0)
  const rounds = talk.rounds()
  await until('the old stream goes on', () => talk.rounds() > rounds + 10)
  await talk.stop()
  await echo(await dial(target.addr)).stop()

  t.notMatch(server.log() + clients[0]!.log(), /certificate (not )?reloaded/)
  heal()
})
