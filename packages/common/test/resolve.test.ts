import t from 'tap'
import { createResolve } from '../src/resolve.js'

/** A name service that answers when the test says so. */
function service() {
  const asked: string[] = []
  const answers = new Map<
    string,
    { resolve: (addresses: string[]) => void; reject: (error: Error) => void }
  >()
  const lookup = (name: string) => {
    asked.push(name)
    return new Promise<string[]>((resolve, reject) => answers.set(name, { resolve, reject }))
  }
  return { asked, lookup, answer: (name: string) => answers.get(name)! }
}
const never = () => new AbortController().signal

t.test('no more questions at once than threads, the others wait their turn', async t => {
  const { asked, lookup, answer } = service()
  const resolve = createResolve({ maxLookups: 2, lookup })

  const all = ['a', 'b', 'c', 'd'].map(name => resolve(name, never()))
  t.same(asked, ['a', 'b'])
  answer('b').resolve(['10.0.0.2'])
  t.same(await all[1], ['10.0.0.2'])
  t.same(asked, ['a', 'b', 'c'])
  answer('a').reject(Object.assign(new Error('no'), { code: 'ENOTFOUND' }))
  await t.rejects(all[0]!, { code: 'ENOTFOUND' })
  t.same(asked, ['a', 'b', 'c', 'd'])
  answer('c').resolve([])
  answer('d').resolve([])
  await Promise.all([all[2], all[3]])
})

t.test('all who ask for one name meanwhile share one question, and later ones ask anew', async t => {
  const { asked, lookup, answer } = service()
  const resolve = createResolve({ maxLookups: 2, lookup })

  const all = Array.from({ length: 100 }, () => resolve('slow', never()))
  answer('slow').resolve(['10.0.0.1'])
  t.same(
    await Promise.all(all),
    Array.from({ length: 100 }, () => ['10.0.0.1'])
  )
  t.same(asked, ['slow'])

  const again = resolve('slow', never())
  t.same(asked, ['slow', 'slow'])
  answer('slow').resolve(['10.0.0.9'])
  t.same(await again, ['10.0.0.9'])
})

t.test('who leaves is told at once, and a question nobody waits for takes no thread', async t => {
  const { asked, lookup, answer } = service()
  const resolve = createResolve({ maxLookups: 1, lookup })
  const controller = new AbortController()

  const first = resolve('a', controller.signal)
  const second = resolve('b', controller.signal)
  const third = resolve('c', never())
  controller.abort(new Error('left'))

  await t.rejects(first, { message: 'left' })
  await t.rejects(second, { message: 'left' })
  await t.rejects(resolve('d', controller.signal), { message: 'left' })
  answer('a').resolve(['10.0.0.1'])
  await new Promise(setImmediate)
  t.same(asked, ['a', 'c'], 'b was dropped')
  answer('c').resolve(['10.0.0.3'])
  t.same(await third, ['10.0.0.3'])
})

t.test('the operating system knows localhost and not what is no name', async t => {
  const resolve = createResolve()

  t.ok((await resolve('localhost', never())).some(address => address === '127.0.0.1' || address === '::1'))
  await t.rejects(resolve('no-such-name.invalid', never()), { code: /ENOTFOUND|EAI_AGAIN/ })
})
