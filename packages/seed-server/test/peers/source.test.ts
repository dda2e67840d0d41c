import t from 'tap'
import { createLog } from '@tendril/common/log'
import { dnsSource, staticSource } from '../../src/peers/source.js'
import { FakeClock } from '@tendril/common/test/support/fake-clock'

const settled = () => new Promise(resolve => setImmediate(resolve))

t.test('a list is told as it is, once', async t => {
  const reported: unknown[] = []
  const source = staticSource(['a:1', 'b:2'])
  source.start(
    addresses => reported.push(addresses),
    () => t.fail('a list cannot fail')
  )
  await source.leave()
  await source.stop()

  t.same(reported, [['a:1', 'b:2']])
})

t.test('a name is looked up again and again, and what is known outlives failures', async t => {
  const clock = new FakeClock()
  const lines: string[] = []
  const log = createLog({ level: 'info', format: 'json', destination: { write: line => lines.push(line) } })
  const answers: (string[] | Error)[] = [
    ['10.0.0.2', '10.0.0.1'],
    new Error('servers are silent'),
    new Error('servers are silent'),
    ['10.0.0.2', 'fd00::3'],
    []
  ]
  const asked: string[] = []
  const reported: string[] = []
  const source = dnsSource({
    host: 'seed.garden.svc',
    port: 8443,
    clock,
    log,
    resolve: async name => {
      asked.push(name)
      const answer = answers.shift() ?? []
      if (answer instanceof Error) throw answer
      return answer
    }
  })

  let failures = 0
  source.start(
    addresses => reported.push(addresses.join(' ')),
    () => failures++
  )
  for (let round = 0; round < 4; round++) {
    await settled()
    clock.tick(1_999)
    await settled()
    t.equal(asked.length, round + 1, 'not before its time')
    clock.tick(1)
  }
  await settled()

  t.same(reported, ['10.0.0.1:8443 10.0.0.2:8443', '10.0.0.2:8443 [fd00::3]:8443', ''])
  t.equal(lines.length, 1, 'a failure is said once')
  t.equal(failures, 2)
  t.match(lines[0], /servers are silent/)
  await source.stop()
  await source.stop()
  t.equal(clock.pending, 0)
})

t.test('an answer that comes after the end is told to nobody', async t => {
  const clock = new FakeClock()
  const log = createLog({ level: 'silent' })
  let answer = (_addresses: string[]): void => {}
  const source = dnsSource({
    host: 'a',
    port: 1,
    clock,
    log,
    resolve: () => new Promise(resolve => (answer = resolve))
  })
  source.start(
    () => t.fail('told'),
    () => t.fail('failed')
  )

  await source.stop()
  answer(['10.0.0.1'])
  await settled()

  t.equal(clock.pending, 0)
})
