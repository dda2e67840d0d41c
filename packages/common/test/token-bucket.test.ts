import t from 'tap'
import { TokenBucket } from '../src/token-bucket.js'
import { FakeClock } from './support/fake-clock.js'

function takes(bucket: TokenBucket, tries: number): number {
  let taken = 0
  for (let count = 0; count < tries; count++) if (bucket.take()) taken++
  return taken
}

t.test('after a pause a second’s worth is there at once, and not one more', async t => {
  const clock = new FakeClock()
  const bucket = new TokenBucket(10, clock)

  t.equal(takes(bucket, 9), 9)
  t.ok(bucket.take())
  t.notOk(bucket.take())
  clock.tick(3_600_000)
  t.equal(takes(bucket, 100), 10)
})

t.test('what is taken comes back evenly', async t => {
  const clock = new FakeClock()
  const bucket = new TokenBucket(10, clock)
  takes(bucket, 10)

  clock.tick(99)
  t.notOk(bucket.take())
  clock.tick(1)
  t.ok(bucket.take())
  t.notOk(bucket.take())
  clock.tick(500)
  t.equal(takes(bucket, 100), 5)
})

t.test('asking in vain costs nothing', async t => {
  const clock = new FakeClock()
  const bucket = new TokenBucket(10, clock)
  takes(bucket, 10)

  for (let ms = 0; ms < 100; ms++) {
    bucket.take()
    clock.tick(1)
  }

  t.ok(bucket.take())
})
