import { once } from 'node:events'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'
import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { resetSocket } from '../src/reset.js'

/** A connected pair; the second is the one that accepts. */
async function pair(t: Test, path?: string): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true }).listen(path ?? { port: 0, host: '127.0.0.1' })
  await once(server, 'listening')
  const accepted = once(server, 'connection') as Promise<[Socket]>
  const near = path ? connect(path) : connect((server.address() as AddressInfo).port, '127.0.0.1')
  const [[far]] = await Promise.all([accepted, once(near, 'connect')])
  t.teardown(() => {
    near.destroy()
    far.destroy()
    server.close()
  })
  return [near, far]
}

t.test('a TCP peer hears RST', async t => {
  const [near, far] = await pair(t)
  const error = once(far.resume(), 'error')

  resetSocket(near)

  t.match(await error, [{ code: 'ECONNRESET' }])
})

t.test('a socket whose FIN is just leaving is closed, and says so', async t => {
  const [near, far] = await pair(t)
  far.resume()
  near.end('last words')
  await new Promise(resolve => setImmediate(resolve))
  const closed = once(near, 'close')

  resetSocket(near)

  await closed
  t.ok(near.destroyed)
})

t.test('a Unix socket is destroyed with the error', async t => {
  const path = join(tmpdir(), `tendril-reset-${process.pid}.sock`)
  t.teardown(() => rmSync(path, { force: true }))
  const [near] = await pair(t, path)
  const error = once(near, 'error')

  resetSocket(near, new Error('why'))

  t.match(await error, [{ message: 'why' }])
})
