import t from 'tap'
import { type ErrorCode, TunnelError, errorCodeOf, errors } from '../src/errors.js'

const codes = Object.keys(errors) as ErrorCode[]

t.test('every row has a number of its own that fits the wire, the WebSocket close code and back', async t => {
  const numbers = codes.map(code => errors[code].reset as number)

  t.equal(new Set(numbers).size, codes.length)
  for (const code of codes) {
    const { reset, httpStatus, message } = errors[code]
    t.ok(reset >= 0 && reset < 1000, `${code}: 4000 + ${reset} is a private close code`)
    t.equal(errorCodeOf(reset), code)
    t.ok(httpStatus >= 400 && httpStatus < 600, `${code}: ${httpStatus}`)
    t.match(message, /^[\x20-\x7e]+$/, `${code} fits a status line`)
  }
})

t.test('a number nobody knows reads as an internal error', async t => {
  t.equal(errorCodeOf(999), 'INTERNAL')
  t.equal(errorCodeOf(0xffff), 'INTERNAL')
})

t.test('an error carries its row, and its detail goes on with the sentence', async t => {
  const error = new TunnelError('NO_CLIENT', 'for cluster demo')

  t.equal(error.message, 'no client connected for cluster demo')
  t.match(error, { name: 'TunnelError', code: 'NO_CLIENT', httpStatus: 503, reset: 32, retryable: true })
  t.equal(new TunnelError('TARGET_DENIED', '10.0.0.1').message, 'target denied: 10.0.0.1')
  t.equal(new TunnelError('TARGET_DENIED').message, 'target denied')
})

t.test('from wraps what is foreign, once, and keeps the cause', async t => {
  const ours = new TunnelError('DIAL_TIMEOUT')
  const theirs = new Error('ECONNREFUSED')

  t.equal(TunnelError.from(ours, 'TARGET_REFUSED'), ours)
  t.match(TunnelError.from(theirs, 'TARGET_REFUSED'), {
    code: 'TARGET_REFUSED',
    detail: 'ECONNREFUSED',
    cause: theirs
  })
  t.match(TunnelError.from('text'), { code: 'INTERNAL', detail: 'text' })
})
