/** Streams come and go by the hundred thousand: a session does not grow. `STREAMS=1000000` for the long run. */
import { once } from 'node:events'
import t from 'tap'
import { collectGarbage } from '../support/garbage.js'
import { POD, sessionPair } from '../support/sessions.js'
import { dialContext } from '../support/dial-context.js'

const STREAMS = Number(process.env.STREAMS ?? 100_000)
const AT_ONCE = 100

t.test(`${STREAMS} streams opened, used and closed in one session leave nothing behind`, async t => {
  t.setTimeout(STREAMS)
  const { near, far } = sessionPair(t, {
    onOpen: incoming => {
      const stream = incoming.accept()
      stream.pipe(stream)
    }
  })
  const open = async (): Promise<void> => {
    const stream = await near.dial(POD, dialContext())
    stream.end('hello')
    stream.resume()
    await once(stream, 'close')
  }
  const churn = async (count: number): Promise<void> => {
    for (let at = 0; at < count; at += AT_ONCE) await Promise.all(Array.from({ length: AT_ONCE }, open))
  }
  await churn(10_000)
  await collectGarbage()
  const before = process.memoryUsage()
  const startedAt = performance.now()

  await churn(STREAMS - 10_000)
  const seconds = (performance.now() - startedAt) / 1000
  await collectGarbage()
  const after = process.memoryUsage()

  const mib = (bytes: number): string => `${(bytes / (1 << 20)).toFixed(1)} MiB`
  t.comment(
    `heap ${mib(before.heapUsed)} before, ${mib(after.heapUsed)} after; buffers ${mib(before.arrayBuffers)}, ` +
      `${mib(after.arrayBuffers)}; ${Math.round(STREAMS / seconds)} streams/s`
  )
  t.equal(near.streamCount, 0)
  t.equal(far.streamCount, 0)
  t.equal(near.promisedBytes, 0)
  t.equal(far.promisedBytes, 0)
  const grown = after.heapUsed - before.heapUsed
  t.ok(grown < 4 << 20, `heap grew by ${mib(grown)}`)
})
