import t from 'tap'
import { TunnelError } from '../../src/errors.js'
import { HANDSHAKE_TIMEOUT_MS, shakeHands } from '../../src/link/handshake.js'
import { Link } from '../../src/link/link.js'
import {
  type LinkWelcome,
  decodeHello,
  encodeRefuse,
  encodeWelcome,
  linkType
} from '../../src/link/link-message.js'
import { FakeCarrier } from '../support/fake-carrier.js'
import { FakeClock } from '../support/fake-clock.js'

const self = { name: 'pod-1', instance: Buffer.alloc(8, 7), connectionIndex: 2 }
const id = Buffer.alloc(16, 1)

function welcome(changes: Partial<LinkWelcome> = {}): Buffer {
  const fresh = { id, resumed: false, received: 0, sendsFrom: 0, replayLimitBytes: 1 << 20 }
  return encodeWelcome({ ...fresh, resumeWindowMs: 60_000, server: 's1', ...changes })
}

/** A client's link that has just asked. */
function asking(link?: Link) {
  const clock = new FakeClock()
  const carrier = new FakeCarrier()
  const asked = link ?? new Link({ clock, limits: { replayLimitBytes: 1234 } })
  const answered = shakeHands(carrier, asked, self, { clock })
  answered.catch(() => {})
  return { clock, carrier, link: asked, answered }
}

/** No listener and no timer of the handshake is left. */
function nothingLeft(t: Tap, { carrier, clock }: { carrier: FakeCarrier; clock: FakeClock }): void {
  t.equal(carrier.listenerCount('message') + carrier.listenerCount('close'), 0)
  t.equal(clock.pending, 0)
}
type Tap = Pick<typeof t, 'equal'>

t.test('a new link says who asks and gets its id', async t => {
  const { carrier, link, answered } = asking()
  t.same(decodeHello(carrier.sent[0] as Buffer), { ...self, replayLimitBytes: 1234 })

  carrier.receive(welcome())

  t.equal((await answered).server, 's1')
  t.same(link.id, id)
  t.equal(link.state, 'up')
})

t.test('a session message right behind the WELCOME is heard', async t => {
  const { carrier, link } = asking()
  const got: string[] = []
  link.on('message', message => got.push(message.toString()))

  carrier.receive(welcome())
  carrier.receive(Buffer.from('at once'))

  t.same(got, ['at once'])
})

t.test('a resume says what was received, and goes on from there', async t => {
  const { carrier: first, link } = asking()
  first.receive(welcome())
  first.receive(Buffer.from('a'))
  link.send(Buffer.from('b'))
  first.lose()
  const { carrier, answered } = asking(link)
  t.match(decodeHello(carrier.sent[0] as Buffer), { resume: { id, received: 1 } })

  carrier.receive(welcome({ resumed: true, received: 0, sendsFrom: 1 }))

  await answered
  t.same(carrier.said, ['b'])
  t.equal(link.state, 'up')
})

t.test('a refusal leaves the carrier open for another question', async t => {
  const { carrier, clock, link, answered } = asking()

  carrier.receive(encodeRefuse({ code: 'RESUME_REFUSED', text: 'no such link' }))

  await t.rejects(answered, { code: 'RESUME_REFUSED', detail: 'no such link' })
  t.equal(carrier.ended, undefined)
  t.equal(link.state, 'down')
  nothingLeft(t, { carrier, clock })
})

t.test('an answer that is none closes the carrier with the reason', async t => {
  const later = welcome()
  later[1] = 9
  const answers: [Buffer, string][] = [
    [Buffer.from('HTTP/1.1 200 OK'), 'PROTOCOL_ERROR'],
    [Buffer.from([linkType.ACK]), 'PROTOCOL_ERROR'],
    [welcome().subarray(0, 30), 'PROTOCOL_ERROR'],
    [later, 'VERSION_MISMATCH']
  ]
  for (const [answer, code] of answers) {
    const { carrier, clock, answered } = asking()
    carrier.receive(answer)
    await t.rejects(answered, { code })
    t.match(carrier.ended, { by: 'close', error: { code } })
    nothingLeft(t, { carrier, clock })
  }
})

t.test('a WELCOME to another link is not believed', async t => {
  const { carrier: first, link } = asking()
  first.receive(welcome())
  first.lose()
  const { carrier, answered } = asking(link)

  carrier.receive(welcome({ id: Buffer.alloc(16, 2), resumed: true }))

  await t.rejects(answered, { code: 'PROTOCOL_ERROR' })
  t.equal(link.state, 'down')
  t.match(carrier.ended, { by: 'close' })
})

t.test('a WELCOME whose counts do not fit ends the link on both sides', async t => {
  const { carrier: first, link } = asking()
  first.receive(welcome())
  first.lose()
  const { carrier, answered } = asking(link)

  carrier.receive(welcome({ resumed: true, received: 5 }))

  await t.rejects(answered, { code: 'PROTOCOL_ERROR' })
  t.equal(link.state, 'closed')
  t.match(carrier.ended, { by: 'close' })
})

t.test('a link that ended while the server thought about it does not come back', async t => {
  const { carrier: first, link } = asking()
  first.receive(welcome())
  first.lose()
  const { carrier, answered } = asking(link)
  link.close('DRAINING')

  carrier.receive(welcome({ resumed: true }))

  // Not RESUME_REFUSED: that would mean that the carrier is good for another question.
  await t.rejects(answered, { code: 'CLOSED' })
  t.match(carrier.ended, { by: 'close' })
})

t.test('a carrier lost before the answer rejects with its reason', async t => {
  const { carrier, clock, answered } = asking()

  carrier.lose('DRAINING', 'this server takes no new links')

  await t.rejects(answered, { code: 'DRAINING', detail: 'this server takes no new links' })
  nothingLeft(t, { carrier, clock })
})

t.test('an answer that does not come ends the carrier after ten seconds', async t => {
  const { carrier, clock, answered } = asking()

  clock.tick(HANDSHAKE_TIMEOUT_MS - 1)
  t.equal(carrier.ended, undefined)
  clock.tick(1)

  await t.rejects(answered, new TunnelError('LINK_LOST', 'no answer to the link handshake within 10000 ms'))
  t.match(carrier.ended, { by: 'terminate' })
  nothingLeft(t, { carrier, clock })
})
