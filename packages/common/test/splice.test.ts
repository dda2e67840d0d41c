/** Two sockets joined in the middle: TCP and TLS as they are on a machine, streams of Node where order must be exact. */
import { once } from 'node:events'
import { type AddressInfo, type Server, Socket, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { type TLSSocket, connect as connectTls, createServer as createTlsServer } from 'node:tls'
import t, { type Test } from 'tap'
import { carriedBy } from '../src/reset.js'
import { RESET_DELAY_MS, type SpliceEnd, type SpliceOptions, splice } from '../src/splice.js'
import { makeAuthority } from './identity/fixtures.js'
import { FakeClock } from './support/fake-clock.js'
import { readAll, turns, until } from './support/sessions.js'

const serverCertificate = makeAuthority().issue()

type Kind = 'tcp' | 'tls' | 'unix'

/** A connected pair of sockets; both are destroyed when the test ends. */
async function socketPair(t: Test, kind: Kind): Promise<[outer: Socket, inner: Socket]> {
  const server: Server =
    kind === 'tls'
      ? createTlsServer({ ...serverCertificate, allowHalfOpen: true })
      : createServer({ allowHalfOpen: true })
  if (kind === 'unix')
    server.listen(join(tmpdir(), `splice-${process.pid}-${Math.random().toString(36).slice(2)}`))
  else server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address() as AddressInfo | string
  const underneath = once(server, 'connection')
  const accepted = once(server, kind === 'tls' ? 'secureConnection' : 'connection')
  const outer =
    typeof address === 'string'
      ? connect({ path: address, allowHalfOpen: true })
      : kind === 'tls'
        ? // `allowHalfOpen` is passed on to the socket below, though the types do not say so.
          connectTls({ port: address.port, rejectUnauthorized: false, allowHalfOpen: true } as object)
        : connect({ port: address.port, allowHalfOpen: true })
  const [inner] = (await accepted) as [Socket]
  if (kind === 'tls' && !(outer as TLSSocket).authorized && !(outer as TLSSocket).getProtocol()) {
    await once(outer, 'secureConnect')
  }
  if (kind === 'tls') carriedBy(inner, (await underneath)[0] as Socket)
  server.close()
  outer.on('error', () => {})
  t.teardown(() => {
    outer.destroy()
    inner.destroy()
  })
  return [outer, inner]
}

/** More than the queues of two TCP sockets hold. */
const KERNEL_KEEPS_BYTES = 32 << 20

/** Writes until `near` is full down to its caller, and so is `far`. */
async function fill(target: Socket, near: Socket, far: Socket): Promise<void> {
  for (let seen = -1; near.writableLength === 0 || far.readableLength === 0 || seen !== far.bytesRead;) {
    seen = far.bytesRead
    target.write(Buffer.alloc(1 << 20, 7))
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

/** caller ═ near ─ splice ─ far ═ target */
async function joined(
  t: Test,
  kind: Kind,
  options: SpliceOptions = {}
): Promise<{ caller: Socket; near: Socket; far: Socket; target: Socket; end: Promise<SpliceEnd> }> {
  const [caller, near] = await socketPair(t, kind)
  const [target, far] = await socketPair(t, kind)
  return { caller, near, far, target, end: splice(near, far, options) }
}

for (const kind of ['tcp', 'tls', 'unix'] as const) {
  t.test(`${kind}: half-close is kept, whichever side ends first`, async t => {
    for (const first of ['caller', 'target'] as const) {
      const { end, ...sides } = await joined(t, kind)
      const one = sides[first]
      const two = first === 'caller' ? sides.target : sides.caller

      one.end('question')
      t.equal((await readAll(two)).toString(), 'question')
      two.end(Buffer.alloc(1 << 20, 1))
      t.equal((await readAll(one)).length, 1 << 20)

      t.same(await end, {})
    }
  })

  t.test(`${kind}: both ends at once`, async t => {
    const { caller, target, end } = await joined(t, kind)

    caller.end('from the caller')
    target.end('from the target')
    const received = await Promise.all([readAll(target), readAll(caller)])

    t.same(received.map(String), ['from the caller', 'from the target'])
    t.same(await end, {})
  })

  t.test(`${kind}: one side breaks, the other is not told an orderly end`, async t => {
    for (const broken of ['near', 'far'] as const) {
      const { end, ...sides } = await joined(t, kind)
      const other = broken === 'near' ? sides.target : sides.caller
      sides[broken === 'near' ? 'caller' : 'target'].on('error', () => {})
      let ended = false
      other.on('end', () => (ended = true)).on('error', () => {})
      other.resume()
      other.write('x')
      await turns(5)

      sides[broken].destroy(new Error('broken on purpose'))

      t.match(await end, { error: { message: 'broken on purpose' } })
      t.ok(sides.near.destroyed && sides.far.destroyed)
      if (kind !== 'tcp') continue
      await until(() => other.closed)
      t.notOk(ended, 'no FIN')
    }
  })
}

t.test('tcp: RST passes through as RST, both ways', async t => {
  for (const first of ['caller', 'target'] as const) {
    const { end, ...sides } = await joined(t, 'tcp')
    const other = first === 'caller' ? sides.target : sides.caller
    const error = new Promise<NodeJS.ErrnoException>(resolve => other.once('error', resolve))
    other.resume()

    sides[first].resetAndDestroy()

    t.equal((await error).code, 'ECONNRESET')
    t.match(await end, { error: { code: 'ECONNRESET' } })
  }
})

t.test('tcp: somebody who destroys one side resets the other', async t => {
  const { target, near, end } = await joined(t, 'tcp')
  const error = new Promise<NodeJS.ErrnoException>(resolve => target.once('error', resolve))
  target.resume()

  near.destroy()

  t.equal((await error).code, 'ECONNRESET')
  t.same(await end, {})
})

t.test('tcp: a whole answer outlives the RST behind it', async t => {
  const { caller, far, target, end } = await joined(t, 'tcp')
  const size = 8 << 20
  let received = 0
  caller.on('error', () => {}).on('data', chunk => (received += (chunk as Buffer).length))
  target.end(Buffer.alloc(size, 7))
  await once(far, 'end')

  far.destroy(new Error('ECONNRESET'))
  await until(() => caller.closed || caller.readableEnded)

  t.equal(received, size)
  caller.destroy()
  t.match(await end, { error: { message: 'ECONNRESET' } })
})

for (const kind of ['tcp', 'tls', 'unix'] as const) {
  t.test(
    `${kind}: a caller who reads late hears what a target said before it broke, then the break`,
    async t => {
      const { caller, near, far, target, end } = await joined(t, kind)
      await fill(target, near, far)
      const said = far.bytesRead
      let received = 0
      let ending = ''
      caller
        .on('end', () => (ending = 'end'))
        .on('error', (error: NodeJS.ErrnoException) => (ending = error.code!))

      far.destroy(new Error('broken on purpose'))
      await turns(20)
      t.notOk(near.destroyed, 'not before it is said')
      caller.on('data', (chunk: Buffer) => (received += chunk.length))
      await until(() => ending !== '')

      t.equal(received, said)
      t.equal(ending, kind === 'unix' ? 'end' : 'ECONNRESET')
      caller.destroy()
      t.match(await end, { error: { message: 'broken on purpose' } })
    }
  )
}

t.test('last words do not wait for a caller who takes nothing', async t => {
  const clock = new FakeClock()
  const { near, far, target, end } = await joined(t, 'tcp', { clock, unreadTimeoutMs: 5_000 })
  await fill(target, near, far)

  far.destroy(new Error('broken on purpose'))
  await turns(20)
  clock.tick(4_999)
  await turns(20)
  t.notOk(near.destroyed)
  clock.tick(1)

  t.match(await end, { error: { message: 'broken on purpose' } })
  t.equal(clock.pending, 0)
})

t.test('RST waits until the kernel has sent what was last written', async t => {
  const clock = new FakeClock()
  const { caller, near, far, target, end } = await joined(t, 'tcp', { clock })
  target.write('last words')
  await once(caller, 'data')

  far.destroy(new Error('broken on purpose'))
  clock.tick(RESET_DELAY_MS - 1)
  await turns(20)
  t.notOk(near.destroyed)
  const error = once(caller, 'error')
  clock.tick(1)

  t.match(await error, [{ code: 'ECONNRESET' }])
  await end
  t.equal(clock.pending, 0)
})

t.test('a caller who leaves while last words are on their way ends the waiting', async t => {
  const clock = new FakeClock()
  const { caller, near, far, target, end } = await joined(t, 'tcp', { clock })
  await fill(target, near, far)
  far.destroy(new Error('broken on purpose'))
  await turns(20)

  caller.resetAndDestroy()

  await end
  t.equal(clock.pending, 0)
})

t.test('a caller who breaks off ends the target at once, whatever he has said before', async t => {
  const { caller, near, far, target, end } = await joined(t, 'tcp')
  target.pause()
  await fill(caller, far, near)

  near.destroy(new Error('broken on purpose'))
  await turns(20)

  t.ok(far.destroyed)
  await end
})

t.test('bytes that were read, unshifted and paused before are carried', async t => {
  const [caller, near] = await socketPair(t, 'tcp')
  const [target, far] = await socketPair(t, 'tcp')
  caller.end('CONNECT x\r\n\r\nfirst bytes')
  const [chunk] = (await once(near, 'data')) as [Buffer]
  near.pause()
  near.unshift(chunk.subarray(13))
  far.pause()
  target.end('220 ready')
  await turns(20)

  const end = splice(near, far)

  t.equal((await readAll(target)).toString(), 'first bytes')
  t.equal((await readAll(caller)).toString(), '220 ready')
  t.same(await end, {})
})

t.test('a side whose end was read before ends the other', async t => {
  const [caller, near] = await socketPair(t, 'tcp')
  const [target, far] = await socketPair(t, 'tcp')
  caller.end()
  near.resume()
  await once(near, 'end')

  const end = splice(near, far)
  await readAll(target)
  target.end('answer')

  t.equal((await readAll(caller)).toString(), 'answer')
  t.same(await end, {})
})

t.test('a side that is gone already resets the other, with its error if it had one', async t => {
  for (const error of [undefined, new Error('gone before')]) {
    const [, near] = await socketPair(t, 'tcp')
    const [target, far] = await socketPair(t, 'tcp')
    near.on('error', () => {})
    near.destroy(error)
    await until(() => near.closed)
    const reset = new Promise<NodeJS.ErrnoException>(resolve => target.once('error', resolve))
    target.resume()

    const end = await splice(near, far)

    t.equal((await reset).code, 'ECONNRESET')
    t.same(end, error ? { error } : {})
  }
})

t.test('both sides gone already', async t => {
  const [a] = await socketPair(t, 'tcp')
  const [b] = await socketPair(t, 'tcp')
  a.destroy()
  b.destroy()
  await Promise.all([once(a, 'close'), once(b, 'close')])

  t.same(await splice(a, b), {})
})

t.test('tcp: a reader that stops, stops its writer; the other direction goes on', async t => {
  const { caller, target, near, far } = await joined(t, 'tcp')
  const write = (): void => {
    while (caller.write(Buffer.alloc(65_536))) continue
  }
  caller.on('drain', write)
  target.pause()
  write()
  await until(() => near.isPaused())

  let received = 0
  caller.on('data', chunk => (received += (chunk as Buffer).length))
  target.write(Buffer.alloc(4 << 20))
  await until(() => received === 4 << 20)
  t.ok(near.readableLength + far.writableLength < 1 << 20, 'little is kept in between')
  t.ok(near.bytesRead < KERNEL_KEEPS_BYTES, `${near.bytesRead} bytes were taken of a writer without end`)

  target.resume()
  await until(() => near.bytesRead > KERNEL_KEEPS_BYTES)
})

t.test('nothing is added per chunk', async t => {
  const { caller, target, near, far } = await joined(t, 'tcp')
  const listeners = (): number[] =>
    [near, far].flatMap(side => side.eventNames().map(name => side.listenerCount(name)))
  await turns(2)
  const before = listeners()
  target.resume()

  for (let count = 0; count < 200; count++) {
    if (!caller.write(Buffer.alloc(100_000))) await once(caller, 'drain')
  }

  t.same(listeners(), before)
})

t.test('the first error counts, and a stream that is no socket hears it', async t => {
  const quiet = (): Duplex => new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() })
  const [a, b] = [quiet(), quiet()]
  const end = splice(a, b)

  a.destroy(new Error('first'))
  b.destroy(new Error('second'))

  t.match(await end, { error: { message: /first|second/ } })
  t.ok(a.closed && b.closed)
})
