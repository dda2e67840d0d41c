import t from 'tap'
import {
  HEADROOM_BYTES,
  allocMessage,
  headroomOf,
  holdMessage,
  idleMessageBytes,
  releaseMessage,
  trimIdleMessages
} from '../src/message-buffer.js'

t.test('a large message has room in front for a header, a small one comes from Node', async t => {
  t.equal(headroomOf(allocMessage(65_544)), HEADROOM_BYTES)
  t.equal(headroomOf(allocMessage(1_000_000)), HEADROOM_BYTES)
  t.equal(headroomOf(allocMessage(100)), 0)
  t.equal(headroomOf(Buffer.alloc(100_000)), 0, 'memory of others is not written to')
})

t.test('a message has the length asked for', async t => {
  for (const bytes of [0, 1, 4_095, 4_096, 16_384, 16_385, 66_560, 66_561, 132_096, 132_097, 1_048_576]) {
    t.equal(allocMessage(bytes).length, bytes)
  }
})

t.test('memory becomes another message when the last holder has let go, and not before', async t => {
  const first = allocMessage(131_000)
  holdMessage(first)

  releaseMessage(first)
  t.not(allocMessage(131_000).buffer, first.buffer, 'one holder is left')
  releaseMessage(first)
  t.not(allocMessage(60_000).buffer, first.buffer, 'another size')
  t.equal(allocMessage(130_000).buffer, first.buffer)
  t.not(allocMessage(130_000).buffer, first.buffer, 'it is given out once')
})

t.test('only so much is kept idle, and nothing of unusual size', async t => {
  const many = Array.from({ length: 100 }, () => allocMessage(131_000))
  const odd = allocMessage(500_000)
  for (const message of [...many, odd]) releaseMessage(message)
  const used = new Set(many.map(({ buffer }) => buffer))

  const again = Array.from({ length: 100 }, () => allocMessage(131_000))

  t.equal(again.filter(({ buffer }) => used.has(buffer)).length, 32)
  t.not(allocMessage(500_000).buffer, odd.buffer)
})

t.test('what is no message of ours may be held and let go of', async t => {
  const foreign = Buffer.alloc(10_000)

  holdMessage(foreign)
  releaseMessage(foreign)
  releaseMessage(foreign)

  t.not(allocMessage(10_000).buffer, foreign.buffer)
})

t.test('memory that nobody needed between two looks is forgotten, what was needed stays', async t => {
  trimIdleMessages()
  trimIdleMessages()
  const burst = [...Array(8)].map(() => allocMessage(100_000))
  for (const message of burst) releaseMessage(message)
  const before = idleMessageBytes()
  t.ok(before >= 8 * 100_000)

  trimIdleMessages()
  t.equal(idleMessageBytes(), before, 'they may be needed again')
  for (const message of [allocMessage(100_000), allocMessage(100_000)]) releaseMessage(message)
  trimIdleMessages()
  const needed = idleMessageBytes()
  t.ok(needed >= 2 * 100_000 && needed < 3 * 150_000, `${needed} bytes`)
  trimIdleMessages()

  t.equal(idleMessageBytes(), 0)
})
