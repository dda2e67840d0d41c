import t from 'tap'
import { TunnelError } from '../src/errors.js'
import { createLog, textLine } from '../src/log.js'

function memory(): { lines: string[]; destination: { write(line: string): void } } {
  const lines: string[] = []
  return { lines, destination: { write: line => void lines.push(line) } }
}

t.test('a machine gets one JSON object per line, with a level in words and an ISO time', async t => {
  const { lines, destination } = memory()
  const log = createLog({ destination })

  log.child({ client: 'c1' }).info({ attempt: 2 }, 'link down, dialling again')
  log.debug('not said')

  t.equal(lines.length, 1)
  const line = JSON.parse(lines[0] ?? '')
  t.match(line, { level: 'info', client: 'c1', attempt: 2, msg: 'link down, dialling again' })
  t.match(line.time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
  t.same(Object.keys(line).sort(), ['attempt', 'client', 'level', 'msg', 'time'])
})

t.test('errors of the table are told by code, sentence and cause; only strangers bring a stack', async t => {
  const { lines, destination } = memory()
  const log = createLog({ destination })

  log.warn(
    { err: new TunnelError('TARGET_REFUSED', '10.0.0.1:80', { cause: new Error('ECONNREFUSED') }) },
    'no'
  )
  log.warn({ err: new TunnelError('DRAINING') }, 'no')
  log.error({ err: new RangeError('oops') }, 'no')

  const [known, plain, stranger] = lines.map(line => JSON.parse(line).err)
  t.same(known, { code: 'TARGET_REFUSED', message: 'connection refused: 10.0.0.1:80', cause: 'ECONNREFUSED' })
  t.same(plain, { code: 'DRAINING', message: 'draining' })
  t.match(stranger, { type: 'RangeError', message: 'oops', stack: /log\.test/ })
})

t.test('keys, tokens and the like are never written', async t => {
  const { lines, destination } = memory()
  const log = createLog({ destination })

  log.info(
    {
      key: 'geheim',
      tls: { key: 'geheim' },
      headers: { authorization: 'geheim', 'proxy-authorization': 'geheim' }
    },
    'a'
  )
  log.info({ options: { tls: { key: 'geheim', token: 'geheim' } } }, 'b')

  t.notMatch(lines.join(''), /geheim/)
  t.match(lines[0], /\*\*\*/)
})

t.test('people get short lines', async t => {
  const { lines, destination } = memory()

  createLog({ destination, format: 'text' }).warn(
    { cluster: 'demo', delayMs: 20, reason: 'it is late', list: [1] },
    'link down'
  )

  t.match(
    lines[0],
    /^\d\d:\d\d:\d\d warn {2}link down {2}cluster=demo delayMs=20 reason="it is late" list=\[1\]\n$/
  )
})

t.test('whoever chose the text, a line stays one line and moves no cursor', async t => {
  const json = JSON.stringify({
    level: 'info',
    time: '2026-01-02T03:04:05.678Z',
    msg: 'a\nb\u001b[2J',
    name: 'x\u001b[1m\u009b2J',
    host: 'a\nb'
  })

  t.equal(textLine(json), '03:04:05 info  a b [2J  name=x [1m 2J host="a\\nb"\n')
})
