/** Servers as far as they are peers, joined in memory: an address is a key, a connection a pair of carriers. */
import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import t, { type Test } from 'tap'
import { TunnelError, type Target } from '@tendril/common'
import { LinkHost } from '@tendril/common/link/host'
import type { Link } from '@tendril/common/link/link'
import { type MemoryCarrier, memoryCarriers } from '@tendril/common/test/support/memory-carrier'
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import { FIRST_ATTEMPTS_MS, Peers } from '../../src/peers/peers.js'
import { type PeerSource, staticSource } from '../../src/peers/source.js'
import { silent } from '../support.js'
import { dialContext } from '@tendril/common/test/support/dial-context'

const target: Target = { proto: 'tcp', host: '10.0.0.5', port: 80 }
const signal = new AbortController().signal

type PeerServer = {
  id: string
  peers: Peers
  host: LinkHost<{ key: string; sibling?: boolean }>
  /** What the source says, or that it cannot say anything. */
  onAddresses: (addresses: readonly string[]) => void
  sourceFails: () => void
  announced: string[]
  left: boolean
  /** Attempts to reach somebody, by address. */
  attempts: string[]
  carriers: Set<MemoryCarrier>
}

class World {
  readonly #t: Test
  /** Who is at home where. */
  readonly at = new Map<string, PeerServer>()
  /** Addresses of servers with workers, and who these are. */
  readonly shared = new Map<string, string[]>()
  readonly #waiting: (() => void)[] = []

  constructor(t: Test) {
    this.#t = t
    // There are no sockets here that would keep the process.
    const kept = setInterval(() => {}, 60_000)
    t.teardown(() => clearInterval(kept))
  }

  /** A server at an address of its own name; `clusters` are those it has a client of. */
  open(
    id: string,
    {
      clusters = [] as string[],
      address = id,
      siblings
    }: { clusters?: string[]; address?: string; siblings?: string[] } = {}
  ): PeerServer {
    const links = new Set<Link>()
    const source: PeerSource = {
      start: (onAddresses, onFailure) => void Object.assign(server, { onAddresses, sourceFails: onFailure }),
      leave: async () => void (server.left = true),
      stop: async () => {}
    }
    const peers = new Peers({
      self: id,
      source,
      ...(siblings && { siblings: siblings.map(path => `unix:${path}`) }),
      connect: async address => this.#connect(server, address),
      clusters: ['demo', 'other'],
      dialLocal: cluster => async () => {
        if (!clusters.includes(cluster)) throw new TunnelError('NO_CLIENT')
        return new PassThrough()
      },
      onMembers: members => {
        server.announced.push(members.join(' '))
        for (const notify of this.#waiting.splice(0)) notify()
      },
      log: silent
    })
    const host = new LinkHost<{ key: string; sibling?: boolean }>({
      server: id,
      onLink: (link, { name }, { sibling = false }) => {
        links.add(link)
        peers.accept(link, name, { kind: 'server', name }, { sibling })
      }
    })
    const server: PeerServer = {
      id,
      peers,
      host,
      onAddresses: () => {},
      sourceFails: () => {},
      announced: [],
      left: false,
      attempts: [],
      carriers: new Set()
    }
    this.at.set(address, server)
    this.#t.teardown(() => peers.stop())
    peers.start()
    return server
  }

  /** Several workers behind one address answer in turn; `unix:a` leads to one that is called a. */
  #connect(from: PeerServer, address: string) {
    from.attempts.push(address)
    const sibling = address.startsWith('unix:')
    const behind = this.shared.get(address) ?? [address.replace('unix:', '')]
    const to = this.at.get(behind[from.attempts.length % behind.length]!)
    if (!to) throw new TunnelError('SERVER_UNREACHABLE', address)
    const [near, far] = memoryCarriers()
    to.host.accept(far, sibling ? { key: '* sibling', sibling } : { key: '* tendril://server' })
    for (const server of [from, to]) {
      server.carriers.add(near)
      near.on('close', () => server.carriers.delete(near))
    }
    return { carrier: near, server: to.id }
  }

  /** kill -9: its connections break, and nobody is at home any more. */
  kill(address: string): void {
    const server = this.at.get(address)
    this.at.delete(address)
    for (const carrier of server?.carriers ?? []) carrier.terminate(new TunnelError('LINK_LOST', 'reset'))
  }

  async until(server: PeerServer, members: string): Promise<void> {
    while (server.peers.members.join(' ') !== members || server.announced.at(-1) !== members) {
      await new Promise<void>(resolve => this.#waiting.push(resolve))
    }
  }
}

t.test('servers that know each other become members, and pass dials on', async t => {
  const world = new World(t)
  const servers = [world.open('a'), world.open('b'), world.open('c', { clusters: ['demo'] })]
  for (const { onAddresses } of servers) onAddresses(['a', 'b', 'c'])

  for (const server of servers) await world.until(server, 'a b c')

  const [a] = servers as [PeerServer]
  t.equal(a.peers.up, 2)
  await a.peers.dial('demo')(target, dialContext({ signal }))
  await t.rejects(a.peers.dial('other')(target, dialContext({ signal })), { code: 'NO_CLIENT' })
  await t.rejects(
    a.peers.dial('third')(target, dialContext({ signal })),
    { code: 'NO_CLIENT' },
    'unknown there'
  )
  t.same(
    a.attempts.filter(address => address === 'a'),
    ['a'],
    'itself it tried once'
  )
  a.onAddresses(['a', 'b', 'c'])
  t.same(
    a.attempts.filter(address => address === 'a'),
    ['a'],
    'and not again'
  )
})

t.test(
  'a server that is killed is no member as soon as its connection breaks, and its successor is',
  async t => {
    const world = new World(t)
    const a = world.open('a')
    world.open('b')
    a.onAddresses(['a', 'b'])
    await world.until(a, 'a b')

    world.kill('b')
    await world.until(a, 'a')
    t.equal(
      a.peers.sessions.filter(({ state }) => state !== 'closed').length,
      1,
      'its streams wait, it may be back'
    )
    await t.rejects(
      a.peers.dial('demo')(target, dialContext({ signal })),
      { code: 'NO_CLIENT' },
      'dials do not wait'
    )

    world.open('b2', { address: 'b', clusters: ['demo'] }).onAddresses(['a'])
    await world.until(a, 'a b2')
    await a.peers.dial('demo')(target, dialContext({ signal }))
    t.equal(
      a.peers.sessions.filter(({ state }) => state !== 'closed').length,
      2,
      'the dead one is given up: to and from b2'
    )
  }
)

t.test(
  'who drains leaves the members at once, there and here, and goes on passing its own dials on',
  async t => {
    const world = new World(t)
    const a = world.open('a', { clusters: ['demo'] })
    const b = world.open('b', { clusters: ['demo'] })
    for (const { onAddresses } of [a, b]) onAddresses(['a', 'b'])
    await Promise.all([world.until(a, 'a b'), world.until(b, 'a b')])

    b.peers.drain()
    b.peers.drain()

    t.same(b.peers.members, ['a'])
    t.equal(b.announced.at(-1), 'a', 'announced without delay')
    t.ok(b.left, 'the source no longer names it')
    await world.until(a, 'a')
    await t.rejects(a.peers.dial('demo')(target, dialContext({ signal })), { code: 'NO_CLIENT' })
    await b.peers.dial('demo')(target, dialContext({ signal }))
  }
)

t.test(
  'an address that is no longer listed is not dialled again; its line stays for its streams',
  async t => {
    const world = new World(t)
    const a = world.open('a')
    world.open('b', { clusters: ['demo'] })
    a.onAddresses(['b'])
    await world.until(a, 'a b')
    const stream = await a.peers.dial('demo')(target, dialContext({ signal }))

    a.onAddresses([])
    stream.write('hello')
    await once(stream, 'data')
    t.same(a.peers.members, ['a', 'b'])
    const toB = () => a.attempts.filter(address => address === 'b').length
    const attempts = toB()
    world.open('c')
    a.onAddresses(['b', 'c'])
    await world.until(a, 'a b c')

    t.ok(toB() <= attempts + 1, 'listed again: it is known already')
    t.equal(a.peers.up, 2)
  }
)

t.test('two addresses of one server make one line', async t => {
  const world = new World(t)
  const a = world.open('a')
  const b = world.open('b')
  world.at.set('b.v6', b)
  a.onAddresses(['b', 'b.v6'])
  await world.until(a, 'a b')
  world.open('c')
  a.onAddresses(['b', 'b.v6', 'c'])
  await world.until(a, 'a b c')

  t.equal(a.peers.up, 2)
  const toB = a.attempts.filter(address => address !== 'c').length
  t.ok(toB <= 4, `${toB} attempts`)
})

t.test('changes that come together are announced together', async t => {
  const world = new World(t)
  const a = world.open('a')
  const others = ['b', 'c', 'd', 'e', 'f']
  for (const id of others) world.open(id)

  a.onAddresses(others)
  await world.until(a, 'a b c d e f')

  t.same(a.announced, ['a b c d e f'])
})

t.test('the first attempts are made when each peer is connected or was not reached once', async t => {
  const world = new World(t)
  const a = world.open('a')
  world.open('b', { clusters: ['demo'] })
  let made = false
  const first = a.peers.firstAttempts().then(all => (made = all))
  await new Promise(setImmediate)
  t.notOk(made, 'the source has named nobody yet')

  a.onAddresses(['a', 'b', 'nobody'])
  t.equal(await first, true)

  t.same([...new Set(a.attempts)].sort(), ['a', 'b', 'nobody'])
  await a.peers.dial('demo')(target, dialContext({ signal }))
  t.equal(await a.peers.firstAttempts(), true, 'nothing to wait for any more')
})

t.test('a source that cannot say who the peers are is not waited for', async t => {
  const a = new World(t).open('a')
  const first = a.peers.firstAttempts()

  a.sourceFails()

  t.equal(await first, true)
})

t.test('a peer that answers nothing is waited for as long as said, or until all is stopped', async t => {
  const clock = new FakeClock()
  const open = () =>
    new Peers({
      self: 'a',
      source: staticSource(['hole:1']),
      connect: (_address, signal) =>
        new Promise((_, reject) =>
          signal.addEventListener('abort', () => reject(new TunnelError('CLOSED')), { once: true })
        ),
      clusters: ['demo'],
      dialLocal: () => async () => new PassThrough(),
      onMembers: () => {},
      clock,
      log: silent
    })
  const [bounded, stopped] = [open(), open()]
  const ends: unknown[] = []
  for (const peers of [bounded, stopped]) {
    peers.start()
    void peers.firstAttempts().then(made => ends.push(made))
  }
  await stopped.stop()
  t.same(ends, [false])

  clock.tick(FIRST_ATTEMPTS_MS - 1)
  await new Promise(setImmediate)
  t.equal(ends.length, 1)
  clock.tick(1)
  await new Promise(setImmediate)
  t.same(ends, [false, false])

  await bounded.stop()
  t.equal(clock.pending, 0)
})

/** Server `a`, one process, and server `b` with two workers behind one address. */
function withWorkers(t: Test, { b1 = [] as string[], b2 = [] as string[] } = {}) {
  const world = new World(t)
  world.shared.set('b', ['b1', 'b2'])
  const first = world.open('b1', { clusters: b1, siblings: ['b2'] })
  const second = world.open('b2', { clusters: b2, siblings: ['b1'] })
  const a = world.open('a')
  return { world, a, b1: first, b2: second }
}

t.test('siblings find each other without being announced of, and pass dials on', async t => {
  const { world, b1, b2 } = withWorkers(t, { b2: ['demo'] })
  await Promise.all([world.until(b1, 'b1 b2'), world.until(b2, 'b1 b2')])

  await b1.peers.dial('demo')(target, dialContext({ signal }))
  await t.rejects(
    b2.peers.dial('demo')(target, dialContext({ signal })),
    { code: 'NO_CLIENT' },
    'nobody asks b2 back'
  )
  b1.onAddresses([])
  await b1.peers.dial('demo')(target, dialContext({ signal }))
})

t.test('all workers behind one address are found, and one whose connection breaks is waited for', async t => {
  const { world, a, b1, b2 } = withWorkers(t, { b2: ['demo'] })
  for (const { onAddresses } of [a, b1, b2]) onAddresses(['a', 'b'])
  for (const server of [a, b1, b2]) await world.until(server, 'a b1 b2')
  const stream = await a.peers.dial('demo')(target, dialContext({ signal }))

  for (const carrier of a.carriers) carrier.terminate(new TunnelError('LINK_LOST', 'reset'))
  stream.write('hello')
  t.equal(String((await once(stream, 'data'))[0]), 'hello', 'the line to b2 went on')
})

t.test(
  'a worker without a client answers a replica out of its siblings clients, and no dial goes round',
  async t => {
    const { world, a, b1, b2 } = withWorkers(t, { b2: ['demo'] })
    await Promise.all([world.until(b1, 'b1 b2'), world.until(b2, 'b1 b2')])
    // A replica that knows nothing of workers: it has met b1 only.
    world.shared.delete('b')
    a.onAddresses(['b1'])
    await world.until(a, 'a b1')

    await a.peers.dial('demo')(target, dialContext({ signal }))
    await t.rejects(a.peers.dial('other')(target, dialContext({ signal })), { code: 'NO_CLIENT' })
  }
)

t.test('a sibling that was killed is replaced at once by its successor', async t => {
  const { world, b1 } = withWorkers(t)
  await world.until(b1, 'b1 b2')

  world.kill('b2')
  await world.until(b1, 'b1')
  world.open('b2+', { address: 'b2', siblings: ['b1'] })
  await world.until(b1, 'b1 b2+')

  t.equal(b1.peers.up, 1)
})
