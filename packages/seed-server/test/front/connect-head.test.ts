import fc from 'fast-check'
import t from 'tap'
import { TunnelError } from '@tendril/common'
import { type ConnectHead, ConnectParser, HEADER_LIMIT_BYTES } from '../../src/front/connect-head.js'

const apiserver = 'CONNECT 10.0.0.5:10250 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n'

function parse(text: string, limitBytes?: number): ConnectHead | undefined {
  return new ConnectParser(limitBytes).feed(Buffer.from(text, 'latin1'))
}

const accepted: [name: string, text: string, host: string, port: number, headers: number, rest: string][] = [
  ['the request of kube-apiserver', apiserver, '10.0.0.5', 10250, 1, ''],
  [
    'an IPv6 target',
    'CONNECT [2001:db8::5]:10250 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n',
    '2001:db8::5',
    10250,
    1,
    ''
  ],
  ['a name', 'CONNECT node-1.example:443 HTTP/1.1\r\nHost: x\r\n\r\n', 'node-1.example', 443, 1, ''],
  ['HTTP/1.0 without any field', 'CONNECT a:1 HTTP/1.0\r\n\r\n', 'a', 1, 0, ''],
  ['HTTP/1.1 without Host, which nobody would look at', 'CONNECT a:1 HTTP/1.1\r\n\r\n', 'a', 1, 0, ''],
  ['a Host that names another target', 'CONNECT a:1 HTTP/1.1\r\nHost: b:2\r\n\r\n', 'a', 1, 1, ''],
  ['bytes behind the head', `${apiserver}\x16\x03\x01\r\n`, '10.0.0.5', 10250, 1, '\x16\x03\x01\r\n'],
  ['one empty line in front', `\r\n${apiserver}`, '10.0.0.5', 10250, 1, ''],
  ['fields with odd but lawful values', 'CONNECT a:1 HTTP/1.1\r\nX:\r\nY: \t v \xfc \r\n\r\n', 'a', 1, 2, ''],
  ['a content of no length', 'CONNECT a:1 HTTP/1.1\r\nContent-Length: 0\r\n\r\n', 'a', 1, 1, ''],
  ['a 255 character host', `CONNECT ${'a'.repeat(255)}:65535 HTTP/1.1\r\n\r\n`, 'a'.repeat(255), 65535, 0, '']
]

const refused: [name: string, text: string, code: string, why: RegExp][] = [
  ['GET', 'GET / HTTP/1.1\r\n', 'NOT_CONNECT', /not GET/],
  ['a method that is only nearly CONNECT', 'connect a:1 HTTP/1.1\r\n', 'NOT_CONNECT', /not connect/],
  ['GET with a whole URL', 'GET http://a/ HTTP/1.1\r\n', 'NOT_CONNECT', /not GET/],
  ['a TLS hello', '\x16', 'BAD_REQUEST', /looks like TLS, but this front is plain/],
  ['the preface of HTTP/2', 'PRI * HTTP/2.0\r\n', 'BAD_REQUEST', /HTTP\/2 is not spoken/],
  ['HTTP/0.9', 'CONNECT a:1\r\n', 'BAD_REQUEST', /request line/],
  ['a version that is none', 'CONNECT a:1 HTTP/1.10\r\n', 'BAD_REQUEST', /request line/],
  ['a lower case version', 'CONNECT a:1 http/1.1\r\n', 'BAD_REQUEST', /request line/],
  ['two spaces', 'CONNECT  a:1 HTTP/1.1\r\n', 'BAD_REQUEST', /request line/],
  ['a tab for a space', 'CONNECT\ta:1 HTTP/1.1\r\n', 'BAD_REQUEST', /request line/],
  ['a space at the end', 'CONNECT a:1 HTTP/1.1 \r\n', 'BAD_REQUEST', /request line/],
  ['two empty lines in front', '\r\n\r\nCONNECT a:1 HTTP/1.1\r\n', 'BAD_REQUEST', /request line/],
  ['a bare LF', 'CONNECT a:1 HTTP/1.1\n', 'BAD_REQUEST', /CR LF/],
  ['a bare LF in the fields', 'CONNECT a:1 HTTP/1.1\r\nX: y\n', 'BAD_REQUEST', /CR LF/],
  ['a bare CR', 'CONNECT a:1 HTTP/1.1\r\nX: y\rZ: q\r\n', 'BAD_REQUEST', /CR stands alone/],
  ['a NUL', 'CONNECT a\0:1 HTTP/1.1', 'BAD_REQUEST', /control characters/],
  ['a NUL in a value', 'CONNECT a:1 HTTP/1.1\r\nX: \0', 'BAD_REQUEST', /control characters/],
  ['a DEL', 'CONNECT a:1 HTTP/1.1\r\nX: \x7f', 'BAD_REQUEST', /control characters/],
  ['random bytes', '\x9d\x01\xfe\x80', 'BAD_REQUEST', /control characters/],
  ['a folded line', 'CONNECT a:1 HTTP/1.1\r\nX: y\r\n z\r\n', 'BAD_REQUEST', /begins with a space/],
  ['a space before the colon', 'CONNECT a:1 HTTP/1.1\r\nX : y\r\n', 'BAD_REQUEST', /name: value/],
  ['a field without a name', 'CONNECT a:1 HTTP/1.1\r\n: y\r\n', 'BAD_REQUEST', /name: value/],
  ['a field without a colon', 'CONNECT a:1 HTTP/1.1\r\nX\r\n', 'BAD_REQUEST', /name: value/],
  ['a field with a strange name', 'CONNECT a:1 HTTP/1.1\r\nX(1): y\r\n', 'BAD_REQUEST', /name: value/],
  ['a content', 'CONNECT a:1 HTTP/1.1\r\nContent-Length: 5\r\n', 'BAD_REQUEST', /no content/],
  ['a nonsense length', 'CONNECT a:1 HTTP/1.1\r\nContent-Length: 0, 5\r\n', 'BAD_REQUEST', /no content/],
  ['chunks', 'CONNECT a:1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n', 'BAD_REQUEST', /no content/],
  ['a target without a port', 'CONNECT a HTTP/1.1\r\n', 'BAD_TARGET', /no port/],
  ['a whole URL as target', 'CONNECT http://a:1/ HTTP/1.1\r\n', 'BAD_TARGET', /./],
  ['user information', 'CONNECT u:p@a:1 HTTP/1.1\r\n', 'BAD_TARGET', /user information/]
]

t.test('requests that are understood', async t => {
  for (const [name, text, host, port, headers, rest] of accepted) {
    const head = parse(text)

    t.same(head?.target, { proto: 'tcp', host, port }, name)
    t.equal(head?.headers, headers)
    t.equal(head?.rest.toString('latin1'), rest)
  }
})

t.test('requests that are refused, as soon as the bytes show it', async t => {
  for (const [name, text, code, why] of refused) {
    t.throws(() => parse(text), { code, message: why }, name)
  }
})

t.test('a request cut at any place is read the same', async t => {
  for (const [name, text, host, port, headers, rest] of accepted) {
    const bytes = Buffer.from(text, 'latin1')
    const end = bytes.length - rest.length
    for (let cut = 1; cut < end; cut++) {
      const parser = new ConnectParser()
      if (parser.feed(bytes.subarray(0, cut)) !== undefined) t.fail(`${name}: done at ${cut}`)
      const head = parser.feed(bytes.subarray(cut))
      if (head?.target.host !== host || head.target.port !== port) t.fail(`${name}: cut at ${cut}`)
      if (head?.headers !== headers || head.rest.toString('latin1') !== rest) t.fail(`${name}: cut at ${cut}`)
    }
  }
})

t.test('a request is read byte by byte', async t => {
  const parser = new ConnectParser()

  const results = [...Buffer.from(apiserver)].map(byte => parser.feed(Buffer.of(byte)))

  t.equal(results.pop()?.target.host, '10.0.0.5')
  t.ok(results.every(result => result === undefined))
})

t.test('the head may have as many bytes as the limit, and not one more', async t => {
  const head = (bytes: number): string => {
    const start = 'CONNECT a:1 HTTP/1.1\r\nX: '
    return `${start}${'y'.repeat(bytes - start.length - 4)}\r\n\r\n`
  }
  const bytes = HEADER_LIMIT_BYTES

  t.equal(parse(`${head(bytes - 1)}rest`)?.rest.length, 4)
  t.equal(parse(`${head(bytes)}${'r'.repeat(100_000)}`)?.rest.length, 100_000, 'what follows does not count')
  t.throws(() => parse(head(bytes + 1)), { code: 'HEADER_TOO_LARGE', message: /at most 8192 bytes/ })
  t.throws(() => parse('A'.repeat(bytes + 1)), { code: 'HEADER_TOO_LARGE' })
  t.equal(parse('A'.repeat(bytes)), undefined)
  t.throws(() => parse(`CONNECT a:1 HTTP/1.1\r\n${'X: y\r\n'.repeat(5_000)}`), { code: 'HEADER_TOO_LARGE' })
})

t.test(
  'any bytes in any pieces end in a head, a TunnelError, or a wish for more within the limit',
  async () => {
    const word = fc.constantFrom(
      'CONNECT',
      ' ',
      'a:1',
      'HTTP/1.1',
      '\r\n',
      '\r',
      '\n',
      ':',
      'X: y',
      '\0',
      'é',
      '\x16'
    )
    const chunks = fc.array(
      fc.oneof(
        fc.uint8Array({ maxLength: 40 }).map(bytes => Buffer.from(bytes)),
        fc.array(word, { maxLength: 6 }).map(words => Buffer.from(words.join(''), 'latin1'))
      ),
      { maxLength: 12 }
    )

    fc.assert(
      fc.property(chunks, pieces => {
        const parser = new ConnectParser(100)
        let fed = 0
        try {
          for (const piece of pieces) {
            const head = parser.feed(piece)
            fed += piece.length
            if (head) return head.target.port === 1 && head.rest.length <= piece.length
          }
          return fed <= 100
        } catch (error) {
          return error instanceof TunnelError
        }
      }),
      { numRuns: 3_000 }
    )
  }
)

t.test('a URL instead of a target and two Host lines are refused in their own words', async t => {
  const feed = (text: string) => new ConnectParser().feed(Buffer.from(text))
  t.throws(() => feed('CONNECT http://10.0.0.5:80/ HTTP/1.1\r\n\r\n'), {
    code: 'BAD_TARGET',
    detail: 'CONNECT asks for host:port, not for a URL'
  })
  t.throws(() => feed('CONNECT a:1 HTTP/1.1\r\nHost: a\r\nX: y\r\nhOST: a\r\n\r\n'), {
    code: 'BAD_REQUEST',
    detail: 'there are two Host lines'
  })
  t.ok(feed('CONNECT a:1 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Host: b\r\n\r\n'))
})
