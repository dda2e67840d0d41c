import t from 'tap'
import { type LogLevel, createLog } from '../src/log.js'
import { CAUSE_LIMIT, LogLimiter } from '../src/log-limiter.js'
import { FakeClock } from './support/fake-clock.js'

function limited(level: LogLevel = 'info') {
  const lines: { level: string; msg: string; suppressed?: number }[] = []
  const log = createLog({ level, destination: { write: line => void lines.push(JSON.parse(line)) } })
  const clock = new FakeClock()
  const limiter = new LogLimiter({ burst: 3, everyMs: 60_000, clock })
  return { lines, clock, log, limiter, limitedLog: limiter.of(log) }
}

t.test('a few lines at once, then one per minute, which tells how many were left out', async t => {
  const { lines, clock, limitedLog } = limited()

  for (let count = 0; count < 10; count++) limitedLog.warn({ code: 'BAD_REQUEST', count }, 'refused')
  t.equal(lines.length, 3)
  clock.tick(59_999)
  limitedLog.warn({ code: 'BAD_REQUEST' }, 'refused')
  t.equal(lines.length, 3)
  clock.tick(1)
  limitedLog.warn({ code: 'BAD_REQUEST' }, 'refused')
  limitedLog.warn({ code: 'BAD_REQUEST' }, 'refused')

  t.equal(lines.length, 4)
  t.match(lines[3], { level: 'warn', msg: 'refused', suppressed: 8 })
  clock.tick(600_000)
  limitedLog.warn({ code: 'BAD_REQUEST' }, 'refused')
  t.equal(lines[4]?.suppressed, 1)
  limitedLog.warn({ code: 'BAD_REQUEST' }, 'refused')
  t.notOk('suppressed' in lines[5]!, 'nothing was left out')
})

t.test('one cause does not use up the lines of another: message, code, cluster, scope', async t => {
  const { lines, limiter, log, limitedLog } = limited()
  const flood = (write: () => void): void => {
    for (let count = 0; count < 5; count++) write()
  }

  flood(() => limitedLog.info({ code: 'A' }, 'refused'))
  flood(() => limitedLog.info({ err: { code: 'B' } }, 'refused'))
  flood(() => limitedLog.info({ code: 'A' }, 'dropped'))
  flood(() => limitedLog.info({ code: 'A', cluster: 'c' }, 'refused'))
  flood(() => limiter.of(log, 'scope').info({ code: 'A' }, 'refused'))
  t.equal(lines.length, 15)
  flood(() => limiter.of(log.child({ a: 1 })).info({ code: 'A', remote: '10.0.0.1' }, 'refused'))
  t.equal(lines.length, 15, 'neither another child nor another field makes a cause')
})

t.test('what is left out is written at debug', async t => {
  const { lines, limitedLog } = limited('debug')

  for (let count = 0; count < 5; count++) limitedLog.info({}, 'refused')

  t.same(
    lines.map(({ level }) => level),
    ['info', 'info', 'info', 'debug', 'debug']
  )
})

t.test('the table of causes is bounded: beyond it all are one', async t => {
  const { lines, limitedLog } = limited()
  for (let count = 0; count < CAUSE_LIMIT; count++) limitedLog.info({ code: count }, 'refused')
  t.equal(lines.length, CAUSE_LIMIT)

  for (let count = 0; count < 10; count++) limitedLog.info({ code: `more ${count}` }, 'refused')

  t.equal(lines.length, CAUSE_LIMIT + 3)
})
