import t from 'tap'
import { type ErrorCode, TunnelError, errors } from '@tendril/common'
import { ESTABLISHED, REASON_LIMIT, refusal } from '../../src/front/answer.js'

t.test('success is the bare header', async t => {
  t.equal(ESTABLISHED.toString(), 'HTTP/1.1 200 Connection established\r\n\r\n')
})

t.test('a refusal carries its cause in the status line, the fields and the body', async t => {
  const answer = refusal(new TunnelError('TARGET_REFUSED', '10.0.0.5:80')).toString()

  t.equal(
    answer,
    'HTTP/1.1 502 connection refused: 10.0.0.5:80\r\n' +
      'Content-Type: text/plain\r\n' +
      'Content-Length: 32\r\n' +
      'Connection: close\r\n' +
      'Proxy-Status: tendril; error=connection_refused; details="TARGET_REFUSED"\r\n' +
      '\r\n' +
      'connection refused: 10.0.0.5:80\n'
  )
})

t.test('a wrong method is told the right one, an unknown caller that there is something to show', async t => {
  t.match(refusal(new TunnelError('NOT_CONNECT')).toString(), /^HTTP\/1\.1 405 .*\r\nAllow: CONNECT\r\n/s)
  t.match(
    refusal(new TunnelError('NOT_IDENTIFIED')).toString(),
    /^HTTP\/1\.1 407 .*\r\nProxy-Authenticate: /s
  )
})

t.test('a detail can neither write header lines nor leave ASCII, and a long one is cut', async t => {
  const answer = refusal(
    new TunnelError('BAD_TARGET', `"a\r\nSet-Cookie: x\u0000é" ${'z'.repeat(10_000)}`)
  ).toString('latin1')
  const [head = '', body = ''] = answer.split('\r\n\r\n')
  const [statusLine = '', ...fields] = head.split('\r\n')

  t.match(statusLine, /^HTTP\/1\.1 400 bad target: "a Set-Cookie: x\?\?" z+$/)
  t.equal(statusLine.length, 'HTTP/1.1 400 '.length + REASON_LIMIT)
  t.equal(fields.length, 4)
  t.ok(fields.includes(`Content-Length: ${body.length}`))
})

t.test('every code of the table makes a whole answer', async t => {
  for (const code of Object.keys(errors) as ErrorCode[]) {
    t.match(
      refusal(new TunnelError(code)).toString(),
      /^HTTP\/1\.1 [45]\d\d [ -~]+\r\n([A-Za-z-]+: [ -~]+\r\n){4,5}\r\n[ -~]+\n$/,
      code
    )
  }
})
