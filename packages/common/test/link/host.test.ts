import t from 'tap'
import { CountedLimit } from '../../src/counted-limit.js'
import { type ErrorCode, TunnelError } from '../../src/errors.js'
import { FairBudget } from '../../src/fair-budget.js'
import { HANDSHAKE_TIMEOUT_MS } from '../../src/link/handshake.js'
import { LinkHost, type LinkHostOptions } from '../../src/link/host.js'
import type { Link } from '../../src/link/link.js'
import {
  type LinkHello,
  type LinkWelcome,
  decodeAnswer,
  encodeHello,
  linkType
} from '../../src/link/link-message.js'
import { FakeCarrier } from '../support/fake-carrier.js'
import { FakeClock } from '../support/fake-clock.js'

type Peer = { key: string; address?: string }
const DEMO: Peer = { key: 'demo tendril://client/demo' }

function hosting(options: Partial<LinkHostOptions<Peer>> = {}) {
  const clock = new FakeClock()
  const links: Link[] = []
  const ends: string[] = []
  const refused: ErrorCode[] = []
  const resumed: Peer[] = []
  const host = new LinkHost<Peer>({
    server: 's1',
    clock,
    onLink: link => {
      links.push(link)
      link.on('close', error => ends.push(error.code))
    },
    onResume: (_, peer) => resumed.push(peer),
    onRefuse: error => refused.push(error.code),
    ...options
  })
  /** A client's first message over a fresh carrier, and what the host did. */
  const say = (message: Buffer, peer = DEMO, carrier = new FakeCarrier()): FakeCarrier => {
    host.accept(carrier, peer)
    carrier.receive(message)
    return carrier
  }
  const open = (changes: Partial<LinkHello> = {}, peer = DEMO): FakeCarrier => say(hello(changes), peer)
  return { clock, host, links, ends, refused, resumed, say, open }
}

function hello(changes: Partial<LinkHello> = {}): Buffer {
  const fresh = {
    name: 'pod-1',
    instance: Buffer.alloc(8, 1),
    connectionIndex: 0,
    replayLimitBytes: 32 << 20
  }
  return encodeHello({ ...fresh, ...changes })
}

function answerOf(carrier: FakeCarrier): ReturnType<typeof decodeAnswer> {
  return decodeAnswer(carrier.sent[0] as Buffer)
}

function welcomeOf(carrier: FakeCarrier): LinkWelcome {
  const answer = answerOf(carrier)
  if ('refusal' in answer) throw new TunnelError(answer.refusal.code, answer.refusal.text)
  return answer.welcome
}

t.test('a new link gets a random id, and is there before anything is said on it', async t => {
  const { links, open, host } = hosting({ limits: { resumeWindowMs: 7_000, replayLimitBytes: 99_999 } })

  const welcome = welcomeOf(open())
  const other = welcomeOf(open({ name: 'pod-2' }))

  t.match(welcome, {
    resumed: false,
    received: 0,
    sendsFrom: 0,
    resumeWindowMs: 7_000,
    replayLimitBytes: 99_999
  })
  t.equal(welcome.server, 's1')
  t.same(links[0]?.id, welcome.id)
  t.equal(welcome.id.length, 16)
  t.notSame(welcome.id, other.id)
  t.equal(host.size, 2)
})

t.test('what onLink sends at once comes right behind the WELCOME', async t => {
  const { open } = hosting({ onLink: link => void link.send(Buffer.from('HELLO of the session')) })

  const carrier = open()

  t.equal(carrier.sent[0]?.[0], linkType.WELCOME)
  t.same(carrier.said, ['HELLO of the session'])
})

t.test('a resume goes on where both sides are, over any path', async t => {
  const { links, open, resumed, say } = hosting()
  const first = open({}, { ...DEMO, address: '192.0.2.1' })
  const { id } = welcomeOf(first)
  const link = links[0] as Link
  for (const words of ['a', 'b', 'c']) link.send(Buffer.from(words))
  first.receive(Buffer.from('x'))
  first.lose()
  const fromOtherAddress = { ...DEMO, address: '203.0.113.9' }

  const second = say(hello({ resume: { id, received: 1 } }), fromOtherAddress)

  t.match(welcomeOf(second), { id, resumed: true, received: 1, sendsFrom: 1 })
  t.same(second.said, ['b', 'c'])
  t.equal(link.state, 'up')
  t.same(resumed, [fromOtherAddress])
  t.equal(links.length, 1)
})

t.test('a resume while the old carrier still works silences that one first', async t => {
  const { links, open, say } = hosting()
  const first = open()
  const { id } = welcomeOf(first)
  const got: string[] = []
  links[0]?.on('message', message => got.push(message.toString()))
  first.receive(Buffer.from('counted'))

  const second = say(hello({ resume: { id, received: 0 } }))
  first.receive(Buffer.from('late'))

  t.equal(welcomeOf(second).received, 1)
  t.match(first.ended, { by: 'close', error: { code: 'SUPERSEDED' } })
  t.same(got, ['counted'])
})

t.test('an id nobody has, or somebody else has, is refused with the same words', async t => {
  const { links, open, refused, say } = hosting()
  const { id } = welcomeOf(open())
  const thief = { key: 'demo CN=somebody-else' }
  const unknown = say(hello({ resume: { id: Buffer.alloc(16, 0xee), received: 0 } }))
  const stolen = say(hello({ resume: { id, received: 0 } }), thief)

  t.match(answerOf(unknown), { refusal: { code: 'RESUME_REFUSED' } })
  t.same(answerOf(stolen), answerOf(unknown))
  t.same(refused, ['RESUME_REFUSED', 'RESUME_REFUSED'])
  t.equal(links[0]?.state, 'up', 'whose link it is notices nothing')
})

t.test('after a refusal the same carrier may ask for a new link', async t => {
  const { links, say, clock, host } = hosting()
  const carrier = say(hello({ resume: { id: Buffer.alloc(16), received: 0 } }))
  t.equal(carrier.ended, undefined)

  carrier.receive(hello())

  t.equal(carrier.sent[1]?.[0], linkType.WELCOME)
  t.equal(links.length, 1)
  clock.tick(HANDSHAKE_TIMEOUT_MS)
  t.equal(host.size, 1)
})

t.test('one REFUSE is sent over a carrier; whoever asks for another is shown out', async t => {
  const { say, host, clock, refused } = hosting()
  const unknown = hello({ resume: { id: Buffer.alloc(16), received: 0 } })
  const carrier = say(unknown)

  for (let count = 0; count < 1_000; count++) carrier.receive(unknown)

  t.equal(carrier.sent.length, 1)
  t.match(carrier.ended, { by: 'close', error: { code: 'RESUME_REFUSED' } })
  t.same(refused, ['RESUME_REFUSED', 'RESUME_REFUSED'], 'and a log line for each that was answered')
  t.equal(host.size, 0)
  t.equal(clock.pending, 0)
  t.equal(carrier.listenerCount('message') + carrier.listenerCount('close'), 0)
})

t.test('counts that do not fit end the link with a reason on both sides', async t => {
  const { ends, open, say, host } = hosting()
  const first = open()
  const { id } = welcomeOf(first)

  const second = say(hello({ resume: { id, received: 1 } }))

  t.match(answerOf(second), { refusal: { code: 'RESUME_REFUSED' } })
  t.same(ends, ['RESUME_REFUSED'])
  t.match(first.ended, { by: 'close', error: { code: 'RESUME_REFUSED' } })
  t.equal(host.size, 0)
})

t.test('a link whose window is over is not known any more', async t => {
  const { clock, ends, open, say, host } = hosting({ limits: { resumeWindowMs: 1_000 } })
  const first = open()
  const { id } = welcomeOf(first)
  first.lose()
  clock.tick(1_000)
  t.same(ends, ['RESUME_EXPIRED'])
  t.equal(host.size, 0)

  const second = say(hello({ resume: { id, received: 0 } }))

  t.match(answerOf(second), { refusal: { code: 'RESUME_REFUSED' } })
})

t.test('a first message that is no HELLO closes the carrier and says why', async t => {
  const later = hello()
  later[1] = 2
  const messages: [Buffer, ErrorCode][] = [
    [Buffer.from('GET / HTTP/1.1\r\n\r\n'), 'PROTOCOL_ERROR'],
    [Buffer.alloc(0), 'PROTOCOL_ERROR'],
    [Buffer.from([linkType.PING]), 'PROTOCOL_ERROR'],
    [hello().subarray(0, 20), 'PROTOCOL_ERROR'],
    [later, 'VERSION_MISMATCH']
  ]
  for (const [message, code] of messages) {
    const { say, refused, clock, host } = hosting()
    const carrier = say(message)
    t.match(carrier.ended, { by: 'close', error: { code } })
    t.same(refused, [code])
    t.equal(host.size, 0)
    t.equal(clock.pending, 0)
    t.equal(carrier.listenerCount('message'), 0)
  }
})

t.test('a client that says nothing is shown out after ten seconds', async t => {
  const { clock, host } = hosting()
  const carrier = new FakeCarrier()
  host.accept(carrier, DEMO)

  clock.tick(HANDSHAKE_TIMEOUT_MS - 1)
  t.equal(carrier.ended, undefined)
  clock.tick(1)

  t.match(carrier.ended, { by: 'close', error: { code: 'PROTOCOL_ERROR' } })
  t.equal(clock.pending, 0)
  t.equal(carrier.listenerCount('message') + carrier.listenerCount('close'), 0)
})

t.test('a client that leaves before it said anything leaves nothing', async t => {
  const { clock, host } = hosting()
  const carrier = new FakeCarrier()
  host.accept(carrier, DEMO)

  carrier.lose()

  t.equal(clock.pending, 0)
  t.equal(carrier.listenerCount('message') + carrier.listenerCount('close'), 0)
})

t.test('the same process with the same connection index replaces its older link at once', async t => {
  const { ends, open, host } = hosting()
  const first = open()

  open()

  t.same(ends, ['SUPERSEDED'])
  t.match(first.ended, { by: 'close', error: { code: 'SUPERSEDED' } })
  t.equal(host.size, 1)
})

t.test('a restarted client ends its older link at once when that is down', async t => {
  const { ends, open, host } = hosting()
  open().lose()

  open({ instance: Buffer.alloc(8, 2) })

  t.same(ends, ['SUPERSEDED'], 'its callers need not wait for the window')
  t.equal(host.size, 1)
})

t.test(
  'another process of the same name does not end a link that is up: it is asked whether it lives',
  async t => {
    const { clock, ends, open, links } = hosting()
    const first = open()
    clock.tick(1_000)
    first.receive(Buffer.from([0x00]))
    const pingsBefore = first.linkMessages(linkType.PING).length

    const second = open({ instance: Buffer.alloc(8, 2) })

    t.same(ends, [])
    t.equal(first.linkMessages(linkType.PING).length, pingsBefore + 1)
    for (let second_ = 0; second_ < 10; second_++) {
      clock.tick(1_000)
      second.receive(Buffer.from([0x00]))
    }
    t.equal(links[0]?.state, 'down', 'it was dead: its heartbeat found out')
    t.equal(links[1]?.state, 'up')
  }
)

t.test('other names, connection indexes and identities are other clients', async t => {
  const { ends, open, host } = hosting()
  open()

  open({ name: 'pod-2' })
  open({ connectionIndex: 1 })
  open({}, { key: 'blue tendril://client/blue' })

  t.same(ends, [])
  t.equal(host.size, 4)
})

t.test('links are bounded; one less is not refused, and one that ends makes room', async t => {
  const links = new CountedLimit(2, { key: 'link.linkLimit', counted: 'links are open' })
  const { host, open, refused } = hosting({ admit: () => links.acquire() })
  const first = open({ name: 'a' })
  open({ name: 'b' })

  const third = open({ name: 'c' })
  t.match(third.ended, {
    by: 'close',
    error: { code: 'OVERLOADED', detail: 'link.linkLimit: 2 links are open' }
  })
  t.same(refused, ['OVERLOADED'])
  t.equal(host.size, 2)

  open({ name: 'b' })
  t.equal(host.size, 2, 'who replaces a link of its own needs no room')
  first.lose('CLOSED')
  open({ name: 'c' })
  t.equal(host.size, 2)
})

t.test(
  'a link counts until it has ended, also while it is down; a resume and a replacement count once',
  async t => {
    const limit = new CountedLimit(2, { key: 'clusters[demo].limits.links', counted: 'links are open' })
    const asked: string[] = []
    const { open, say, links, clock, refused } = hosting({
      limits: { resumeWindowMs: 1_000 },
      admit: ({ name, connectionIndex }, { key }) => {
        asked.push(`${key} ${name} ${connectionIndex}`)
        return limit.acquire()
      }
    })
    const first = open({ name: 'a' })
    const { id } = welcomeOf(first)
    open({ name: 'b' })
    first.lose()
    t.equal(limit.count, 2, 'down')
    t.match(open({ name: 'c' }).ended, { by: 'close', error: { code: 'OVERLOADED' } })

    t.ok(welcomeOf(say(hello({ name: 'a', resume: { id, received: 0 } }))).resumed)
    t.equal(limit.count, 2, 'resumed')
    const again = open({ name: 'a' })
    t.equal(limit.count, 2, 'replaced')
    again.lose()
    clock.tick(1_000)
    t.equal(limit.count, 1, 'its resume window is over')
    links.at(-1)?.close('CLOSED')

    t.equal(limit.count, 1)
    t.same(refused, ['OVERLOADED'])
    t.equal(asked[0], `${DEMO.key} a 0`)
  }
)

t.test('a server that drains refuses new links and still resumes old ones', async t => {
  const { host, open, say } = hosting()
  const first = open()
  const { id } = welcomeOf(first)
  first.lose()

  host.drain()

  t.match(open({ name: 'late' }).ended, { by: 'close', error: { code: 'DRAINING' } })
  t.equal(welcomeOf(say(hello({ resume: { id, received: 0 } }))).resumed, true)
})

t.test('a draining server does not end the link of a client that asks for a new one', async t => {
  const { host, open, ends } = hosting()
  open()
  host.drain()

  open()

  t.same(ends, [])
})

t.test('all links share one budget, and give back what they kept', async t => {
  const budget = new FairBudget(1_000)
  const { host, links, open } = hosting({ budgetOf: () => budget.share() })
  open({ name: 'a' }).lose()
  open({ name: 'b' }).lose()
  for (const link of links) link.send(Buffer.alloc(10))
  t.equal(budget.usedBytes, 20)

  for (const link of links) link.close('CLOSED')

  t.equal(budget.usedBytes, 0)
  t.equal(host.size, 0)
})

t.test('ten thousand handshakes of all kinds leave no timer behind', async t => {
  const { clock, host, open, say } = hosting()
  for (let round = 0; round < 2_500; round++) {
    open().lose('CLOSED')
    say(Buffer.from('garbage'))
    say(hello({ resume: { id: Buffer.alloc(16), received: 0 } })).lose()
    const silent = new FakeCarrier()
    host.accept(silent, DEMO)
    silent.lose()
  }

  t.equal(host.size, 0)
  t.equal(clock.pending, 0)
})
