/** A message may hold a hundred thousand frames: they are read in turns, and nothing else about them is different. */
import t from 'tap'
import { SHARE_UNITS, TURN_UNITS, receiveScheduler } from '../../src/fair-scheduler.js'
import { naiveFrame, naiveOpen } from '../support/naive-codec.js'
import { closeOf, readAll, sessionAndPeer, turns, until } from '../support/sessions.js'

const [DATA, END, PING] = [5, 6, 9] as const
const MANY = 5_000

/** A session that answers and notes in which turn each OPEN reached it. */
function counting(t: Parameters<typeof sessionAndPeer>[0]) {
  const opened: { id: number; turn: number }[] = []
  const pair = sessionAndPeer(t, {
    answers: true,
    onOpen: incoming => {
      opened.push({ id: opened.length + 1, turn: receiveScheduler.turn })
      incoming.accept()
    }
  })
  return { ...pair, opened }
}

const opens = (count: number): Buffer[] => Array.from({ length: count }, (_, at) => naiveOpen(at + 1))

t.test('a message of many frames takes many turns, and others are heard between them', async t => {
  const one = counting(t)
  const other = counting(t)
  await one.peer.settled()
  await other.peer.settled()

  one.peer.say(...opens(MANY))
  await until(() => one.opened.length > 0)
  other.peer.say(...opens(1))
  await until(() => other.opened.length === 1)
  t.ok(one.opened.length < MANY, `${one.opened.length} of ${MANY} before the other`)
  await until(() => one.opened.length === MANY)

  const perTurn = new Map<number, number>()
  for (const { turn } of one.opened) perTurn.set(turn, (perTurn.get(turn) ?? 0) + 1)
  const most = Math.max(...perTurn.values())
  t.ok(most <= TURN_UNITS + 2 * SHARE_UNITS, `${most} frames in one turn`)
  await one.peer.settled()
  t.equal(one.session.state, 'open')
})

t.test('what comes behind a long message comes after it: frames, a half-close, the end', async t => {
  const { session, peer, accepted } = sessionAndPeer(t, { answers: true })
  const data = (from: number): Buffer[] =>
    Array.from({ length: MANY }, (_, at) => naiveFrame(DATA, 1, Buffer.from([(from + at) % 251])))

  peer.say(naiveOpen(1), ...data(0))
  peer.say(...data(MANY))
  peer.say(naiveFrame(END, 1))
  await until(() => accepted.length === 1)
  const stream = accepted[0]!
  const read = readAll(stream)
  stream.write('the other half is open')
  peer.carrier.close('DRAINING', 'going home')
  const bytes = await read

  t.equal(bytes.length, 2 * MANY)
  t.ok(bytes.every((byte, at) => byte === at % 251))
  t.match(await closeOf(stream), { code: 'LINK_LOST' })
  t.equal(session.state, 'closed')
})

t.test('a broken frame at the end of a long message closes the session after those before it', async t => {
  const { session, peer, opened } = counting(t)

  peer.say(...opens(MANY), Buffer.from([DATA]))

  t.match(await peer.closed(), { code: 'PROTOCOL_ERROR', detail: /a frame header has 8 bytes/ })
  t.equal(opened.length, MANY)
  t.equal(session.state, 'closed')
})

t.test('a session that is closed in the middle of a message reads no more of it', async t => {
  const { session, peer, opened } = counting(t)

  peer.say(...opens(MANY))
  await until(() => opened.length > 0)
  session.close()
  const { length } = opened
  await turns(30)

  t.ok(length < MANY)
  t.equal(opened.length, length)
})

t.test('a megabyte of PINGs is answered once for each turn it takes', async t => {
  const { session, peer } = sessionAndPeer(t, { answers: true })
  await peer.settled()
  const count = Math.floor((1 << 20) / 16)
  const pings = Buffer.alloc(count * 16)
  for (let at = 0; at < count; at++) {
    naiveFrame(PING, 0, Buffer.alloc(8)).copy(pings, at * 16)
    pings.writeUInt32BE(at, at * 16 + 8)
  }
  const before = receiveScheduler.turn

  peer.say(pings)
  const last = (count - 1).toString(16).padStart(8, '0')
  await until(() => peer.frames.some(frame => frame.opaque === `${last}00000000`))

  const passed = receiveScheduler.turn - before
  t.ok(passed >= count / (TURN_UNITS + 2 * SHARE_UNITS), `${passed} turns`)
  t.ok(peer.frames.length <= passed + 2, `${peer.frames.length} answers`)
  t.equal(session.state, 'open')
})
