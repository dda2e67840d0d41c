import { PassThrough } from 'node:stream'
import t from 'tap'
import { type Dial, DIAL_TIMEOUT_MS, TunnelError } from '@tendril/common'
import { bounded } from '../../src/front/bound.js'
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import { dialContext } from '@tendril/common/test/support/dial-context'

const target = { proto: 'tcp', host: '10.0.0.5', port: 80 } as const
const never = (): AbortSignal => new AbortController().signal

t.test('what settles in time passes through, and no timer is left', async t => {
  const clock = new FakeClock()
  const stream = new PassThrough()
  let asked: unknown

  const got = await bounded(
    async (target, { timeoutMs }) => ((asked = { target, timeoutMs }), stream),
    clock
  )(
    target,
    dialContext({
      signal: never(),
      timeoutMs: 7
    })
  )

  t.equal(got, stream)
  t.same(asked, { target, timeoutMs: 7 })
  t.equal(clock.pending, 0)
})

t.test('a refusal passes through, a stranger is wrapped', async t => {
  const clock = new FakeClock()
  const refused = new TunnelError('TARGET_REFUSED', 'x')

  await t.rejects(bounded(() => Promise.reject(refused), clock)(target, dialContext()), refused)
  await t.rejects(bounded(() => Promise.reject(new Error('boo')), clock)(target, dialContext()), {
    code: 'INTERNAL'
  })
  t.equal(clock.pending, 0)
})

t.test('a dial that never settles times out, is told so, and its late stream is destroyed', async t => {
  const clock = new FakeClock()
  const late = new PassThrough()
  let inner: AbortSignal | undefined
  let deliver: (stream: PassThrough) => void = () => {}
  const dial: Dial = (_, { signal }) => {
    inner = signal
    return new Promise(resolve => (deliver = resolve))
  }

  const pending = bounded(dial, clock)(target, dialContext())
  clock.tick(DIAL_TIMEOUT_MS - 1)
  t.equal(inner?.aborted, false)
  clock.tick(1)

  await t.rejects(pending, {
    code: 'DIAL_TIMEOUT',
    message: 'dial timed out: 10.0.0.5:80 did not answer within 4000 ms'
  })
  t.equal(inner?.aborted, true)
  const closed = new Promise(resolve => late.on('close', resolve))
  deliver(late)
  await closed
  late.emit('error', new Error('nobody listens'))
})

t.test('when the time is over the reason of the dial itself counts, if it has one at once', async t => {
  const table: [own: TunnelError, wanted: { code: string; detail: string | RegExp }][] = [
    [new TunnelError('LINK_LOST', 'all are down'), { code: 'LINK_LOST', detail: 'all are down' }],
    [new TunnelError('DIAL_CANCELLED'), { code: 'DIAL_TIMEOUT', detail: /10\.0\.0\.5:80 did not answer/ }]
  ]
  for (const [own, wanted] of table) {
    const clock = new FakeClock()
    let reported: unknown
    const dial: Dial = (_, { signal }) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => {
          reported = signal.reason
          reject(own)
        })
      })
    const pending = bounded(dial, clock)(target, dialContext())
    clock.tick(DIAL_TIMEOUT_MS)

    await t.rejects(pending, wanted)
    t.match(reported, { code: 'DIAL_TIMEOUT' })
  }
})

t.test('leaving cancels at once, before and during the dial', async t => {
  const clock = new FakeClock()
  const leaving = new AbortController()
  let inner: AbortSignal | undefined
  const hang: Dial = (_, { signal }) => {
    inner = signal
    return new Promise(() => {})
  }

  const pending = bounded(hang, clock)(target, dialContext({ signal: leaving.signal }))
  leaving.abort(new TunnelError('DIAL_CANCELLED', 'why'))
  await t.rejects(pending, { code: 'DIAL_CANCELLED', message: 'caller left: why' })
  t.equal(inner?.aborted, true)

  inner = undefined
  await t.rejects(bounded(hang, clock)(target, dialContext({ signal: leaving.signal })), {
    code: 'DIAL_CANCELLED'
  })
  t.equal(inner, undefined, 'not even dialled')
  t.equal(clock.pending, 0)
})
