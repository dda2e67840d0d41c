import { PassThrough } from 'node:stream'
import t from 'tap'
import {
  type Dial,
  type DialContext,
  type ErrorCode,
  HOP_LIMIT,
  type Target,
  TunnelError
} from '@tendril/common'
import { createForwardedDial } from '../../src/peers/forwarded-dial.js'
import { FORWARD_TRIES, type PeerView, createForward } from '../../src/peers/forward.js'
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import { dialContext } from '@tendril/common/test/support/dial-context'

const target: Target = { proto: 'tcp', host: '10.0.0.5', port: 80 }
const signal = new AbortController().signal

/** Peers whose answers are told by name; `asked` is whom, in order. */
function world(answers: Record<string, ErrorCode | 'OK'>) {
  const asked: string[] = []
  const codes: string[] = []
  const targets: Target[] = []
  const clock = new FakeClock()
  const peers = Object.keys(answers).map((server): PeerView => ({
    server,
    silent: false,
    sibling: false,
    dial: async wanted => {
      asked.push(server)
      targets.push(wanted)
      const code = answers[server] ?? 'OK'
      if (code === 'OK') return new PassThrough()
      throw new TunnelError(code)
    }
  }))
  const forward = createForward({ peers: () => peers, onAnswer: ({ code }) => codes.push(code), clock })
  return { forward, asked, answers, codes, targets, clock, peers }
}

t.test('peers without a client are passed by, and the target names the cluster', async t => {
  const { forward, asked, codes, targets } = world({
    a: 'NO_CLIENT',
    b: 'UNKNOWN_CLUSTER',
    c: 'LINK_LOST',
    d: 'OK',
    e: 'OK'
  })

  await forward('demo')(target, dialContext({ signal }))

  t.same(asked, ['a', 'b', 'c', 'd'])
  t.same(codes, ['NO_CLIENT', 'UNKNOWN_CLUSTER', 'LINK_LOST', 'OK'])
  t.same(targets[0], { ...target, cluster: 'demo' })
})

t.test('who served a cluster last is asked first, for that cluster', async t => {
  const { forward, asked, answers } = world({ a: 'NO_CLIENT', b: 'NO_CLIENT', c: 'OK' })
  await forward('demo')(target, dialContext({ signal }))
  asked.length = 0
  await forward('demo')(target, dialContext({ signal }))
  t.same(asked, ['c'])

  answers['c'] = 'NO_CLIENT'
  answers['b'] = 'OK'
  await forward('demo')(target, dialContext({ signal }))
  asked.length = 0
  await forward('demo')(target, dialContext({ signal }))
  t.same(asked, ['b'])

  asked.length = 0
  await forward('other')(target, dialContext({ signal }))
  t.same(asked, ['a', 'b'])
})

t.test('what the target said is the answer; nobody else is asked', async t => {
  const { forward, asked } = world({ a: 'TARGET_REFUSED', b: 'OK' })

  await t.rejects(forward('demo')(target, dialContext({ signal })), { code: 'TARGET_REFUSED' })
  t.same(asked, ['a'])
})

t.test('when none can serve, a client that is only away is the better reason', async t => {
  await t.rejects(world({}).forward('demo')(target, dialContext({ signal })), {
    code: 'NO_CLIENT',
    message: /demo/
  })
  await t.rejects(
    world({ a: 'NO_CLIENT', b: 'UNKNOWN_CLUSTER' }).forward('demo')(target, dialContext({ signal })),
    {
      code: 'NO_CLIENT'
    }
  )
  await t.rejects(
    world({ a: 'LINK_LOST', b: 'NO_CLIENT' }).forward('demo')(target, dialContext({ signal })),
    {
      code: 'LINK_LOST'
    }
  )
})

t.test('each server that passes a dial on counts a hop; who asks stays who asked', async t => {
  const contexts: DialContext[] = []
  const peer = (server: string, sibling: boolean): PeerView => ({
    server,
    silent: false,
    sibling,
    dial: async (_target, context) => {
      contexts.push(context)
      throw new TunnelError('NO_CLIENT')
    }
  })
  const forward = createForward({ peers: () => [peer('replica', false), peer('sibling', true)] })
  const context = dialContext({ traceId: 'trace', principal: { kind: 'caller', name: 'kube-apiserver' } })

  await t.rejects(forward('demo')(target, context), { code: 'NO_CLIENT' })

  t.same(
    contexts.map(({ hops }) => hops),
    [1, HOP_LIMIT],
    'a worker beside this one is the last to be asked'
  )
  for (const { principal, front, traceId } of contexts)
    t.same([principal, front, traceId], [context.principal, context.front, context.traceId])
})

for (const hops of [HOP_LIMIT - 1, HOP_LIMIT, HOP_LIMIT + 1]) {
  t.test(`a dial that has come over ${hops} servers`, async t => {
    const { forward, asked, codes } = world({ a: 'OK' })

    const answer = forward('demo')(target, dialContext({ hops }))

    if (hops < HOP_LIMIT) t.ok(await answer)
    else await t.rejects(answer, { code: 'NO_CLIENT', detail: `for cluster demo, after ${hops} hops` })
    t.same(asked, hops < HOP_LIMIT ? ['a'] : [])
    t.equal(codes.length, asked.length)
  })
}

t.test('all peers together have the time that one dial has', async t => {
  const { forward, asked, clock, peers } = world({ b: 'OK' })
  const bounds: unknown[] = []
  const slow: Dial = async (_target, { timeoutMs }) => {
    bounds.push(timeoutMs)
    clock.tick(3_000)
    throw new TunnelError('LINK_LOST')
  }
  peers.unshift(
    { server: 'slow', silent: false, sibling: false, dial: slow },
    { server: 'slower', silent: false, sibling: false, dial: slow }
  )

  await t.rejects(forward('demo')(target, dialContext({ signal, timeoutMs: 4_000 })), { code: 'LINK_LOST' })
  t.same(bounds, [4_000, 1_000])
  t.same(asked, [])
})

t.test('a peer that does not respond is not asked, and may yet have a client', async t => {
  const { forward, asked, peers } = world({ a: 'OK', b: 'NO_CLIENT' })
  peers[0] = { ...peers[0]!, silent: true }

  await t.rejects(forward('demo')(target, dialContext({ signal })), {
    code: 'LINK_LOST',
    detail: '1 of 2 other servers do not respond'
  })
  t.same(asked, ['b'])
})

t.test(
  'a dial asks so many peers that fail for their own reasons, and any number without a client',
  async t => {
    for (const failing of [FORWARD_TRIES - 1, FORWARD_TRIES, FORWARD_TRIES + 1]) {
      const answers: Record<string, ErrorCode | 'OK'> = {}
      for (let index = 0; index < 10; index++) answers[`empty ${index}`] = 'NO_CLIENT'
      for (let index = 0; index < failing; index++) answers[`full ${index}`] = 'OVERLOADED'
      const { forward, asked } = world(answers)

      await t.rejects(forward('demo')(target, dialContext({ signal })), { code: 'OVERLOADED' })
      t.equal(asked.length, 10 + Math.min(failing, FORWARD_TRIES))
    }
  }
)

t.test('asked by a peer: only for clusters that are configured, and out of the clients here', async t => {
  const dialled: [string, Target][] = []
  const answer = createForwardedDial({
    clusters: ['demo'],
    dialLocal: cluster => async target => {
      dialled.push([cluster, target])
      return new PassThrough()
    }
  })

  await t.rejects(answer(target, dialContext({ signal })), { code: 'BAD_TARGET' })
  await t.rejects(answer({ ...target, cluster: 'other' }, dialContext({ signal })), {
    code: 'UNKNOWN_CLUSTER'
  })
  await answer({ ...target, cluster: 'demo' }, dialContext({ signal }))

  t.same(dialled, [['demo', target]], 'the client need not know what its cluster is called here')
})
