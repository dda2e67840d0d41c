import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, lstatSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { type Socket, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Dial, Principal } from '@tendril/common'
import { FIRST_BYTE_DELAY_MS, type FrontOptions, listenFront } from '../../src/front/front.js'
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import { connectTo, listenTcp, rawPlain, silent, tcpDial } from '../support.js'

const ESTABLISHED = 'HTTP/1.1 200 Connection established\r\n\r\n'

function directory(t: Test): string {
  const path = mkdtempSync(join(tmpdir(), 'tendril-front-'))
  t.teardown(() => rmSync(path, { recursive: true }))
  return path
}

async function open(t: Test, path: string, options: Partial<FrontOptions> = {}) {
  const front = await listenFront({
    name: 'test',
    listen: { path },
    route: () => 'demo',
    dial: () => tcpDial,
    log: silent,
    ...options
  })
  t.teardown(() => front.close())
  return front
}

/** What a killed server leaves behind. */
async function leaveStale(path: string): Promise<void> {
  const code = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`
  await once(spawn(process.execPath, ['-e', code]), 'exit')
}

t.test('a Unix front serves CONNECT, and its file goes when it closes', async t => {
  const path = join(directory(t), 'front.sock')
  const port = await listenTcp(t, socket => socket.pipe(socket))
  const front = await open(t, path)

  const raw = await rawPlain(t, { path })
  await raw.write(connectTo(port)).untilText('200')
  raw.write('ping').socket.end()
  await raw.untilClosed()

  t.same(front.address, { path })
  t.equal(raw.text, `${ESTABLISHED}ping`)
  await front.close()
  t.notOk(existsSync(path))
})

t.test('a caller without a certificate is known by the front that let it in', async t => {
  const path = join(directory(t), 'front.sock')
  const asked: Principal[] = []
  const dial = (): Dial => (target, context) => {
    asked.push(context.principal)
    return tcpDial(target, context)
  }
  const port = await listenTcp(t, socket => socket.end())
  await open(t, path, { name: 'kube', dial })

  const raw = await rawPlain(t, { path })
  await raw.write(connectTo(port)).untilText('200')

  t.same(asked, [{ kind: 'local', name: 'unix:kube' }])
})

t.test('bytes of a target that speaks first are held back, and come in a read of their own', async t => {
  const path = join(directory(t), 'front.sock')
  const clock = new FakeClock()
  const port = await listenTcp(t, socket => socket.end('hello'))
  await open(t, path, { clock })

  const quiet = await rawPlain(t, { path })
  await quiet.write(connectTo(port)).untilText('200')
  while (clock.pending === 0) await new Promise(resolve => setImmediate(resolve))
  clock.tick(FIRST_BYTE_DELAY_MS)
  await quiet.untilText('hello')
  const eager = await rawPlain(t, { path })
  await eager.write(connectTo(port)).untilText('200')
  await eager.write('x').untilText('hello')

  t.same(quiet.reads, [ESTABLISHED, 'hello'])
  t.same(eager.reads, [ESTABLISHED, 'hello'])
})

t.test('the file has its mode, whatever the umask, and the umask stays', async t => {
  const dir = directory(t)
  const before = process.umask(0o077)
  t.teardown(() => process.umask(before))

  for (const [mode, expected] of [
    [undefined, 0o660],
    [0o600, 0o600],
    [0o666, 0o666]
  ] as const) {
    const path = join(dir, `${expected}.sock`)
    await open(t, path, mode === undefined ? {} : { mode })
    t.equal(lstatSync(path).mode & 0o777, expected)
  }
  t.equal(process.umask(0o077), 0o077)
})

t.test('a stale socket file is replaced', async t => {
  const path = join(directory(t), 'front.sock')
  await leaveStale(path)
  t.ok(lstatSync(path).isSocket())

  await open(t, path)

  await rawPlain(t, { path })
})

t.test('what belongs to somebody is left alone', async t => {
  const dir = directory(t)
  const live = join(dir, 'live.sock')
  await open(t, live)
  const file = join(dir, 'file')
  writeFileSync(file, 'precious')
  const link = join(dir, 'link.sock')
  symlinkSync(live, link)

  await t.rejects(open(t, live), {
    code: 'LISTEN_FAILED',
    message: `cannot listen on unix:${live}: already in use by another process`
  })
  await t.rejects(open(t, file), {
    code: 'LISTEN_FAILED',
    message: /a file that is not a socket is in the way/
  })
  await t.rejects(open(t, link), {
    code: 'LISTEN_FAILED',
    message: /a file that is not a socket is in the way/
  })
  await t.rejects(open(t, join(dir, 'nowhere', 'front.sock')), {
    code: 'LISTEN_FAILED',
    message: /the directory does not exist/
  })

  await rawPlain(t, { path: live })
  t.ok(existsSync(file))
})

t.test('a directory that may not be written is said in a sentence', async t => {
  const dir = directory(t)
  chmodSync(dir, 0o500)
  if (process.geteuid?.() === 0) {
    // root may write anywhere; nobody may not.
    process.seteuid?.(65_534)
    t.teardown(() => process.seteuid?.(0))
  }

  await t.rejects(open(t, join(dir, 'front.sock')), { code: 'LISTEN_FAILED', message: /permission denied/ })
})

t.test(
  'a socket that workers share has its mode too; that nobody is in its way is not asked there',
  async t => {
    const path = join(directory(t), 'front.sock')
    const before = process.umask(0o177)
    t.teardown(() => process.umask(before))

    await open(t, path, { shared: true, mode: 0o666 })

    t.equal(lstatSync(path).mode & 0o777, 0o666)
    // In a worker the primary answers instead: its siblings listen there already.
    await t.rejects(open(t, path, { shared: true }), { code: 'LISTEN_FAILED', message: /in use/ })
  }
)

/** Resolves when `count` is above 0 and has stood still for so many turns of the event loop that nothing is on its way. */
async function halted(count: () => number): Promise<void> {
  let still = 0
  while (still < 50) {
    const before = count()
    await new Promise(resolve => setImmediate(resolve))
    still = before > 0 && count() === before ? still + 1 : 0
  }
}

t.test('a reset is told where the bytes of the caller lie unread, as in an upload that waits', async t => {
  const path = join(directory(t), 'front.sock')
  let reset = (): void => {}
  const port = await listenTcp(t, socket => {
    socket.on('error', () => {}).pause()
    reset = () => socket.resetAndDestroy()
  })
  let toTarget: Socket | undefined
  await open(t, path, {
    dial:
      () =>
      async ({ host, port }) => {
        toTarget = connect({ host, port, allowHalfOpen: true })
        await once(toTarget, 'connect')
        return toTarget
      }
  })

  const raw = await rawPlain(t, { path })
  const failed = once(raw.socket, 'error')
  await raw.write(connectTo(port)).untilText('200')
  // More than all queues of the kernel hold. When the front has no more room, a full one lies in front of it.
  raw.socket.write(Buffer.alloc(64 << 20))
  await halted(() => (toTarget?.writableNeedDrain ? toTarget.bytesWritten : 0))
  t.ok(raw.socket.writableLength > 0)
  reset()

  const [error] = (await failed) as [NodeJS.ErrnoException]
  t.match(error.code, /^(ECONNRESET|EPIPE)$/)
})

t.test('a reset in a plain download looks like an end: documented at fronts[].listen', async t => {
  const path = join(directory(t), 'front.sock')
  let reset = (): void => {}
  const port = await listenTcp(t, socket => {
    socket.on('error', () => {}).write('half an answer')
    reset = () => socket.resetAndDestroy()
  })
  await open(t, path)

  const raw = await rawPlain(t, { path })
  raw.socket.on('error', error => t.fail(error.message))
  await raw.write(connectTo(port)).untilText('half an answer')
  reset()
  raw.socket.end()
  await raw.untilClosed()

  t.match(raw.text, /half an answer$/)
})
