import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Processes } from './processes.js'

/** A line with this round trip to an echo that keeps half-close; everything ends with the test. */
async function lineToEcho(t: Test, rttMs: number): Promise<Socket> {
  const workDir = mkdtempSync(join(tmpdir(), 'tendril-delay-test-'))
  const processes = new Processes(workDir)
  const echo = createServer({ allowHalfOpen: true }, socket => socket.pipe(socket))
  echo.listen(0, '127.0.0.1')
  await once(echo, 'listening')
  const { port } = echo.address() as AddressInfo
  const line = await processes.listening(
    processes.helper('latency-relay', ['127.0.0.1', '127.0.0.1', `${port}`, `${rttMs}`])
  )
  const socket = connect({ ...line, allowHalfOpen: true })
  t.teardown(async () => {
    socket.destroy()
    await processes.stop()
    echo.close()
    rmSync(workDir, { recursive: true })
  })
  await once(socket, 'connect')
  return socket
}

t.test('every byte comes back unchanged through the long line, and then the end', async t => {
  const socket = await lineToEcho(t, 20)
  const sent = randomBytes(48 * 1024 * 1024) // more than the line holds in one direction
  const hash = createHash('sha256')
  socket.on('data', (data: Buffer) => hash.update(data))

  socket.end(sent)
  await once(socket, 'end')

  t.equal(hash.digest('hex'), createHash('sha256').update(sent).digest('hex'))
})

t.test('an answer takes at least the round trip, and not much more', async t => {
  const socket = await lineToEcho(t, 50)
  const startMs = performance.now()

  socket.write('ping')
  await once(socket, 'data')

  const tookMs = performance.now() - startMs
  t.ok(tookMs >= 48, `${tookMs} ms`)
  t.ok(tookMs < 1000, `${tookMs} ms`) // generous: other tests share the machine
})
