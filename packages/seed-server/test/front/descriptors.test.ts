import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { Raw, connectTo, rawPlain } from '../support.js'

type Addresses = { front: { host: string; port: number }; target: { port: number } }

t.test('a front without a file descriptor left serves those inside, and recovers', async t => {
  const script = fileURLToPath(new URL('./descriptors-child.js', import.meta.url))
  const child = spawn('sh', ['-c', 'ulimit -n 64 && exec "$0" "$1"', process.execPath, script], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc']
  })
  t.teardown(async () => {
    const exit = once(child, 'exit')
    child.kill('SIGKILL')
    await exit
  })
  const [{ front, target }] = (await once(child, 'message')) as [Addresses]
  const inside = await rawPlain(t, front)
  await inside.write(connectTo(target.port)).untilText('200')

  const crowd = Array.from({ length: 100 }, () => new Raw(connect({ ...front })))
  t.teardown(() => crowd.forEach(({ socket }) => socket.destroy()))
  for (const raw of crowd) raw.write(connectTo(target.port))
  await Promise.all(
    crowd.map(raw => raw.until(() => raw.closed || raw.text.includes('\r\n\r\n')).catch(() => {}))
  )

  const established = crowd.filter(raw => raw.text.startsWith('HTTP/1.1 200')).length
  const refused = crowd.filter(raw => /^HTTP\/1\.1 5/.test(raw.text)).length
  const dropped = crowd.filter(raw => raw.text === '').length
  t.comment({ established, refused, dropped })
  t.ok(established < 50, 'the table was full')
  await inside.write('still here').untilText('still here')

  for (const { socket } of crowd) socket.destroy()
  for (;;) {
    const next = new Raw(connect({ ...front }))
    next.write(connectTo(target.port))
    await next.until(() => next.closed || next.text.includes('\r\n\r\n')).catch(() => {})
    next.socket.destroy()
    if (next.text.startsWith('HTTP/1.1 200')) break
  }
  t.equal(child.exitCode, null)
})
