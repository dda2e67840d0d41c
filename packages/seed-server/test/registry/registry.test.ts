import { PassThrough } from 'node:stream'
import t from 'tap'
import { type Dial, type ErrorCode, TunnelError } from '@tendril/common'
import { Registry, type RegistryObserver } from '../../src/registry/registry.js'
import { ASK_AGAIN_MS, DIAL_TRIES } from '../../src/registry/search.js'
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import { type Traits, client } from './fake-client.js'
import { dialContext } from '@tendril/common/test/support/dial-context'

const target = { proto: 'tcp', host: '10.0.0.5', port: 80 } as const
const signal = new AbortController().signal

const failing =
  (code: ErrorCode): Dial =>
  () =>
    Promise.reject(new TunnelError(code))

t.test('without a client the sentence names the cluster', async t => {
  const registry = new Registry()
  registry.add(client('other', { cluster: 'other' }).client)

  await t.rejects(registry.dial('demo')(target, dialContext({ signal })), {
    code: 'NO_CLIENT',
    message: 'no client connected for cluster demo'
  })
})

t.test('a released client gets no dials; releasing twice harms nobody', async t => {
  const registry = new Registry()
  const events: string[] = []
  registry.on('add', ({ name }) => events.push(`+${name}`))
  registry.on('remove', ({ name }) => events.push(`-${name}`))
  const a = client('a')
  const { release: first } = registry.add(a.client)
  const { release: second } = registry.add(a.client)

  first()
  first()
  t.same(registry.clients(), [a.client], 'the second add stands')
  second()

  t.same(registry.clients(), [])
  t.same(events, ['+a', '+a', '-a', '-a'])
  await t.rejects(registry.dial('demo')(target, dialContext({ signal })), { code: 'NO_CLIENT' })
})

t.test('a Dial taken early finds the clients that come later', async t => {
  const registry = new Registry()
  const dial = registry.dial('demo')
  const a = client('a')
  registry.add(a.client)

  t.equal(await dial(target, dialContext({ signal })), a.stream)
})

t.test('what another client may do better goes to the next, within the time that is left', async t => {
  const clock = new FakeClock()
  const registry = new Registry({ clock })
  const good = client('good')
  const lost = client('lost', {
    dial: (target, options) => {
      clock.tick(1_500)
      return failing('LINK_LOST')(target, options)
    }
  })
  const full = client('full', { dial: failing('OVERLOADED') })
  for (const { client } of [good, lost, full]) registry.add(client)

  t.equal(await registry.dial('demo')(target, dialContext({ signal, timeoutMs: 4_000 })), good.stream)
  t.same([full.asked, lost.asked, good.asked], [[4_000], [4_000], [2_500]])
})

t.test('what the target said is not asked again elsewhere', async t => {
  const registry = new Registry()
  const good = client('good')
  registry.add(good.client)
  registry.add(client('bad', { dial: failing('TARGET_REFUSED') }).client)

  await t.rejects(registry.dial('demo')(target, dialContext({ signal })), { code: 'TARGET_REFUSED' })
  t.same(good.asked, [])
})

t.test('no more clients are asked when the time is over or the caller has left', async t => {
  const clock = new FakeClock()
  const leaving = new AbortController()
  const registry = new Registry({ clock })
  const good = client('good')
  registry.add(good.client)
  const { release } = registry.add(
    client('slow', {
      dial: (target, options) => {
        clock.tick(4_000)
        return failing('LINK_LOST')(target, options)
      }
    }).client
  )

  await t.rejects(registry.dial('demo')(target, dialContext({ signal })), { code: 'LINK_LOST' })
  release()
  registry.add(
    client('left', {
      dial: (target, options) => {
        leaving.abort()
        return failing('LINK_LOST')(target, options)
      }
    }).client
  )
  await t.rejects(registry.dial('demo')(target, dialContext({ signal: leaving.signal })), {
    code: 'LINK_LOST'
  })
  t.same(good.asked, [])
})

t.test('dials spread over the clients by the streams they have', async t => {
  const registry = new Registry()
  const clients = ['a', 'b', 'c'].map(name => {
    const one = client(name, {
      dial: async () => {
        one.state.streams++
        return new PassThrough()
      }
    })
    return one
  })
  for (const { client } of clients) registry.add(client)

  for (let count = 0; count < 30; count++) await registry.dial('demo')(target, dialContext({ signal }))

  t.same(
    clients.map(({ state }) => state.streams),
    [10, 10, 10]
  )
})

t.test('a dial that finds all clients down waits for the first that is back', async t => {
  const registry = new Registry({ clock: new FakeClock() })
  const [a, b] = [client('a', { down: true }), client('b', { down: true })]
  for (const { client } of [a, b]) registry.add(client)
  const dialled = registry.dial('demo')(target, dialContext({ signal }))

  registry.changed('demo')
  await new Promise(resolve => setImmediate(resolve))
  t.same([a.asked, b.asked], [[], []], 'a change that changes nothing')
  a.state.down = false
  registry.changed('demo')

  t.equal(await dialled, a.stream)
  t.same(b.asked, [])
})

t.test('a client that is new, or replaces one that drains, serves those who wait', async t => {
  for (const traits of [{ down: true }, { draining: true, dial: failing('DRAINING') }]) {
    const registry = new Registry({ clock: new FakeClock() })
    registry.add(client('old', traits).client)
    const dialled = registry.dial('demo')(target, dialContext({ signal }))
    await new Promise(resolve => setImmediate(resolve))
    const fresh = client('fresh')
    registry.add(fresh.client)

    t.equal(await dialled, fresh.stream)
  }
})

t.test(
  'who waits in vain hears why, when the time is over and not later; who leaves is not asked for',
  async t => {
    const clock = new FakeClock()
    const registry = new Registry({ clock })
    const away = client('away', { down: true })
    const { release } = registry.add(away.client)
    const inVain = registry.dial('demo')(target, dialContext({ signal, timeoutMs: 4_000 }))
    const leaving = new AbortController()
    const left = registry.dial('demo')(target, dialContext({ signal: leaving.signal }))
    const outlived = registry.dial('demo')(target, dialContext({ signal, timeoutMs: 9_000 }))

    leaving.abort()
    await t.rejects(left)
    clock.tick(4_000)
    await t.rejects(inVain, { code: 'LINK_LOST', message: /cluster demo is expected back/ })
    release()
    await t.rejects(outlived, { code: 'LINK_LOST' }, 'nobody is expected any more')

    t.equal(clock.pending, 0)
    t.same(away.asked, [])
  }
)

t.test('a dial in the moment between a client and the one that takes its place waits for that', async t => {
  const clock = new FakeClock()
  const registry = new Registry({ clock })
  const { release: leave } = registry.add(client('old').client)
  const reborn = client('reborn')

  leave()
  const arrived = registry.expect('demo')
  const dial = registry.dial('demo')(target, dialContext({ signal, timeoutMs: 4_000 }))
  const late = registry.dial('demo')(target, dialContext({ signal, timeoutMs: 1_000 }))
  const here = registry.dialLocal('demo')(target, dialContext({ signal }))
  await t.rejects(here, { code: 'LINK_LOST' }, 'a replica that asks asks again')
  clock.tick(1_000)
  await t.rejects(late, { code: 'LINK_LOST', detail: /not in time/ }, 'within its own time')
  registry.add(reborn.client)
  arrived()
  arrived()

  t.equal(await dial, reborn.stream)
  t.equal(clock.pending, 0)
})

t.test('a client that was on its way and will not come is waited for by nobody', async t => {
  const registry = new Registry()
  const arrived = registry.expect('demo')
  const dial = registry.dial('demo')(target, dialContext({ signal }))
  dial.catch(() => {})
  await new Promise(resolve => setImmediate(resolve))

  arrived()

  await t.rejects(dial, { code: 'LINK_LOST' })
  await t.rejects(registry.dial('demo')(target, dialContext({ signal })), { code: 'NO_CLIENT' })
})

t.test('a client whose link breaks during the dial is asked again when it is back', async t => {
  const registry = new Registry({ clock: new FakeClock() })
  let attempts = 0
  const stream = new PassThrough()
  const one = client('one', {
    dial: async () => {
      if (attempts++ > 0) return stream
      one.state.down = true
      throw new TunnelError('LINK_LOST')
    }
  })
  registry.add(one.client)
  const dialled = registry.dial('demo')(target, dialContext({ signal }))
  await new Promise(resolve => setImmediate(resolve))
  one.state.down = false
  registry.changed('demo')

  t.equal(await dialled, stream)
})

t.test(
  'other replicas are asked before clients that may be dead, and not after a target has answered',
  async t => {
    const stream = new PassThrough()
    const asked: string[] = []
    const dialRemote = (answer: ErrorCode | 'OK') => (cluster: string) => {
      const dial: Dial = async (target, options) => {
        asked.push(cluster)
        return answer === 'OK' ? stream : failing(answer)(target, options)
      }
      return dial
    }
    const silent = client('silent', { silent: true })

    const lucky = new Registry({ dialRemote: dialRemote('OK') })
    lucky.add(silent.client)
    t.equal(await lucky.dial('demo')(target, dialContext({ signal })), stream)
    t.same([asked, silent.asked], [['demo'], []])

    const unlucky = new Registry({ dialRemote: dialRemote('NO_CLIENT') })
    unlucky.add(silent.client)
    t.equal(await unlucky.dial('demo')(target, dialContext({ signal })), silent.stream)

    const refused = new Registry({ dialRemote: dialRemote('TARGET_REFUSED') })
    refused.add(client('silent', { silent: true }).client)
    await t.rejects(refused.dial('demo')(target, dialContext({ signal })), { code: 'TARGET_REFUSED' })

    asked.length = 0
    const well = new Registry({ dialRemote: dialRemote('OK') })
    well.add(client('well').client)
    await well.dial('demo')(target, dialContext({ signal }))
    t.same(asked, [], 'not needed')
  }
)

t.test('a replica whose client is only away is asked again', async t => {
  const clock = new FakeClock()
  const stream = new PassThrough()
  let asked = 0
  const registry = new Registry({
    clock,
    dialRemote: () => async () => {
      if (++asked < 3) throw new TunnelError('LINK_LOST')
      return stream
    }
  })
  const dialled = registry.dial('demo')(target, dialContext({ signal }))
  for (const wanted of [1, 2]) {
    await new Promise(resolve => setImmediate(resolve))
    t.equal(asked, wanted)
    clock.tick(ASK_AGAIN_MS)
  }

  t.equal(await dialled, stream)
})

t.test('for another replica: out of the clients here, without waiting, and no further', async t => {
  const registry = new Registry({ dialRemote: () => () => t.fail('asked elsewhere') as never })
  const one = client('one')
  await t.rejects(registry.dialLocal('demo')(target, dialContext({ signal })), { code: 'NO_CLIENT' })
  registry.add(one.client)
  t.equal(await registry.dialLocal('demo')(target, dialContext({ signal })), one.stream)
  one.state.down = true
  await t.rejects(registry.dialLocal('demo')(target, dialContext({ signal })), { code: 'LINK_LOST' })
})

t.test('outcomes and failovers are counted', async t => {
  const events: string[] = []
  const observer: RegistryObserver = {
    dialed: ({ cluster, code }) => events.push(`${cluster} ${code}`),
    failedOver: ({ code }) => events.push(`after ${code}`)
  }
  const registry = new Registry({ observer })
  await registry
    .dial('demo')(target, dialContext({ signal }))
    .catch(() => {})
  registry.add(client('good').client)
  registry.add(client('full', { dial: failing('OVERLOADED'), rttMs: 0 }).client)
  await registry.dial('demo')(target, dialContext({ signal }))

  t.same(events, ['demo NO_CLIENT', 'after OVERLOADED', 'demo OK'])
})

t.test('a dial asks so many clients and no more, whatever they answer', async t => {
  for (const count of [DIAL_TRIES - 1, DIAL_TRIES, DIAL_TRIES + 1, 48]) {
    const registry = new Registry()
    const clients = Array.from({ length: count }, (_, number) =>
      client(`${number}`, { dial: failing('OVERLOADED') })
    )
    for (const { client } of clients) registry.add(client)

    await t.rejects(registry.dial('demo')(target, dialContext({ signal })), { code: 'OVERLOADED' })
    const asked = clients.filter(({ asked }) => asked.length > 0)
    t.equal(asked.length, Math.min(count, DIAL_TRIES))
  }
})

t.test('who answered that it drains is asked last from then on, until it is back', async t => {
  const registry = new Registry({ clock: new FakeClock() })
  const draining = client('draining', { dial: failing('DRAINING') })
  const other = client('other', { streams: 9 })
  const { changed } = registry.add(draining.client)
  registry.add(other.client)
  const dial = () => registry.dial('demo')(target, dialContext({ signal }))

  for (let dials = 0; dials < 3; dials++) t.equal(await dial(), other.stream)
  t.equal(draining.asked.length, 1)
  t.equal(registry.serving('demo'), 1)

  for (const down of [true, false]) {
    draining.state.down = down
    changed()
  }
  t.equal(registry.serving('demo'), 2)
  t.equal(await dial(), other.stream)
  t.equal(draining.asked.length, 2, 'its next word counts')
})

t.test('a dial whose tries are used up asks who comes meanwhile, once for each time', async t => {
  const clock = new FakeClock()
  const registry = new Registry({ clock })
  const draining = Array.from({ length: 10 }, (_, number) =>
    client(`${number}`, { dial: failing('DRAINING') })
  )
  for (const { client } of draining) registry.add(client)
  const dialled = registry.dial('demo')(target, dialContext({ signal }))
  const tries = () => draining.reduce((sum, { asked }) => sum + asked.length, 0)
  const turn = () => new Promise(resolve => setImmediate(resolve))
  await turn()
  t.equal(tries(), DIAL_TRIES)
  registry.changed('demo')
  await turn()
  t.equal(tries(), DIAL_TRIES, 'nobody came')

  registry.add(client('as bad', { dial: failing('DRAINING') }).client)
  await turn()
  t.equal(tries(), DIAL_TRIES)
  const good = client('good')
  registry.add(good.client)

  t.equal(await dialled, good.stream)
  t.equal(clock.pending, 0)
})

t.test('who does not respond is waited for, and asked again when it does', async t => {
  const registry = new Registry({ clock: new FakeClock() })
  const hung = client('hung', {
    dial: async () => {
      if (hung.asked.length > 1) return hung.stream
      hung.state.silent = true
      throw new TunnelError('LINK_LOST', 'it does not respond')
    }
  })
  const { changed } = registry.add(hung.client)
  const dialled = registry.dial('demo')(target, dialContext({ signal }))
  await new Promise(resolve => setImmediate(resolve))
  t.equal(hung.asked.length, 1, 'not again while it does not respond')

  hung.state.silent = false
  changed()

  t.equal(await dialled, hung.stream)
})

t.test(
  'why nobody could be asked: what is known of the clients, and never that a target was slow',
  async t => {
    const table: [clients: Record<string, Traits>, code: ErrorCode, message: RegExp][] = [
      [{}, 'NO_CLIENT', /^no client connected for cluster demo$/],
      [{ a: { down: true } }, 'LINK_LOST', /\(clients: 1 down\)$/],
      [
        { a: { down: true }, b: { down: true }, c: { draining: true, dial: failing('DRAINING') } },
        'DRAINING',
        /^draining$/
      ],
      [{ a: { silent: true, dial: failing('LINK_LOST') } }, 'LINK_LOST', /^link lost$/]
    ]
    for (const [clients, code, message] of table) {
      const clock = new FakeClock()
      const registry = new Registry({ clock })
      for (const [name, traits] of Object.entries(clients)) registry.add(client(name, traits).client)
      const own = registry.dial('demo')(target, dialContext({ signal, timeoutMs: 4_000 }))
      own.catch(() => {})
      const late = new AbortController()
      const front = registry.dial('demo')(target, dialContext({ signal: late.signal, timeoutMs: 9_000 }))
      front.catch(() => {})
      await new Promise(resolve => setImmediate(resolve))

      clock.tick(4_000)
      late.abort(new TunnelError('DIAL_TIMEOUT', 'the front has waited long enough'))

      await t.rejects(own, { code, message })
      await t.rejects(front, { code, message }, "when the front's time is over first")
      t.equal(clock.pending, 0)
    }
  }
)

t.test('a client that was asked and does not answer in time is a timeout', async t => {
  const codes: string[] = []
  const registry = new Registry({
    observer: { dialed: ({ code }) => codes.push(code), failedOver: () => {} }
  })
  const never: Dial = (_target, { signal }) =>
    new Promise((_, reject) => {
      signal.addEventListener('abort', () => reject(new TunnelError('DIAL_CANCELLED')))
    })
  registry.add(client('slow', { dial: never }).client)
  const late = new AbortController()
  const dialled = registry.dial('demo')(target, dialContext({ signal: late.signal }))
  late.abort(new TunnelError('DIAL_TIMEOUT', 'in time'))

  await t.rejects(dialled, { code: 'DIAL_TIMEOUT', detail: 'in time' })
  t.same(codes, ['DIAL_TIMEOUT'])
})

t.test(
  'a client over a link that does not respond was perhaps not asked: no timeout of a target',
  async t => {
    const registry = new Registry()
    const silent: Dial = (_target, { signal }) =>
      new Promise((_, reject) => {
        signal.addEventListener('abort', () => reject(new TunnelError('LINK_LOST', 'it does not respond')))
      })
    registry.add(client('hung', { dial: silent }).client)
    const late = new AbortController()
    const dialled = registry.dial('demo')(target, dialContext({ signal: late.signal }))
    late.abort(new TunnelError('DIAL_TIMEOUT', 'in time'))

    await t.rejects(dialled, { code: 'LINK_LOST', detail: 'it does not respond' })
  }
)

t.test('whether another client could be asked follows what they are like now', async t => {
  const registry = new Registry()
  t.notOk(registry.hasWell('demo'))
  const one = client('one', { silent: true })
  registry.add(one.client)
  registry.add(client('two', { draining: true }).client)
  registry.add(client('three', { down: true }).client)
  registry.add(client('elsewhere', { cluster: 'other' }).client)
  t.notOk(registry.hasWell('demo'))

  one.state.silent = false

  t.ok(registry.hasWell('demo'), 'seen without a report')
})
