import { EventEmitter } from 'node:events'
import { PassThrough } from 'node:stream'
import t from 'tap'
import { type Dial, type DialOptions, TunnelError } from '../../src/index.js'
import type { Link } from '../../src/link/link.js'
import { isSilent, whileUp } from '../../src/link/while-up.js'

const target = { proto: 'tcp', host: '10.0.0.5', port: 80 } as const

/** The part of a link that matters here, and a dial over it whose answer the test gives. */
function line() {
  const state: { state: Link['state'] } = { state: 'up' }
  const link = Object.assign(new EventEmitter(), state)
  const asked: DialOptions[] = []
  const stream = new PassThrough()
  let answer = (): void => {}
  const dial: Dial = (_target, options) => {
    asked.push(options)
    return new Promise((resolve, reject) => {
      answer = () => resolve(stream)
      options.signal.addEventListener('abort', () => reject(new TunnelError('DIAL_CANCELLED')))
      if (options.signal.aborted) reject(new TunnelError('DIAL_CANCELLED'))
    })
  }
  const lose = (): void => {
    link.state = 'down'
    link.emit('down', new TunnelError('LINK_LOST', 'reset'))
  }
  return { link, dial: whileUp(link as unknown as Link, dial), asked, stream, lose, answer: () => answer() }
}

t.test('while the link is up a dial goes through, with its bound', async t => {
  const { dial, asked, answer, stream } = line()
  const dialled = dial(target, { signal: new AbortController().signal, timeoutMs: 1_234 })
  answer()

  t.equal(await dialled, stream)
  t.equal(asked[0]?.timeoutMs, 1_234)
})

t.test('a link that is down is not waited for, and one that goes down not any longer', async t => {
  const { dial, asked, lose } = line()
  const { signal } = new AbortController()
  const underWay = [dial(target, { signal }), dial(target, { signal })]
  lose()

  for (const dialled of underWay) await t.rejects(dialled, { code: 'LINK_LOST', message: /reset/ })
  t.ok(
    asked.every(({ signal }) => signal.aborted),
    'taken back'
  )
  await t.rejects(dial(target, { signal }), { code: 'LINK_LOST' })
  t.equal(asked.length, 2)
})

t.test('a caller who leaves takes the dial back; a stream that is open stays whatever happens', async t => {
  const { dial, lose, answer, link, stream } = line()
  const leaving = new AbortController()
  const left = dial(target, { signal: leaving.signal })
  leaving.abort()
  await t.rejects(left, { code: 'DIAL_CANCELLED' })
  await t.rejects(dial(target, { signal: leaving.signal }), { code: 'DIAL_CANCELLED' }, 'left before')

  const dialled = dial(target, { signal: new AbortController().signal })
  answer()
  await dialled
  lose()

  t.notOk(stream.destroyed)
  t.equal(link.listenerCount('down'), 1, 'one listener, however many dials')
})

t.test('silence longer than a ping and its answer is remarkable', async t => {
  const limits = { pingIntervalMs: 5_000 } as Link['limits']
  t.notOk(isSilent({ silentMs: 7_500, limits }))
  t.ok(isSilent({ silentMs: 7_501, limits }))
})
