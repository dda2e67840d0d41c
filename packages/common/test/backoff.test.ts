import t from 'tap'
import { createBackoff } from '../src/backoff.js'

const never = 0
const almostOne = 0.999_999

t.test('the first retry is at once, the ceiling of the next ones doubles up to the cap', async t => {
  const backoff = createBackoff({ baseMs: 500, capMs: 30_000, random: () => almostOne })

  const delays = Array.from({ length: 10 }, () => backoff.delayAfter(never))

  t.same(delays, [0, 499, 999, 1999, 3999, 7999, 15_999, 29_999, 29_999, 29_999])
  t.equal(backoff.failures, 10)
})

t.test('jitter is full: a delay may be anything from zero', async t => {
  const backoff = createBackoff({ random: () => 0 })

  t.same(
    Array.from({ length: 5 }, () => backoff.delayAfter(never)),
    [0, 0, 0, 0, 0]
  )
})

t.test('only a connection that proved itself starts the delays over', async t => {
  const backoff = createBackoff({ baseMs: 1000, provenMs: 10_000, random: () => almostOne })
  backoff.delayAfter(never)
  backoff.delayAfter(never)

  t.equal(backoff.delayAfter(9_999), 1999)
  t.equal(backoff.delayAfter(10_000), 0)
  t.equal(backoff.delayAfter(never), 999)
})

t.test('a thousand failures are still bounded', async t => {
  const backoff = createBackoff({ random: () => almostOne })
  for (let i = 0; i < 2000; i++) backoff.delayAfter(never)

  t.equal(backoff.delayAfter(never), 29_999)
})

t.test('the slow end lies between one and two caps', async t => {
  t.equal(createBackoff({ capMs: 30_000, random: () => 0 }).slowDelay(), 30_000)
  t.equal(createBackoff({ capMs: 30_000, random: () => almostOne }).slowDelay(), 59_999)
})
