/** Frames and their bytes: the table of docs/protocol.md, every way to cut it short, and a second codec as oracle. */
import fc from 'fast-check'
import t from 'tap'
import { type ErrorCode, TunnelError, errors } from '../../src/errors.js'
import { decode } from '../../src/wire/decode.js'
import { encode, writeHeader } from '../../src/wire/encode.js'
import { FRAME_LIMIT_BYTES, HEADER_BYTES, TEXT_LIMIT_BYTES, frameType } from '../../src/wire/frame.js'
import { type DialOrigin, ORIGIN_LIMIT_BYTES } from '../../src/wire/origin.js'
import { digits, naiveDecode, naiveFrame, naiveOpen, naiveOrigin } from '../support/naive-codec.js'
import { eachFrame } from '../support/each-frame.js'

type Row = { name: string; bytes: Buffer; hex: string; meaning: Record<string, unknown> }

const opaque = Buffer.from('0102030405060708', 'hex')
const data = (stream: number, payload: string): Buffer => {
  const bytes = Buffer.alloc(HEADER_BYTES + payload.length)
  writeHeader(bytes, 0, frameType.DATA, stream, payload.length)
  bytes.write(payload, HEADER_BYTES)
  return bytes
}

const endFrame = (stream: number): Buffer => {
  const bytes = Buffer.alloc(HEADER_BYTES)
  writeHeader(bytes, 0, frameType.END, stream, 0)
  return bytes
}

const table: Row[] = [
  {
    name: 'HELLO of the side that dials',
    bytes: encode.hello({ major: 1, minor: 0, features: 0, frameLimitBytes: 65536, streamLimit: 0 }),
    hex: '01 000014 00000000 544e444c 01 00 0000 00000000 00010000 00000000',
    meaning: {
      type: 'HELLO',
      stream: 0,
      major: 1,
      minor: 0,
      features: 0,
      frameLimitBytes: 65536,
      streamLimit: 0
    }
  },
  {
    name: 'HELLO of the side that answers',
    bytes: encode.hello({
      major: 1,
      minor: 2,
      features: 0x80000001,
      frameLimitBytes: 1024,
      streamLimit: 8192
    }),
    hex: '01 000014 00000000 544e444c 01 02 0000 80000001 00000400 00002000',
    meaning: {
      type: 'HELLO',
      stream: 0,
      minor: 2,
      features: 0x80000001,
      frameLimitBytes: 1024,
      streamLimit: 8192
    }
  },
  {
    name: 'OPEN by IPv4',
    bytes: encode.open(1, { proto: 'tcp', host: '10.0.0.5', port: 10250 }, 1048576, 4000),
    hex: '02 000015 00000001 00100000 00000fa0 01 280a 08 31302e302e302e35 00',
    meaning: {
      type: 'OPEN',
      stream: 1,
      credit: 1048576,
      timeoutMs: 4000,
      proto: 'tcp',
      port: 10250,
      host: '10.0.0.5',
      cluster: ''
    }
  },
  {
    name: 'OPEN by name, in a cluster',
    bytes: encode.open(2, { proto: 'udp', host: 'dns', port: 53, cluster: 'demo' }, 0, 0),
    hex: '02 000014 00000002 00000000 00000000 02 0035 03 646e73 04 64656d6f',
    meaning: {
      type: 'OPEN',
      stream: 2,
      credit: 0,
      timeoutMs: 0,
      proto: 'udp',
      port: 53,
      host: 'dns',
      cluster: 'demo'
    }
  },
  {
    name: 'OPEN by IPv6, on the last stream',
    bytes: encode.open(0xffffffff, { proto: 'icmp', host: '::1', port: 0 }, 0x7fffffff, 0xffffffff),
    hex: '02 000010 ffffffff 7fffffff ffffffff 03 0000 03 3a3a31 00',
    meaning: {
      type: 'OPEN',
      stream: 0xffffffff,
      credit: 0x7fffffff,
      timeoutMs: 0xffffffff,
      proto: 'icmp',
      port: 0,
      host: '::1'
    }
  },
  {
    name: 'OPEN for a caller',
    bytes: encode.open(1, { proto: 'tcp', host: '10.0.0.5', port: 10250 }, 1048576, 4000, {
      principal: { kind: 'caller', name: 'kube-apiserver' },
      front: 'demo',
      traceId: 'abc',
      hops: 0
    }),
    hex: '02 000037 00000001 00100000 00000fa0 01 280a 08 31302e302e302e35 00 00 01 0e 6b7562652d617069736572766572 00 03 616263 0b 05 66726f6e74 04 64656d6f',
    meaning: {
      type: 'OPEN',
      stream: 1,
      host: '10.0.0.5',
      origin: { hops: 0, kind: 'caller', name: 'kube-apiserver', cluster: '', traceId: 'abc', front: 'demo' }
    }
  },
  {
    name: 'OPEN for a client, passed on',
    bytes: encode.open(3, { proto: 'tcp', host: 'h', port: 1, cluster: 'demo' }, 0, 0, {
      principal: { kind: 'client', name: 'n', cluster: 'other' },
      front: '',
      hops: 2
    }),
    hex: '02 00001e 00000003 00000000 00000000 01 0001 01 68 04 64656d6f 02 02 01 6e 05 6f74686572 00 00',
    meaning: {
      type: 'OPEN',
      stream: 3,
      cluster: 'demo',
      origin: { hops: 2, kind: 'client', name: 'n', cluster: 'other', traceId: '', front: '' }
    }
  },
  {
    name: 'OPENED',
    bytes: encode.opened(1, 32768),
    hex: '03 000004 00000001 00008000',
    meaning: { type: 'OPENED', stream: 1, credit: 32768 }
  },
  {
    name: 'REFUSED',
    bytes: encode.refused(1, 'TARGET_REFUSED', '10.0.0.5:10250'),
    hex: '04 000010 00000001 0011 31302e302e302e353a3130323530',
    meaning: { type: 'REFUSED', stream: 1, code: 17, text: '10.0.0.5:10250' }
  },
  {
    name: 'DATA',
    bytes: data(1, 'hi'),
    hex: '05 000002 00000001 6869',
    meaning: { type: 'DATA', stream: 1, data: '6869' }
  },
  { name: 'END', bytes: endFrame(1), hex: '06 000000 00000001', meaning: { type: 'END', stream: 1 } },
  {
    name: 'RESET',
    bytes: encode.reset(1, 'TARGET_RESET'),
    hex: '07 000002 00000001 0014',
    meaning: { type: 'RESET', stream: 1, code: 20, text: '' }
  },
  {
    name: 'CREDIT',
    bytes: encode.credit(1, 524288),
    hex: '08 000004 00000001 00080000',
    meaning: { type: 'CREDIT', stream: 1, credit: 524288 }
  },
  {
    name: 'PING',
    bytes: encode.ping(opaque),
    hex: '09 000008 00000000 0102030405060708',
    meaning: { type: 'PING', stream: 0, opaque: '0102030405060708' }
  },
  {
    name: 'PONG',
    bytes: encode.pong(opaque),
    hex: '0a 000008 00000000 0102030405060708',
    meaning: { type: 'PONG', stream: 0, opaque: '0102030405060708' }
  },
  {
    name: 'GOAWAY',
    bytes: encode.goAway('DRAINING', 'bis später'),
    hex: '0b 00000d 00000000 0022 6269732073 70c3a4746572',
    meaning: { type: 'GOAWAY', stream: 0, code: 34, text: 'bis später' }
  }
]

/** An origin, in the words of the oracle. */
function flat({ principal, hops, traceId = '', front }: DialOrigin): Record<string, unknown> {
  const cluster = principal.kind === 'client' ? principal.cluster : ''
  return { hops, kind: principal.kind, name: principal.name, cluster, traceId, front }
}

/** Our decoder, in the words of the oracle. */
function ours(message: Buffer): Record<string, unknown>[] {
  const frames: Record<string, unknown>[] = []
  const names = Object.fromEntries(Object.entries(frameType).map(([name, type]) => [type, name]))
  eachFrame(message, (type, stream, payload) => {
    frames.push({ type: names[type] ?? `0x${type.toString(16)}`, stream, ...fields(type, payload) })
  })
  return frames
}

function fields(type: number, payload: Buffer): Record<string, unknown> {
  switch (type) {
    case frameType.HELLO:
      return { ...decode.hello(payload) }
    case frameType.OPEN:
      try {
        const { target, creditBytes, timeoutMs, origin } = decode.open(payload)
        return {
          cluster: '',
          ...target,
          credit: creditBytes,
          timeoutMs,
          ...(origin && { origin: flat(origin) })
        }
      } catch (error) {
        if (error instanceof TunnelError && error.code === 'BAD_TARGET') return { bad: true }
        throw error
      }
    case frameType.OPENED:
      return { credit: decode.opened(payload) }
    case frameType.CREDIT:
      return { credit: decode.credit(payload) }
    case frameType.REFUSED:
    case frameType.RESET:
    case frameType.GOAWAY: {
      const { code, text } = decode.reason(payload, 'a reason')
      return { code: errors[code].reset, text }
    }
    case frameType.PING:
    case frameType.PONG:
      return { opaque: decode.opaque(payload, 'PING').toString('hex') }
    case frameType.DATA:
      return { data: payload.toString('hex') }
    default:
      return {}
  }
}

for (const { name, bytes, hex, meaning } of table) {
  t.test(`${name}: bytes and meaning`, async t => {
    t.equal(bytes.toString('hex'), hex.replaceAll(' ', ''))
    t.match(ours(bytes), [meaning])
    t.match(naiveDecode(bytes), [meaning], 'the oracle agrees')
  })

  t.test(`${name}: cut off anywhere it breaks the message, and the error says where`, async t => {
    for (let length = 0; length < bytes.length; length++) {
      const rule =
        length === 0
          ? /a message holds at least one frame \(byte 0\)/
          : length < HEADER_BYTES
            ? /a frame header has 8 bytes \(byte 0\)/
            : /a frame ends inside its message \(byte 0\)/
      t.throws(
        () => ours(bytes.subarray(0, length)),
        { code: 'PROTOCOL_ERROR', detail: rule },
        `${length} bytes`
      )
      t.equal(naiveDecode(bytes.subarray(0, length)), undefined)
    }
  })

  t.test(`${name}: behind another frame the error names the byte where it began`, async t => {
    const before = data(9, 'before')
    for (let length = 1; length < bytes.length; length++) {
      t.throws(() => ours(Buffer.concat([before, bytes.subarray(0, length)])), {
        code: 'PROTOCOL_ERROR',
        detail: /\(byte 14\)/
      })
    }
  })
}

t.test('a payload shorter than its fields is broken, longer is from a newer version', async t => {
  for (const { name, bytes } of table) {
    const [type, payload] = [bytes[0]!, bytes.subarray(HEADER_BYTES)]
    const fixed = { 1: 20, 3: 4, 4: 2, 7: 2, 8: 4, 9: 8, 10: 8, 11: 2 }[type]
    for (let length = 0; fixed !== undefined && length < fixed; length++) {
      t.throws(
        () => ours(naiveFrame(type, 0, payload.subarray(0, length))),
        { code: 'PROTOCOL_ERROR', detail: /at least \d+ payload bytes, not \d+$/ },
        `${name} of ${length} bytes`
      )
    }
    if (type === frameType.OPEN) {
      const withoutOrigin = 13 + payload[11]! + payload[12 + payload[11]!]!
      for (let length = 0; length < payload.length; length++) {
        if (length === withoutOrigin) continue
        t.throws(
          () => decode.open(payload.subarray(0, length)),
          { code: 'BAD_TARGET' },
          `${name} of ${length} bytes`
        )
      }
    }
    const longer = naiveFrame(type, bytes.readUInt32BE(4), Buffer.concat([payload, Buffer.from([0])]))
    const isWhole = type === frameType.OPEN && decode.open(payload).origin !== undefined
    if (fixed === 20 || isWhole) t.same(ours(longer), ours(bytes), `${name} with one byte more`)
  }
})

t.test('a payload at the limit passes, one byte more does not', async t => {
  const at = naiveFrame(5, 1, Buffer.alloc(FRAME_LIMIT_BYTES))
  const beyond = naiveFrame(5, 1, Buffer.alloc(FRAME_LIMIT_BYTES + 1))

  eachFrame(at, (_type, _stream, payload) => void t.equal(payload.length, FRAME_LIMIT_BYTES))
  t.throws(() => eachFrame(beyond, () => {}), {
    code: 'PROTOCOL_ERROR',
    detail: /at most 65536 bytes, not 65537 \(byte 0\)/
  })
  t.throws(() => eachFrame(at, () => {}, FRAME_LIMIT_BYTES - 1), { code: 'PROTOCOL_ERROR' })
})

t.test('payloads are views of the message, not copies', async t => {
  const message = data(1, 'hello')

  eachFrame(message, (_type, _stream, payload) => void t.equal(payload.buffer, message.buffer))
})

t.test('texts are cut to their limit at a character boundary', async t => {
  const said = (text: string): string =>
    decode.reason(encode.reset(1, 'INTERNAL', text).subarray(8), 'RESET').text

  t.equal(said('x'.repeat(TEXT_LIMIT_BYTES)), 'x'.repeat(TEXT_LIMIT_BYTES))
  t.equal(said('x'.repeat(TEXT_LIMIT_BYTES + 1)), 'x'.repeat(TEXT_LIMIT_BYTES))
  t.equal(said('x' + 'ü'.repeat(300)), 'x' + 'ü'.repeat(255))
  t.equal(said('€'.repeat(300)), '€'.repeat(170))
  t.equal(said('🦀'.repeat(200)), '🦀'.repeat(128))
})

t.test('what has no room in OPEN is a bad target', async t => {
  const open = (target: object): Buffer =>
    encode.open(1, { proto: 'tcp', host: 'h', port: 1, ...target }, 1, 1)

  t.equal(ours(open({ host: 'h'.repeat(255), cluster: 'c'.repeat(255) })).length, 1)
  for (const target of [
    { host: '' },
    { host: 'h'.repeat(256) },
    { host: 'a\nb' },
    { cluster: 'c'.repeat(256) },
    { port: -1 },
    { port: 65536 },
    { port: 0.5 }
  ]) {
    t.throws(() => open(target), { code: 'BAD_TARGET' }, JSON.stringify(target))
  }
})

t.test('a time to dial is rounded up and cut to what OPEN can say', async t => {
  const said = (ms: number): number =>
    decode.open(encode.open(1, { proto: 'tcp', host: 'h', port: 1 }, 1, ms).subarray(8)).timeoutMs

  t.same([0.1, 4000.5, 2 ** 33, Infinity, -5].map(said), [1, 4001, 0xffffffff, 0xffffffff, 0])
})

t.test('each part of an origin at its limit passes, one byte more does not', async t => {
  const open = (part: object): Buffer => naiveOpen(1, { origin: naiveOrigin({ name: 'n', ...part }) })
  const pair = (bytes: number): string => `\x01k${String.fromCharCode(bytes - 3)}${'v'.repeat(bytes - 3)}`
  const client = { kind: 2, cluster: 'c' }
  for (const [at, beyond, rule] of [
    [
      { ...client, cluster: 'c'.repeat(63) },
      { ...client, cluster: 'c'.repeat(64) },
      /cluster of the principal has more/
    ],
    [{ traceId: 't'.repeat(64) }, { traceId: 't'.repeat(65) }, /trace id has more than 64 bytes/],
    [{ metadata: pair(112) }, { metadata: pair(113) }, /metadata has more than 112 bytes/],
    [{ name: 'n'.repeat(255) }, { name: '' }, /name of the principal is empty/],
    [{ kind: 4 }, { kind: 5 }, /kind 5 of the principal is not known/],
    [client, { kind: 2 }, /a cluster when it is a client/],
    [{ kind: 3 }, { kind: 3, cluster: 'c' }, /a cluster when it is a client/],
    [{ name: '!~' }, { name: 'a b' }, /name of the principal has a character/],
    [{ metadata: '\x01k\x00' }, { metadata: '\x01k' }, /value of the metadata is cut off/]
  ] as const) {
    t.ok(decode.open(open(at).subarray(HEADER_BYTES)).origin, JSON.stringify(at))
    t.throws(() => decode.open(open(beyond).subarray(HEADER_BYTES)), { code: 'BAD_TARGET', detail: rule })
  }
})

t.test('keys of the metadata that are not known are ignored', async t => {
  const metadata = '\x03new\x05thing\x05front\x04demo\x05later\x00'

  const { origin } = decode.open(naiveOpen(1, { origin: naiveOrigin({ metadata }) }).subarray(HEADER_BYTES))

  t.equal(origin?.front, 'demo')
})

t.test('the longest OPEN fits the smallest frame that a HELLO may allow', async t => {
  const longest = encode.open(
    0xffffffff,
    { proto: 'tcp', host: 'h'.repeat(255), port: 65535, cluster: 'c'.repeat(255) },
    0xffffffff,
    Infinity,
    {
      principal: {
        kind: 'client',
        name: 'n'.repeat(ORIGIN_LIMIT_BYTES.name),
        cluster: 'c'.repeat(ORIGIN_LIMIT_BYTES.cluster)
      },
      front: 'f'.repeat(ORIGIN_LIMIT_BYTES.metadata - 'front'.length - 2),
      traceId: 't'.repeat(ORIGIN_LIMIT_BYTES.traceId),
      hops: 300
    }
  )

  t.ok(longest.length - HEADER_BYTES <= 1024, `${longest.length - HEADER_BYTES} bytes`)
  t.equal(
    decode.open(longest.subarray(HEADER_BYTES)).origin?.hops,
    255,
    'more hops than fit are as many as fit'
  )
})

t.test('what has no room in an origin is not sent', async t => {
  for (const part of [
    { front: 'f'.repeat(106) },
    { traceId: 't'.repeat(65) },
    { principal: { kind: 'caller', name: '' } as const },
    { principal: { kind: 'caller', name: 'a b' } as const },
    { principal: { kind: 'client', name: 'n', cluster: '' } as const }
  ]) {
    const origin = { principal: { kind: 'caller', name: 'n' } as const, front: '', hops: 0, ...part }
    t.throws(() => encode.open(1, { proto: 'tcp', host: 'h', port: 1 }, 1, 1, origin), { code: 'BAD_TARGET' })
  }
})

const codes = fc.constantFrom(...(Object.keys(errors) as ErrorCode[]))
const id = fc.integer({ min: 0, max: 0xffffffff })
const u32 = fc.integer({ min: 0, max: 0xffffffff })
const name = fc.string({
  unit: fc.integer({ min: 0x21, max: 0x7e }).map(code => String.fromCharCode(code)),
  minLength: 1,
  maxLength: 255
})
const shortName = name.map(name => name.slice(0, 63))
const principal = fc.oneof(
  fc.record({ kind: fc.constantFrom('caller' as const, 'server' as const, 'local' as const), name }),
  fc.record({ kind: fc.constant('client' as const), name, cluster: shortName })
)
const origin = fc
  .record({
    principal,
    front: fc.oneof(fc.constant(''), shortName),
    traceId: fc.oneof(fc.constant(''), shortName),
    hops: fc.nat(255)
  })
  .map(({ traceId, ...origin }) => ({ ...origin, ...(traceId !== '' && { traceId }) }))
const text = fc.string({ unit: 'grapheme', maxLength: 100 })
const wireText = text.map(text => Buffer.from(text).toString())
const frames = fc.oneof(
  fc
    .record({
      features: u32,
      frameLimitBytes: fc.integer({ min: 1024, max: 0xffffffff }),
      streamLimit: u32,
      minor: fc.nat(255)
    })
    .map(hello => encode.hello({ major: 1, ...hello })),
  fc
    .tuple(
      id,
      fc.constantFrom('tcp' as const, 'udp' as const, 'icmp' as const),
      name,
      fc.option(name),
      fc.nat(65535),
      u32,
      u32,
      fc.option(origin)
    )
    .map(([stream, proto, host, cluster, port, credit, timeoutMs, origin]) =>
      encode.open(
        stream,
        { proto, host, port, ...(cluster && { cluster }) },
        credit,
        timeoutMs,
        origin ?? undefined
      )
    ),
  fc.tuple(id, u32).map(([stream, bytes]) => encode.opened(stream, bytes)),
  fc.tuple(id, u32).map(([stream, bytes]) => encode.credit(stream, bytes)),
  fc.tuple(id, codes, wireText).map(([stream, code, text]) => encode.refused(stream, code, text)),
  fc.tuple(id, codes, wireText).map(([stream, code, text]) => encode.reset(stream, code, text)),
  fc.tuple(codes, wireText).map(([code, text]) => encode.goAway(code, text)),
  id.map(stream => endFrame(stream)),
  fc.uint8Array({ minLength: 8, maxLength: 8 }).map(bytes => encode.ping(Buffer.from(bytes))),
  fc.uint8Array({ minLength: 8, maxLength: 8 }).map(bytes => encode.pong(Buffer.from(bytes))),
  fc.tuple(id, fc.uint8Array({ maxLength: 300 })).map(([stream, payload]) => naiveFrame(5, stream, payload))
)

t.test('any frames we encode, the oracle reads as we do', async () => {
  fc.assert(
    fc.property(fc.array(frames, { minLength: 1, maxLength: 20 }), frames => {
      const message = Buffer.concat(frames)
      return JSON.stringify(ours(message).map(sorted)) === JSON.stringify(naiveDecode(message)!.map(sorted))
    }),
    { numRuns: 2_000 }
  )
})

t.test(
  'any bytes, whole or bent frames: our decoder and the oracle agree on what they say and whether they are broken',
  async () => {
    const bent = fc
      .tuple(fc.array(frames, { minLength: 1, maxLength: 4 }), fc.nat(10_000), fc.nat(255), fc.nat(5))
      .map(([frames, at, value, cut]) => {
        const message = Buffer.concat(frames)
        message[at % message.length] = value
        return message.subarray(0, message.length - cut)
      })
    const known = Object.values(errors).map(({ reset }) => reset as number)

    fc.assert(
      fc.property(
        fc.oneof(
          bent,
          bent,
          fc.uint8Array({ maxLength: 100 }).map(bytes => Buffer.from(bytes))
        ),
        message => {
          const theirs = naiveDecode(message)?.map(frame => ({
            ...frame,
            // A code that this version does not know reads as INTERNAL.
            ...('code' in frame && !known.includes(frame.code as number) && { code: errors.INTERNAL.reset })
          }))
          try {
            return JSON.stringify(ours(message).map(sorted)) === JSON.stringify(theirs?.map(sorted))
          } catch (error) {
            if (!(error instanceof TunnelError)) throw error
            if (error.code === 'VERSION_MISMATCH') return true
            return error.code === 'PROTOCOL_ERROR' && theirs === undefined
          }
        }
      ),
      { numRuns: 5_000 }
    )
  }
)

function sorted(frame: Record<string, unknown>): [string, unknown][] {
  return Object.entries(frame).sort(([a], [b]) => (a < b ? -1 : 1))
}

t.test('numbers at the edges of their fields survive', async t => {
  for (const value of [0, 1, 0xff, 0x100, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff]) {
    t.match(ours(encode.credit(value, value)), [{ stream: value, credit: value }])
    t.same([...endFrame(value).subarray(4)], digits(value, 4))
  }
})
