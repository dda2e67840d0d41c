import t from 'tap'
import { AnswerError, type ConnectAnswer, ConnectAnswerParser } from '../../src/transport/connect-answer.js'

/** Feeds a text in pieces of a size, by default whole. */
function read(text: string, size = text.length, limit = 16_384): ConnectAnswer | undefined {
  const parser = new ConnectAnswerParser(limit)
  const bytes = Buffer.from(text, 'latin1')
  for (let at = 0; at < bytes.length; at += size) {
    const answer = parser.feed(bytes.subarray(at, at + size))
    if (answer) return { ...answer, rest: Buffer.concat([answer.rest, bytes.subarray(at + size)]) }
  }
  return undefined
}

t.test('only the final status line and the end of its header decide', async t => {
  const accepted: [string, string][] = [
    ['HTTP/1.1 200 OK\r\n\r\n', 'plain'],
    ['HTTP/1.0 200 Connection established\r\n\r\n', 'HTTP/1.0'],
    ['HTTP/1.1 200\r\n\r\n', 'no reason'],
    ['HTTP/1.1 200 \r\n\r\n', 'an empty reason'],
    ['HTTP/1.1 204 No Content\r\n\r\n', 'any 2xx'],
    ['HTTP/1.1 200 OK\n\n', 'LF alone (RFC 9112 section 2.2)'],
    ['HTTP/1.1 200 OK\r\nA: b\n\r\n', 'mixed line ends'],
    ['\r\n\r\nHTTP/1.1 200 OK\r\n\r\n', 'empty lines before it (RFC 9112 section 2.2)'],
    ['HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n', 'an interim answer (RFC 9110 section 15.2)'],
    [
      'HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\n\r\n',
      'two of them'
    ],
    [
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n',
      'both lengths (section 9.3.6)'
    ],
    ['HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n', 'two lengths'],
    ['HTTP/1.1 200 OK\r\nContent-Length: x\r\nTransfer-Encoding: nonsense\r\n\r\n', 'lengths that are none'],
    ['HTTP/1.1 200 OK\r\nA: b\r\n  folded\r\n\t\r\n \r\n\r\n', 'folded lines (RFC 9112 section 5.2)'],
    ['HTTP/1.1 200 OK\r\nno colon\r\n: no name\r\nA : b\r\nB:\0\x7f\xff\r\n\r\n', 'lines that are no fields'],
    ['HTTP/1.1 200 OK\r\nConnection: close\r\nUpgrade: x\r\n\r\n', 'close and upgrade']
  ]
  for (const [text, what] of accepted) {
    for (const size of [1, 2, 3, 7, text.length + 6]) {
      const answer = read(`${text}\x16\x03\n\r\n!`, size)
      t.ok(answer && answer.status >= 200 && answer.status < 300, `${what}, in pieces of ${size}`)
      t.equal(answer?.rest.toString('latin1'), '\x16\x03\n\r\n!', 'the bytes behind it are the tunnel’s')
    }
  }
})

t.test('a refusal keeps its status and its sentence', async t => {
  t.match(read('HTTP/1.1 407 Log in with your badge\r\nProxy-Authenticate: Basic\r\n\r\n'), {
    status: 407,
    reason: 'Log in with your badge'
  })
  t.match(read('HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503\r\n\r\n'), { status: 503, reason: '' })
  t.match(read('HTTP/1.1 101 Switching Protocols\r\n\r\n'), { status: 101 }, '101 is final')
})

t.test('what is no HTTP is known at once, and a header without end at its limit', async t => {
  for (const text of [
    'SSH-2.0',
    'HTTX',
    'HTTP/2 200\r\n',
    'HTTP/1.1 20\r\n',
    'HTTP/1.1 2000 x\r\n',
    ' HTTP/1.1 200\r\n',
    '\r\r\n',
    '\x15\x03'
  ])
    t.throws(() => read(text), { name: 'AnswerError', kind: 'garbage' }, JSON.stringify(text))
  t.equal(read('HTTP/1.1 200 OK\r\nA: b'), undefined, 'more is needed')
  t.equal(read('HTTP/'), undefined)

  const limit = 100
  const ofLength = (bytes: number) => `HTTP/1.1 200 OK\r\nA: ${'x'.repeat(bytes - 24)}\r\n\r\n`
  for (const [bytes, fits] of [
    [99, true],
    [100, true],
    [101, false]
  ] as const) {
    t.equal(ofLength(bytes).length, bytes)
    if (fits) t.ok(read(ofLength(bytes), bytes, limit))
    else t.throws(() => read(ofLength(bytes), bytes, limit), new AnswerError('overflow'))
  }
  t.throws(
    () => read('HTTP/1.1 100 C\r\n\r\n'.repeat(6), 1, limit),
    new AnswerError('overflow'),
    'interim ones count'
  )
  t.throws(() => read('\r\n'.repeat(51), 1, limit), new AnswerError('overflow'), 'empty lines count')
})
