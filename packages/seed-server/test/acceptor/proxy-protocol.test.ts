import fc from 'fast-check'
import t from 'tap'
import { TunnelError } from '@tendril/common'
import { PROXY_HEADER_LIMIT_BYTES, parseProxyHeader } from '../../src/acceptor/proxy-protocol.js'

const SIGNATURE = '0d0a0d0a000d0a515549540a'

/** A version 2 header of hex parts, its length filled in. */
function v2(command: string, family: string, rest = ''): Buffer {
  const length = (rest.length / 2).toString(16).padStart(4, '0')
  return Buffer.from(SIGNATURE + command + family + length + rest, 'hex')
}

const ipv4 = 'c0000207' + '7f000001' + 'dc04' + '01bb'
const ipv6 = '20010db8000000000000000000000005' + '00000000000000000000000000000001' + 'dc04' + '01bb'

const good: [name: string, header: Buffer, source: { host: string; port: number } | undefined][] = [
  [
    'v1 TCP4',
    Buffer.from('PROXY TCP4 192.0.2.7 127.0.0.1 56324 443\r\n'),
    { host: '192.0.2.7', port: 56324 }
  ],
  ['v1 TCP6', Buffer.from('PROXY TCP6 2001:db8::5 ::1 0 65535\r\n'), { host: '2001:db8::5', port: 0 }],
  ['v1 UNKNOWN', Buffer.from('PROXY UNKNOWN\r\n'), undefined],
  ['v1 UNKNOWN with more', Buffer.from('PROXY UNKNOWN ffff::1 whatever 1 2\r\n'), undefined],
  ['v1 of 107 bytes', Buffer.from(`PROXY UNKNOWN ${'x'.repeat(91)}\r\n`), undefined],
  ['v2 IPv4', v2('21', '11', ipv4), { host: '192.0.2.7', port: 56324 }],
  ['v2 IPv6', v2('21', '21', ipv6), { host: '2001:db8::5', port: 56324 }],
  ['v2 IPv4 with extensions', v2('21', '11', ipv4 + '030004aabbccdd'), { host: '192.0.2.7', port: 56324 }],
  ['v2 LOCAL', v2('20', '00'), undefined],
  ['v2 LOCAL with addresses', v2('20', '11', ipv4), undefined],
  ['v2 unspecified', v2('21', '00'), undefined],
  ['v2 unix', v2('21', '31', '00'.repeat(216)), undefined],
  ['v2 of 4095 bytes', v2('21', '11', ipv4 + '00'.repeat(4067)), { host: '192.0.2.7', port: 56324 }],
  ['v2 of 4096 bytes', v2('21', '11', ipv4 + '00'.repeat(4068)), { host: '192.0.2.7', port: 56324 }]
]

const refused: [name: string, bytes: Buffer, why: RegExp][] = [
  ['a TLS hello', Buffer.from([0x16, 3, 1]), /does not begin with one/],
  ['a request', Buffer.from('GET'), /does not begin with one/],
  ['PROXIES', Buffer.from('PROXI'), /does not begin with one/],
  ['a broken signature', Buffer.from('0d0a0d0a000d0a515549540b', 'hex'), /does not begin with one/],
  ['v1 of 108 bytes', Buffer.from(`PROXY UNKNOWN ${'x'.repeat(92)}\r\n`), /at most 107 bytes/],
  ['v1 without end', Buffer.from(`PROXY TCP4 ${'1'.repeat(100)}`), /at most 107 bytes/],
  ['v1 without family', Buffer.from('PROXY \r\n'), /family/],
  ['v1 UDP', Buffer.from('PROXY UDP4 192.0.2.7 127.0.0.1 1 2\r\n'), /family/],
  ['v1 mixed families', Buffer.from('PROXY TCP4 ::1 ::1 1 2\r\n'), /not TCP4/],
  ['v1 mixed families', Buffer.from('PROXY TCP6 1.2.3.4 ::1 1 2\r\n'), /not TCP6/],
  ['v1 octal', Buffer.from('PROXY TCP4 010.0.0.1 127.0.0.1 1 2\r\n'), /not TCP4/],
  ['v1 port', Buffer.from('PROXY TCP4 192.0.2.7 127.0.0.1 65536 2\r\n'), /ports/],
  ['v1 padded port', Buffer.from('PROXY TCP4 192.0.2.7 127.0.0.1 01 2\r\n'), /ports/],
  ['v1 without ports', Buffer.from('PROXY TCP4 192.0.2.7 127.0.0.1\r\n'), /ports/],
  ['v1 with more', Buffer.from('PROXY TCP4 192.0.2.7 127.0.0.1 1 2 3\r\n'), /goes on/],
  ['v1 two spaces', Buffer.from('PROXY  TCP4 192.0.2.7 127.0.0.1 1 2\r\n'), /family/],
  ['v2 version 1', v2('11', '11', ipv4), /version 1/],
  ['v2 command', v2('22', '11', ipv4), /command/],
  ['v2 UDP', v2('21', '12', ipv4), /family/],
  ['v2 cut addresses', v2('21', '11', ipv4.slice(2)), /cut off/],
  ['v2 cut IPv6 addresses', v2('21', '21', ipv4), /cut off/],
  [
    'v2 of 4097 bytes',
    v2('21', '11', ipv4 + '00'.repeat(4069)).subarray(0, 16),
    /at most 4096 bytes .*, not 4097/
  ]
]

t.test('headers that are understood, whatever follows them', async t => {
  for (const [name, header, source] of good) {
    t.same(parseProxyHeader(header), { source, bytes: header.length }, name)
    t.same(parseProxyHeader(Buffer.concat([header, Buffer.from('\x16\x03\r\n')])), {
      source,
      bytes: header.length
    })
    for (let cut = 0; cut < header.length; cut++) {
      if (parseProxyHeader(header.subarray(0, cut)) !== undefined) t.fail(`${name} cut at ${cut}`)
    }
  }
  t.equal(good.at(-1)![1].length, PROXY_HEADER_LIMIT_BYTES)
})

t.test('everything else is refused with the rule', async t => {
  for (const [name, bytes, why] of refused) {
    t.throws(() => parseProxyHeader(bytes), { code: 'BAD_REQUEST', message: why }, name)
  }
})

t.test('any bytes end in a header, a wish for more within the limits, or a TunnelError', async () => {
  const start = fc.constantFrom(Buffer.alloc(0), Buffer.from('PROXY TCP4 '), Buffer.from(SIGNATURE, 'hex'))

  fc.assert(
    fc.property(start, fc.uint8Array({ maxLength: 600 }), (begin, rest) => {
      const bytes = Buffer.concat([begin, rest])
      try {
        const header = parseProxyHeader(bytes)
        return header ? header.bytes <= bytes.length : bytes.length < PROXY_HEADER_LIMIT_BYTES
      } catch (error) {
        return error instanceof TunnelError
      }
    }),
    { numRuns: 5_000 }
  )
})

t.test('the limit of version 2 may be another', async t => {
  const header = v2('21', '11', ipv4 + '00'.repeat(508))
  t.equal(header.length, 536)
  for (const limit of [536, 537]) t.equal(parseProxyHeader(header, limit)?.bytes, 536)
  t.throws(() => parseProxyHeader(header.subarray(0, 16), 535), {
    message: /at most 535 bytes \(tunnel\.proxyHeaderLimit\)/
  })
})
