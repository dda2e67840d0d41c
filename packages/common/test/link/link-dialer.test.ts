import { EventEmitter } from 'node:events'
import { PassThrough } from 'node:stream'
import t from 'tap'
import { type Dial, type DialContext, TunnelError } from '../../src/index.js'
import type { Link } from '../../src/link/link.js'
import { ANSWER_ROUND_TRIPS, ANSWER_WAIT_MS, LinkDialer } from '../../src/link/link-dialer.js'
import { FakeClock } from '../support/fake-clock.js'
import { dialContext } from '../support/dial-context.js'

const target = { proto: 'tcp', host: '10.0.0.5', port: 80 } as const
/** Most time between two looks at a link. */
const LOOK_MS = 25
const never = (): AbortSignal => new AbortController().signal

/** The part of a link that matters here, and a dial over it whose answers the test gives. */
function dialledLink({ responds = true, roundTripMs = 0, hasOtherLink = (): boolean => true } = {}) {
  const clock = new FakeClock()
  const link = Object.assign(new EventEmitter(), {
    state: 'up',
    bytesReceived: 1,
    roundTripMs,
    silentMs: 0,
    limits: { pingIntervalMs: 5_000 },
    responds,
    probes: 0,
    probe() {
      link.probes++
      if (link.responds) clock.after(1, () => link.bytesReceived++)
    }
  })
  const asked: DialContext[] = []
  const answers: (() => void)[] = []
  const stream = new PassThrough()
  const dial: Dial = (_target, options) => {
    asked.push(options)
    return new Promise((resolve, reject) => {
      answers.push(() => resolve(stream))
      options.signal.addEventListener('abort', () => reject(new TunnelError('DIAL_CANCELLED')))
      if (options.signal.aborted) reject(new TunnelError('DIAL_CANCELLED'))
    })
  }
  const lose = (): void => {
    link.state = 'down'
    link.emit('down', new TunnelError('LINK_LOST', 'reset'))
  }
  const changes: boolean[] = []
  const dialer = new LinkDialer(link as unknown as Link, dial, {
    clock,
    hasOtherLink,
    onResponsive: responsive => changes.push(responsive)
  })
  return { clock, link, dialer, dial: dialer.dial, asked, answers, stream, lose, changes }
}

t.test('while the link is up a dial goes through, with its bound, and leaves no timer for long', async t => {
  const { clock, dial, asked, answers, stream } = dialledLink()
  const dialled = dial(target, dialContext({ signal: never(), timeoutMs: 1_234 }))
  answers[0]?.()

  t.equal(await dialled, stream)
  t.equal(asked[0]?.timeoutMs, 1_234)
  clock.tick(LOOK_MS)
  t.equal(clock.pending, 0)
})

t.test('a link that is down is not waited for, and one that goes down not any longer', async t => {
  const { dial, asked, lose } = dialledLink()
  const underWay = [dial(target, dialContext()), dial(target, dialContext())]
  lose()

  for (const dialled of underWay) await t.rejects(dialled, { code: 'LINK_LOST', message: /reset/ })
  t.ok(
    asked.every(({ signal }) => signal.aborted),
    'taken back'
  )
  await t.rejects(dial(target, dialContext()), { code: 'LINK_LOST' })
  t.equal(asked.length, 2)
})

t.test('a caller who leaves takes the dial back; a stream that is open stays whatever happens', async t => {
  const { dial, lose, answers, link, stream } = dialledLink()
  const leaving = new AbortController()
  const left = dial(target, dialContext({ signal: leaving.signal }))
  leaving.abort()
  await t.rejects(left, { code: 'DIAL_CANCELLED' })
  await t.rejects(
    dial(target, dialContext({ signal: leaving.signal })),
    { code: 'DIAL_CANCELLED' },
    'left before'
  )

  const dialled = dial(target, dialContext())
  answers.at(-1)?.()
  await dialled
  lose()

  t.notOk(stream.destroyed)
  t.equal(link.listenerCount('down'), 1, 'one listener, however many dials')
})

t.test('a side that answers neither dial nor probe is given up within two waits', async t => {
  const { clock, link, dialer, dial, asked, changes } = dialledLink({ responds: false })
  const dials = [dial(target, dialContext()), dial(target, dialContext())]
  const late = dial(target, dialContext())

  clock.tick(ANSWER_WAIT_MS - LOOK_MS)
  t.equal(link.probes, 0, 'an answer may take its time')
  clock.tick(2 * LOOK_MS)
  t.equal(link.probes, 1, 'one probe, however many dials wait')
  t.same(changes, [])
  clock.tick(ANSWER_WAIT_MS)

  for (const dialled of [...dials, late]) {
    await t.rejects(dialled, { code: 'LINK_LOST', message: /does not respond, no sign of life for 400 ms/ })
  }
  t.ok(
    asked.every(({ signal }) => signal.aborted),
    'taken back'
  )
  t.ok(dialer.silent)
  t.same(changes, [false])
})

t.test('while there is no other link to ask, a dial stays, and its late answer counts', async t => {
  const hasOtherLink = () => false
  const { clock, link, dialer, dial, asked, answers, stream, changes } = dialledLink({
    responds: false,
    hasOtherLink
  })
  const dialled = dial(target, dialContext())

  clock.tick(4 * ANSWER_WAIT_MS)
  t.same(changes, [false])
  t.ok(dialer.silent)
  t.equal(asked[0]?.signal.aborted, false, 'not taken back')
  link.bytesReceived++
  answers[0]?.()

  t.equal(await dialled, stream)
  t.equal(asked.length, 1)
  clock.tick(LOOK_MS)
  t.same(changes, [false, true])
  t.equal(clock.pending, 0)
})

t.test('a dial that stayed is taken back when another link comes', async t => {
  let others = false
  const { clock, link, dial, asked } = dialledLink({ responds: false, hasOtherLink: () => others })
  const dialled = dial(target, dialContext())
  dialled.catch(() => {})
  clock.tick(4 * ANSWER_WAIT_MS)
  t.equal(asked[0]?.signal.aborted, false)
  t.ok(link.probes >= 3, 'one probe after the other')

  others = true
  clock.tick(ANSWER_WAIT_MS + LOOK_MS)

  await t.rejects(dialled, { code: 'LINK_LOST' })
  t.equal(asked[0]?.signal.aborted, true)
})

t.test('a dial that stayed ends with its time: nothing was heard, so no target is blamed', async t => {
  const { clock, link, dial } = dialledLink({ responds: false, hasOtherLink: () => false })
  const [late, left] = [new AbortController(), new AbortController()]
  const overdue = dial(target, dialContext({ signal: late.signal }))
  const cancelled = dial(target, dialContext({ signal: left.signal }))
  clock.tick(3 * ANSWER_WAIT_MS)

  late.abort(new TunnelError('DIAL_TIMEOUT'))
  left.abort()

  await t.rejects(overdue, { code: 'LINK_LOST', message: /does not respond, no sign of life for 400 ms/ })
  await t.rejects(cancelled, { code: 'DIAL_CANCELLED' }, 'the caller left')
  link.bytesReceived++
  const slow = dial(target, dialContext({ signal: late.signal }))
  await t.rejects(slow, { code: 'DIAL_CANCELLED' }, 'it responds again')
})

t.test('the next byte makes it responsive again; until then a dial is probed for at once', async t => {
  const { clock, link, dialer, dial, answers, stream, changes } = dialledLink({ responds: false })
  const first = dial(target, dialContext())
  clock.tick(2 * ANSWER_WAIT_MS + 2 * LOOK_MS)
  await t.rejects(first, { code: 'LINK_LOST' })

  const second = dial(target, dialContext())
  clock.tick(ANSWER_WAIT_MS + 2 * LOOK_MS)
  await t.rejects(second, { code: 'LINK_LOST' }, 'after one wait')
  t.same(changes, [false], 'told once')

  link.bytesReceived++
  t.notOk(dialer.silent, 'as soon as the byte is there')
  clock.tick(LOOK_MS)
  t.same(changes, [false, true])
  const third = dial(target, dialContext())
  clock.tick(ANSWER_WAIT_MS)
  answers.at(-1)?.()
  t.equal(await third, stream)
  clock.tick(LOOK_MS)
  t.equal(clock.pending, 0)
})

t.test('a side that answers probes is left to wait for a slow target', async t => {
  const { clock, link, dialer, dial, answers, stream, changes } = dialledLink()
  const dialled = dial(target, dialContext({ signal: never(), timeoutMs: 9_000 }))
  clock.tick(8_000)
  t.ok(link.probes > 10 && link.probes <= 20, `${link.probes} probes`)
  answers[0]?.()

  t.equal(await dialled, stream)
  t.notOk(dialer.silent)
  t.same(changes, [])
})

t.test('one that hangs while the target is slow is noticed as soon', async t => {
  const { clock, link, dial } = dialledLink()
  const dialled = dial(target, dialContext())
  clock.tick(1_000)
  link.responds = false
  clock.tick(2 * ANSWER_WAIT_MS + 2 * LOOK_MS)

  await t.rejects(dialled, { code: 'LINK_LOST' })
})

t.test('the wait follows the round trip, and leaves half of the bound to others', async t => {
  const table: [roundTripMs: number, timeoutMs: number, waitMs: number][] = [
    [0, 4_000, ANSWER_WAIT_MS],
    [100, 4_000, ANSWER_WAIT_MS],
    [200, 4_000, ANSWER_ROUND_TRIPS * 200],
    [2_000, 4_000, 1_000],
    [0, 800, 200]
  ]
  for (const [roundTripMs, timeoutMs, waitMs] of table) {
    const { clock, link, dial } = dialledLink({ responds: false, roundTripMs })
    const dialled = dial(target, dialContext({ signal: never(), timeoutMs }))
    clock.tick(waitMs - 1)
    t.equal(link.probes, 0)
    clock.tick(1 + LOOK_MS)
    t.equal(link.probes, 1, `${roundTripMs} ms round trip, ${timeoutMs} ms bound`)
    clock.tick(waitMs + LOOK_MS)
    await t.rejects(dialled, { code: 'LINK_LOST' })
  }
})

t.test('time in which this process itself stood still counts for nothing', async t => {
  const { clock, link, dial, dialer } = dialledLink({ responds: false })
  const dialled = dial(target, dialContext())
  dialled.catch(() => {})
  clock.tick(ANSWER_WAIT_MS + LOOK_MS)
  t.equal(link.probes, 1)

  clock.jump(5_000)
  t.notOk(dialer.silent, 'the answer may lie unread')
  clock.tick(ANSWER_WAIT_MS)
  t.ok(dialer.silent)
  await t.rejects(dialled, { code: 'LINK_LOST' })
})

t.test('silence longer than a ping and its answer is remarkable', async t => {
  const { link, dialer } = dialledLink()
  link.silentMs = 7_500
  t.notOk(dialer.silent)
  link.silentMs = 7_501
  t.ok(dialer.silent)
})

t.test('a link that is closed while its other side hangs is not looked at any more', async t => {
  const { clock, link, dial } = dialledLink({ responds: false })
  const dialled = dial(target, dialContext())
  clock.tick(2 * ANSWER_WAIT_MS + 2 * LOOK_MS)
  await t.rejects(dialled, { code: 'LINK_LOST' })

  link.state = 'closed'
  link.emit('close', new TunnelError('OVERLOADED'))
  clock.tick(LOOK_MS)
  t.equal(clock.pending, 0)
})
