import t from 'tap'
import { TunnelError } from '../src/errors.js'
import { createLog, textLine } from '../src/log.js'
import { LOG_LIST_LIMIT, LOG_TEXT_LIMIT } from '../src/log-text.js'

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

  const [known, plain, untrusted] = lines.map(line => JSON.parse(line).err)
  t.same(known, { code: 'TARGET_REFUSED', message: 'connection refused: 10.0.0.1:80', cause: 'ECONNREFUSED' })
  t.same(plain, { code: 'DRAINING', message: 'draining' })
  t.match(untrusted, { type: 'RangeError', message: 'oops', stack: /log\.test/ })
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

/** Right-to-left override, isolate, mark, Arabic letter mark; zero width; line separators; a tag; C1; DEL. */
const INVISIBLE = '\u202e\u2066\u200f\u061c\u200b\u200d\u2060\ufeff\u2028\u2029\u{e0041}\u009b\u007f'

t.test('no text turns a line around or hides in it: in JSON and as text', async t => {
  for (const format of ['json', 'text'] as const) {
    const { lines, destination } = memory()
    const log = createLog({ destination, format }).child({ client: `c${INVISIBLE}` })

    log.info({ reason: `r${INVISIBLE}`, list: [INVISIBLE] }, `m${INVISIBLE}`)
    log.warn({ err: new TunnelError('BAD_REQUEST', INVISIBLE, { cause: new Error(INVISIBLE) }) }, 'no')
    log.error({ err: new Error(INVISIBLE) }, 'no')

    t.equal(lines.length, 3)
    for (const line of lines) t.notMatch(line.slice(0, -1), /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u, format)
    if (format === 'json')
      t.equal(JSON.parse(lines[0]!).reason, `r${INVISIBLE}`, 'and JSON reads what was said')
    else t.match(lines[0], 'reason="r\\u202e\\u2066')
  }
})

t.test('long text and long lists are cut, and what is missing is told', async t => {
  const { lines, destination } = memory()
  const log = createLog({ destination })
  const long = 'x'.repeat(LOG_TEXT_LIMIT + 1)

  log.info({ edge: long.slice(1), long, list: Array(LOG_LIST_LIMIT + 2).fill(long) }, 'a')
  log.warn({ err: new TunnelError('BAD_REQUEST', long, { cause: new Error(long) }) }, 'b')
  log.error({ err: new Error('y'.repeat(100_000)) }, 'c')

  const [fields, known, unexpected] = lines.map(line => JSON.parse(line))
  t.equal(fields.edge, long.slice(1))
  t.equal(fields.long, `${long.slice(1)}… (1 more)`)
  t.equal(fields.list.length, LOG_LIST_LIMIT + 1)
  t.equal(fields.list.at(-1), '… (2 more)')
  t.ok(known.err.message.length < LOG_TEXT_LIMIT + 20)
  t.equal(known.err.cause, `${long.slice(1)}… (1 more)`)
  t.ok(lines[2]!.length < 10_000)
  t.match(unexpected.err, { type: 'Error' })
})
