import t from 'tap'
import { systemClock } from '../src/clock.js'
import { createLog } from '../src/log.js'
import { chooseResolver, createResolve, logResolver, shared, threadsForNames } from '../src/resolve.js'
import { ResolverFiles } from '../src/resolver-files.js'

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
  const resolve = shared({ limit: 2, lookup, atLimit: 'wait', clock: systemClock })

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
  const resolve = shared({ limit: 2, lookup, atLimit: 'wait', clock: systemClock })

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
  const resolve = shared({ limit: 1, lookup, atLimit: 'wait', clock: systemClock })
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

t.test('at the limit the oldest question is given up, not the next one refused', async t => {
  for (const count of [1, 2, 3]) {
    const asked: string[] = []
    const lookup = (name: string, signal: AbortSignal) => {
      asked.push(name)
      return new Promise<string[]>((_, reject) =>
        signal.addEventListener('abort', () => reject(signal.reason as Error))
      )
    }
    const resolve = shared({ limit: 2, lookup, atLimit: 'dropOldest', clock: systemClock })
    const controller = new AbortController()
    const ends = Array.from({ length: count }, (_, at) =>
      resolve(`n${at}`, controller.signal).then(
        () => 'answer',
        (error: unknown) => (error as { code?: string }).code
      )
    )
    await new Promise(setImmediate)
    controller.abort(Object.assign(new Error(), { code: 'left' }))
    t.equal(asked.length, count)
    t.same(await Promise.all(ends), count > 2 ? ['OVERLOADED', 'left', 'left'] : ends.map(() => 'left'))
  }
})

t.test('auto is getaddrinfo where only that can do what the files ask for', async t => {
  const directory = t.testdir({ resolvConf: 'nameserver 192.0.2.1\n', nsswitch: 'hosts: files mdns dns\n' })
  const pathsOf = (nsswitch: string) => ({
    resolvConf: `${directory}/resolvConf`,
    hosts: `${directory}/none`,
    nsswitch: `${directory}/${nsswitch}`
  })
  const choose = (nsswitch: string, options = {}) =>
    chooseResolver(options, new ResolverFiles(systemClock, pathsOf(nsswitch)))

  t.match(choose('none'), { resolver: 'own', reasons: [/need no getaddrinfo/] })
  t.match(choose('nsswitch'), { resolver: 'system', reasons: ['nsswitch.conf "hosts: … mdns"'] })
  t.match(choose('nsswitch', { resolver: 'own' }), { resolver: 'own', reasons: ['dns.resolver is own'] })
  t.match(choose('none', { resolver: 'system' }), { resolver: 'system', reasons: ['dns.resolver is system'] })
  t.match(choose('nsswitch', { nameservers: ['192.0.2.1'] }), {
    resolver: 'own',
    reasons: ['dns.nameservers is set']
  })

  const lines: string[] = []
  logResolver(createLog({ destination: { write: line => lines.push(line) } }), { paths: pathsOf('nsswitch') })
  t.match(
    lines.map(line => JSON.parse(line) as object),
    [{ event: 'resolver.chosen', resolver: 'system', reasons: ['nsswitch.conf "hosts: … mdns"'] }]
  )
})

t.test('with getaddrinfo one thread stays free for the names of our own servers', async t => {
  const before = process.env['UV_THREADPOOL_SIZE']
  t.teardown(() => {
    if (before === undefined) delete process.env['UV_THREADPOOL_SIZE']
    else process.env['UV_THREADPOOL_SIZE'] = before
  })
  for (const [size, threads] of [
    ['', 1],
    ['1', 1],
    ['4', 1],
    ['5', 2],
    ['16', 7]
  ] as const) {
    process.env['UV_THREADPOOL_SIZE'] = size
    t.equal(threadsForNames(), threads, size)
  }
})
