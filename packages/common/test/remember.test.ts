import t from 'tap'
import { REMEMBERED_NAMES, REMEMBER_AFTER_MS, remembering } from '../src/remember.js'
import type { Resolve } from '../src/resolve.js'
import { FakeClock } from './support/fake-clock.js'

const never = () => new AbortController().signal

/** A resolver that answers when the test says so. */
function names(clock = new FakeClock()) {
  const asked: string[] = []
  let settle: { resolve: (addresses: string[]) => void; reject: (error: Error) => void } | undefined
  const inner: Resolve = name => {
    asked.push(name)
    return new Promise((resolve, reject) => (settle = { resolve, reject }))
  }
  const reported: string[] = []
  const resolve = remembering(inner, {
    clock,
    onRemembered: (name, reason) => reported.push(`${name}: ${reason}`)
  })
  const fail = (code: string) => settle?.reject(Object.assign(new Error(code), { code }))
  return {
    clock,
    asked,
    reported,
    resolve,
    answer: (addresses: string[]) => settle?.resolve(addresses),
    fail
  }
}

async function known({ resolve, answer }: ReturnType<typeof names>): Promise<void> {
  const first = resolve('vpn.test', never())
  answer(['192.0.2.1'])
  await first
}

t.test(
  'a silent nameserver is not waited for when the last addresses are known, and its answer counts next time',
  async t => {
    const all = names()
    await known(all)

    const second = all.resolve('vpn.test', never())
    all.clock.tick(REMEMBER_AFTER_MS - 1)
    await new Promise(setImmediate)
    t.same(all.reported, [])
    all.clock.tick(1)
    t.same(await second, ['192.0.2.1'])
    t.same(all.reported, [`vpn.test: no nameserver answered within ${REMEMBER_AFTER_MS} ms`])

    const third = all.resolve('vpn.test', never())
    t.equal(all.asked.length, 2, 'the question is still under way')
    all.answer(['192.0.2.2'])
    t.same(await third, ['192.0.2.2'])
    const fourth = all.resolve('vpn.test', never())
    all.clock.tick(REMEMBER_AFTER_MS)
    t.same(await fourth, ['192.0.2.2'])
    t.equal(all.clock.pending, 0)
  }
)

t.test(
  'a nameserver that cannot say is one that is silent, a name that does not exist is forgotten',
  async t => {
    const all = names()
    await known(all)

    const second = all.resolve('vpn.test', never())
    all.fail('EAI_AGAIN')
    t.same(await second, ['192.0.2.1'])
    const third = all.resolve('vpn.test', never())
    all.fail('ENOTFOUND')
    await t.rejects(third, { code: 'ENOTFOUND' })
    const fourth = all.resolve('vpn.test', never())
    all.fail('EAI_AGAIN')
    await t.rejects(fourth, { code: 'EAI_AGAIN' }, 'nothing is known any more')
  }
)

t.test('a nameserver that is slow, and then fails, is reported once, however many wait for it', async t => {
  const all = names()
  await known(all)

  const slow = [all.resolve('vpn.test', never()), all.resolve('vpn.test', never())]
  all.clock.tick(REMEMBER_AFTER_MS)
  for (const addresses of await Promise.all(slow)) t.same(addresses, ['192.0.2.1'])
  const late = all.resolve('vpn.test', never())
  all.fail('EAI_AGAIN')
  t.same(await late, ['192.0.2.1'])
  t.same(all.reported, [`vpn.test: no nameserver answered within ${REMEMBER_AFTER_MS} ms`])

  const next = all.resolve('vpn.test', never())
  all.fail('EAI_AGAIN')
  await next
  t.same(all.reported.slice(1), ['vpn.test: EAI_AGAIN'], 'another question, another report')
  t.equal(all.clock.pending, 0)
})

t.test('who leaves is told at once', async t => {
  const all = names()
  await known(all)
  const controller = new AbortController()
  const second = all.resolve('vpn.test', controller.signal)
  controller.abort(new Error('left'))
  await t.rejects(second, { message: 'left' })
  await t.rejects(all.resolve('vpn.test', controller.signal), { message: 'left' })
  t.equal(all.clock.pending, 0)
  t.same(all.reported, [])
})

t.test('no more than 256 names are remembered, the oldest goes', async t => {
  const clock = new FakeClock()
  let silent = false
  const resolve = remembering(
    (name, signal) =>
      silent
        ? new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))
        : Promise.resolve([name]),
    { clock }
  )
  for (let at = 0; at <= REMEMBERED_NAMES; at++) await resolve(`n${at}`, never())
  silent = true
  const second = resolve('n1', never())
  clock.tick(REMEMBER_AFTER_MS)
  t.same(await second, ['n1'])
  const first = resolve('n0', AbortSignal.abort(new Error('not known')))
  void first.catch(() => {})
  const controller = new AbortController()
  const forgotten = resolve('n0', controller.signal)
  clock.tick(REMEMBER_AFTER_MS)
  controller.abort(new Error('still waiting'))
  await t.rejects(forgotten, { message: 'still waiting' })
})
