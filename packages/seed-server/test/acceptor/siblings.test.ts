import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { WebSocket } from 'ws'
import { connectSibling, listenSiblings } from '../../src/acceptor/siblings.js'

const { signal } = new AbortController()

function place(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'tendril-siblings-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  return join(directory, '1.sock')
}

async function open(t: Test, path: string, onConnection: (websocket: WebSocket, socket: Socket) => void) {
  const listener = await listenSiblings({ path, answerHeaders: { 'Tendril-Server': 'b' }, onConnection })
  t.teardown(() => listener.close())
  return listener
}

t.test('a sibling comes in, hears who is there, and both sides speak', async t => {
  const path = place(t)
  const arrived = new Promise<WebSocket>(resolve => void open(t, path, resolve))
  while (!existsSync(path)) await new Promise(setImmediate)

  const { websocket, headers } = await connectSibling(path, { signal })
  const far = await arrived
  far.send('hello')
  const [said] = (await once(websocket, 'message')) as [Buffer]

  t.equal(headers['tendril-server'], 'b')
  t.equal(String(said), 'hello')
  websocket.close()
  await once(far, 'close')
})

t.test('a listener that closes ends its connections, takes its file away, and may close twice', async t => {
  const path = place(t)
  const listener = await open(t, path, () => {})
  const { websocket } = await connectSibling(path, { signal })
  const gone = once(websocket, 'close')

  await Promise.all([listener.close(), listener.close()])

  await gone
  t.notOk(existsSync(path))
})

t.test('what a killed worker left in its place is no obstacle to its successor', async t => {
  const path = place(t)
  const code = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`
  await once(spawn(process.execPath, ['-e', code]), 'exit')
  t.ok(existsSync(path))

  await open(t, path, () => {})
  const { websocket } = await connectSibling(path, { signal })

  websocket.terminate()
})

t.test('nobody there, nobody wanted, nowhere to listen: each is said', async t => {
  const path = place(t)
  const over = new AbortController()
  over.abort()

  await t.rejects(connectSibling(path, { signal }), {
    code: 'SERVER_UNREACHABLE',
    message: /1\.sock.*ENOENT/
  })
  await t.rejects(connectSibling(path, { signal: over.signal }), { code: 'CLOSED' })
  await t.rejects(
    open(t, `${path}/x`, () => {}),
    { code: 'LISTEN_FAILED', message: /on unix:.*1\.sock\/x/ }
  )
})
