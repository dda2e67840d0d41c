import fc from 'fast-check'
import t from 'tap'
import { TunnelError } from '../../src/errors.js'
import { formatHostPort, HOST_LIMIT, parseHostPort } from '../../src/wire/host-port.js'

const label = 'a'.repeat(62)
const longest = `${label}.${label}.${label}.${label}.${'b'.repeat(3)}`

const good: [text: string, host: string, port: number][] = [
  ['10.0.0.5:10250', '10.0.0.5', 10250],
  ['[2001:db8::5]:10250', '2001:db8::5', 10250],
  ['[2001:DB8::5]:1', '2001:DB8::5', 1],
  ['[::ffff:127.0.0.1]:443', '::ffff:127.0.0.1', 443],
  ['node-1:10250', 'node-1', 10250],
  ['Metrics_Server.kube-system.svc:443', 'Metrics_Server.kube-system.svc', 443],
  ['example.com.:65535', 'example.com.', 65535],
  ['1a.example:80', '1a.example', 80],
  ['0x7f.example:80', '0x7f.example', 80],
  ['xn--bcher-kva.example:80', 'xn--bcher-kva.example', 80],
  [`${longest}:65535`, longest, 65535]
]

const refused: [text: string, why: RegExp][] = [
  ['', /no port/],
  ['10.0.0.5', /no port/],
  ['example.com', /no port/],
  ['[::1]', /no port/],
  ['[::1', /no port/],
  ['[::1]10250', /no port/],
  ['10.0.0.5:', /port from 1 to 65535/],
  ['10.0.0.5:0', /port from 1 to 65535/],
  ['10.0.0.5:65536', /port from 1 to 65535/],
  ['10.0.0.5:99999999999999999999', /port from 1 to 65535/],
  ['10.0.0.5:080', /port from 1 to 65535/],
  ['10.0.0.5:+80', /port from 1 to 65535/],
  ['10.0.0.5:8e1', /port from 1 to 65535/],
  ['10.0.0.5: 80', /port from 1 to 65535/],
  ['10.0.0.5:http', /port from 1 to 65535/],
  [':80', /no host/],
  ['[]:80', /no IPv6 address/],
  ['[10.0.0.5]:80', /no IPv6 address/],
  ['[example.com]:80', /no IPv6 address/],
  ['[fe80::1%eth0]:80', /zone id/],
  ['[fe80::1%25eth0]:80', /zone id/],
  ['[::1]]:80', /no IPv6 address/],
  ['::1:80', /brackets/],
  ['2001:db8::5:10250', /brackets/],
  ['user@10.0.0.5:80', /user information/],
  ['user:pw@10.0.0.5:80', /user information/],
  ['http://10.0.0.5:80', /brackets|host name/],
  ['10.0.0.5/x:80', /host name/],
  ['exa mple:80', /host name/],
  ['ex\u0000ample:80', /host name/],
  ['bücher.example:80', /host name/],
  ['.example:80', /host name/],
  ['a..b:80', /host name/],
  ['.:80', /host name/],
  ['*:80', /host name/],
  ['127.1:80', /four decimal numbers/],
  ['2130706433:80', /four decimal numbers/],
  ['0x7f000001:80', /four decimal numbers/],
  ['0X7F.1:80', /four decimal numbers/],
  ['0x:80', /four decimal numbers/],
  ['0177.0.0.1:80', /four decimal numbers/],
  ['127.0.0.01:80', /four decimal numbers/],
  ['256.0.0.1:80', /four decimal numbers/],
  ['1.2.3.4.5:80', /four decimal numbers/],
  ['127.0.0.1.:80', /four decimal numbers/],
  ['example.1:80', /four decimal numbers/],
  [`${'a'.repeat(HOST_LIMIT + 1)}:80`, /longer than 255/]
]

t.test('well formed authorities are split and put together again', async t => {
  for (const [text, host, port] of good) {
    const authority = parseHostPort(text)

    t.same(authority, { host, port }, text)
    t.equal(formatHostPort(authority), text)
  }
  t.equal(longest.length, HOST_LIMIT)
})

t.test('everything else is a bad target that says why', async t => {
  for (const [text, why] of refused) {
    t.throws(() => parseHostPort(text), { code: 'BAD_TARGET', message: why }, JSON.stringify(text))
  }
})

t.test('a long refused target is cut in the sentence', async t => {
  try {
    parseHostPort('/'.repeat(100_000) + ':80')
    t.fail('was accepted')
  } catch (error) {
    t.ok(error instanceof TunnelError && error.message.length < 200)
  }
})

t.test('any text is either refused as a bad target or means the same when written again', async () => {
  const piece = fc.constantFrom(
    '[',
    ']',
    ':',
    '.',
    '%',
    '@',
    '0',
    '1',
    '127',
    '0x7f',
    'a',
    '::',
    '-',
    '/',
    ' ',
    '80'
  )
  const texts = fc.oneof(
    fc.string(),
    fc.array(piece, { maxLength: 12 }).map(parts => parts.join(''))
  )

  fc.assert(
    fc.property(texts, text => {
      try {
        const authority = parseHostPort(text)
        return formatHostPort(authority) === text
      } catch (error) {
        return error instanceof TunnelError && error.code === 'BAD_TARGET'
      }
    }),
    { numRuns: 5_000 }
  )
})
