import fc from 'fast-check'
import t from 'tap'
import { TunnelError } from '../../src/errors.js'
import {
  LINK_ID_BYTES,
  NAME_LIMIT_BYTES,
  ANNOUNCEMENT_LIMIT_BYTES,
  decodeAnswer,
  decodeHello,
  decodeAnnouncement,
  decodeNumber,
  encodeHello,
  encodeAnnouncement,
  encodeNumber,
  encodeRefuse,
  encodeWelcome,
  isLinkMessage,
  linkType
} from '../../src/link/link-message.js'

const id = Buffer.from('000102030405060708090a0b0c0d0e0f', 'hex')
const instance = Buffer.from('a0a1a2a3a4a5a6a7', 'hex')

/** Hex with blanks for the eye. */
const hex = (text: string): Buffer => Buffer.from(text.replace(/\s/g, ''), 'hex')

const newHello = hex(`80 01 00 00
  00000000000000000000000000000000 0000000000000000 02000000 a0a1a2a3a4a5a6a7 00 05 706f642d31`)
const resumeHello = hex(`80 01 01 00
  000102030405060708090a0b0c0d0e0f 0000000100000002 00010000 a0a1a2a3a4a5a6a7 03 01 63`)
const welcome = hex(`81 01 01 00
  000102030405060708090a0b0c0d0e0f 0000000000000007 0000000000000009 02000000 0000ea60 02 7331`)
const refuse = hex('82 01 0025 6e6f')

t.test('HELLO of a new link, byte for byte', async t => {
  const meaning = { replayLimitBytes: 32 << 20, name: 'pod-1', instance, connectionIndex: 0 }

  t.same(encodeHello(meaning), newHello)
  t.strictSame(decodeHello(newHello), meaning)
})

t.test('HELLO of a resume, byte for byte', async t => {
  const meaning = {
    resume: { id, received: 2 ** 32 + 2 },
    replayLimitBytes: 65_536,
    name: 'c',
    instance,
    connectionIndex: 3
  }

  t.same(encodeHello(meaning), resumeHello)
  t.strictSame(decodeHello(resumeHello), meaning)
})

t.test('WELCOME, byte for byte', async t => {
  const meaning = {
    id,
    resumed: true,
    received: 7,
    sendsFrom: 9,
    replayLimitBytes: 32 << 20,
    resumeWindowMs: 60_000,
    server: 's1'
  }

  t.same(encodeWelcome(meaning), welcome)
  t.strictSame(decodeAnswer(welcome), { welcome: meaning })
})

t.test('REFUSE, byte for byte; a code of a later version reads as INTERNAL', async t => {
  t.same(encodeRefuse({ code: 'RESUME_REFUSED', text: 'no' }), refuse)
  t.strictSame(decodeAnswer(refuse), { refusal: { code: 'RESUME_REFUSED', text: 'no' } })
  t.strictSame(decodeAnswer(hex('82 01 ffff')), { refusal: { code: 'INTERNAL', text: '' } })
})

t.test('ACK, PING and PONG carry one number; an announcement is text', async t => {
  t.same(encodeNumber(linkType.ACK, 258), hex('83 0000000000000102'))
  t.equal(decodeNumber(hex('84 001fffffffffffff')), Number.MAX_SAFE_INTEGER)
  t.same(encodeAnnouncement('{}'), hex('86 7b7d'))
  t.equal(decodeAnnouncement(hex('86 7b7d')), '{}')
  t.equal(decodeAnnouncement(hex('86')), '')
})

t.test('the first byte says whose a message is', async t => {
  t.notOk(isLinkMessage(Buffer.from([0x7f])))
  t.ok(isLinkMessage(Buffer.from([0x80])))
  t.ok(isLinkMessage(Buffer.from([0xff])))
  t.notOk(isLinkMessage(Buffer.alloc(0)), 'an empty message is the session’s to complain about')
})

t.test(
  'a message cut short anywhere is PROTOCOL_ERROR, one that is longer is from a later version',
  async t => {
    for (const message of [newHello, resumeHello]) {
      for (let bytes = 0; bytes < message.length; bytes++) {
        t.throws(
          () => decodeHello(message.subarray(0, bytes)),
          { code: 'PROTOCOL_ERROR' },
          `HELLO of ${bytes}`
        )
      }
      t.strictSame(decodeHello(Buffer.concat([message, Buffer.from('more')])), decodeHello(message))
    }
    for (let bytes = 0; bytes < welcome.length; bytes++) {
      t.throws(
        () => decodeAnswer(welcome.subarray(0, bytes)),
        { code: 'PROTOCOL_ERROR' },
        `WELCOME of ${bytes}`
      )
    }
    t.strictSame(decodeAnswer(Buffer.concat([welcome, Buffer.from('more')])), decodeAnswer(welcome))
    for (let bytes = 0; bytes < 4; bytes++) {
      t.throws(
        () => decodeAnswer(refuse.subarray(0, bytes)),
        { code: 'PROTOCOL_ERROR' },
        `REFUSE of ${bytes}`
      )
    }
    const ack = encodeNumber(linkType.ACK, 1)
    for (let bytes = 1; bytes < ack.length; bytes++) {
      t.throws(() => decodeNumber(ack.subarray(0, bytes)), { code: 'PROTOCOL_ERROR' }, `ACK of ${bytes}`)
    }
  }
)

t.test('another version is told apart from garbage', async t => {
  const later = Buffer.from(newHello)
  later[1] = 2
  t.throws(() => decodeHello(later), { code: 'VERSION_MISMATCH' })
  const laterWelcome = Buffer.from(welcome)
  laterWelcome[1] = 0
  t.throws(() => decodeAnswer(laterWelcome), { code: 'VERSION_MISMATCH' })
  t.throws(() => decodeHello(welcome), { code: 'PROTOCOL_ERROR' })
  t.throws(() => decodeAnswer(newHello), { code: 'PROTOCOL_ERROR' })
})

t.test('names, announcements and counts at their limits', async t => {
  const named = (bytes: number): Buffer => {
    const message = Buffer.alloc(42 + bytes, 0x61)
    newHello.copy(message, 0, 0, 41)
    message[41] = bytes
    return message
  }
  t.throws(() => decodeHello(named(0)), { code: 'PROTOCOL_ERROR' })
  t.equal(decodeHello(named(1)).name.length, 1)
  t.equal(decodeHello(named(NAME_LIMIT_BYTES)).name.length, NAME_LIMIT_BYTES)
  t.throws(() => decodeHello(named(NAME_LIMIT_BYTES + 1)), { code: 'PROTOCOL_ERROR' })

  t.equal(
    decodeAnnouncement(encodeAnnouncement('x'.repeat(ANNOUNCEMENT_LIMIT_BYTES))).length,
    ANNOUNCEMENT_LIMIT_BYTES
  )
  t.throws(() => decodeAnnouncement(encodeAnnouncement('x'.repeat(ANNOUNCEMENT_LIMIT_BYTES + 1))), {
    code: 'PROTOCOL_ERROR'
  })

  t.throws(() => decodeNumber(hex('83 0020000000000000')), { code: 'PROTOCOL_ERROR' }, 'a count of 2^53')
})

t.test('what was decoded does not hold on to the message it came in', async t => {
  const message = Buffer.from(resumeHello)

  const hello = decodeHello(message)
  message.fill(0)

  t.same(hello.resume?.id, id)
  t.same(hello.instance, instance)
})

const bytesOf = (length: number) =>
  fc.uint8Array({ minLength: length, maxLength: length }).map(bytes => Buffer.from(bytes))
const count = fc.nat({ max: Number.MAX_SAFE_INTEGER })
const word = fc.nat({ max: 2 ** 32 - 1 })
const name = fc.string({ minLength: 1, maxLength: 60 })

t.test('whatever is encoded is decoded to the same', async () => {
  const hello = fc.record(
    {
      resume: fc.record({ id: bytesOf(LINK_ID_BYTES), received: count }),
      replayLimitBytes: word,
      name,
      instance: bytesOf(8),
      connectionIndex: fc.nat({ max: 255 })
    },
    { requiredKeys: ['replayLimitBytes', 'name', 'instance', 'connectionIndex'] }
  )
  fc.assert(
    fc.property(hello, said => {
      const got = decodeHello(encodeHello(said))
      return JSON.stringify(sorted(got)) === JSON.stringify(sorted(said))
    })
  )
  const welcomes = fc.record({
    id: bytesOf(LINK_ID_BYTES),
    resumed: fc.boolean(),
    received: count,
    sendsFrom: count,
    replayLimitBytes: word,
    resumeWindowMs: word,
    server: name
  })
  fc.assert(
    fc.property(welcomes, said => {
      const got = decodeAnswer(encodeWelcome(said))
      return 'welcome' in got && JSON.stringify(sorted(got.welcome)) === JSON.stringify(sorted(said))
    })
  )
  fc.assert(fc.property(count, value => decodeNumber(encodeNumber(linkType.PING, value)) === value))
})

t.test('any bytes at all are decoded or refused with a TunnelError', async () => {
  const first = fc.constantFrom(0x80, 0x81, 0x82, 0x83, 0x00, 0xff)
  const garbage = fc
    .tuple(first, fc.constantFrom(1, 1, 1, 2), fc.uint8Array({ maxLength: 120 }))
    .map(([type, version, rest]) => Buffer.from([type, version, ...rest]))
  const decoders = [decodeHello, decodeAnswer, decodeNumber, decodeAnnouncement]
  fc.assert(
    fc.property(garbage, message =>
      decoders.every(decode => {
        try {
          decode(message)
          return true
        } catch (error) {
          return (
            error instanceof TunnelError &&
            (error.code === 'PROTOCOL_ERROR' || error.code === 'VERSION_MISMATCH')
          )
        }
      })
    ),
    { numRuns: 20_000 }
  )
})

/** The same object with its keys in order, buffers as hex. */
function sorted(value: object): object {
  return Object.fromEntries(
    Object.entries(value)
      .map(([key, held]) => [
        key,
        Buffer.isBuffer(held)
          ? held.toString('hex')
          : typeof held === 'object'
            ? sorted(held as object)
            : held
      ])
      .sort()
  )
}
