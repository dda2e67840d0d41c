import t from 'tap'
import { GIVE_BACK_EVERY_MS, GIVE_BACK_FROM_BYTES, giveMemoryBack } from '../src/heap.js'
import { FakeClock } from './support/fake-clock.js'

t.test('an idle process with large buffers collects them; a busy one does so by itself', async t => {
  const clock = new FakeClock()
  const now = { bytes: GIVE_BACK_FROM_BYTES - 1, busy: 0, collected: 0 }
  const stop = giveMemoryBack({
    clock,
    bufferBytes: () => now.bytes,
    busyPart: () => now.busy,
    collect: () => void now.collected++
  })
  t.teardown(stop)

  clock.tick(GIVE_BACK_EVERY_MS)
  t.equal(now.collected, 0, 'just below')
  now.bytes += 1
  clock.tick(GIVE_BACK_EVERY_MS - 1)
  t.equal(now.collected, 0)
  clock.tick(1)
  t.equal(now.collected, 1)
  now.busy = 0.5
  clock.tick(GIVE_BACK_EVERY_MS)
  t.equal(now.collected, 1, 'busy')

  stop()
  stop()
  t.equal(clock.pending, 0)
})

/** Nobody holds them when it returns. */
function burst(): number {
  const buffers = [...Array(40)].map(() => Buffer.alloc(1 << 20))
  return buffers.length > 0 ? process.memoryUsage().external : 0
}

t.test('it really is given back', async t => {
  const clock = new FakeClock()
  t.teardown(giveMemoryBack({ clock, busyPart: () => 0 }))
  const before = burst()
  await new Promise(resolve => setImmediate(resolve))

  clock.tick(GIVE_BACK_EVERY_MS)

  t.ok(process.memoryUsage().external < before - (30 << 20))
})
