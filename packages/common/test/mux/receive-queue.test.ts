import fc from 'fast-check'
import t from 'tap'
import { ReceiveQueue, alone } from '../../src/mux/receive-queue.js'
import { collectGarbage } from '../support/garbage.js'

/** What `chunks` keep alive together, each piece of memory counted once. */
function pinned(chunks: Buffer[]): number {
  return [...new Set(chunks.map(chunk => chunk.buffer))].reduce((sum, memory) => sum + memory.byteLength, 0)
}

function drain(queue: ReceiveQueue): Buffer[] {
  const chunks: Buffer[] = []
  for (let chunk; (chunk = queue.shift());) chunks.push(chunk)
  return chunks
}

t.test('a million chunks of one byte take the memory of a million bytes', async t => {
  const queue = new ReceiveQueue()
  const message = Buffer.alloc(1 << 16, 'abcdefgh')
  const before = process.memoryUsage().arrayBuffers

  for (let count = 0; count < 1_000_000; count++) {
    const at = count & 0xffff
    queue.push(message.subarray(at, at + 1))
  }
  const grown = process.memoryUsage().arrayBuffers - before
  const chunks = drain(queue)

  t.ok(pinned(chunks) < 1_100_000, `${pinned(chunks)} bytes are kept`)
  t.ok(chunks.length < 100, `in ${chunks.length} chunks`)
  t.ok(grown < 16 << 20, `${grown} bytes of array buffers, garbage included`)
  t.equal(
    chunks.reduce((sum, chunk) => sum + chunk.length, 0),
    1_000_000
  )
  t.equal(queue.length, 0)
})

t.test('a few bytes of a large message do not keep the message', async t => {
  const queue = new ReceiveQueue()
  for (let count = 0; count < 100; count++) queue.push(Buffer.alloc(1 << 20).subarray(0, 10))

  t.ok(pinned(drain(queue)) < 20_000)
})

t.test('a few bytes between large chunks do not keep a block of their own each', async t => {
  const queue = new ReceiveQueue()
  for (let count = 0; count < 100; count++) {
    queue.push(Buffer.allocUnsafeSlow(1))
    queue.push(Buffer.allocUnsafeSlow(1))
    queue.push(Buffer.allocUnsafeSlow(4096))
  }

  t.ok(pinned(drain(queue)) < 100 * 4200)
})

t.test('a small chunk between large ones does not keep the pool that others have filled since', async t => {
  const queue = new ReceiveQueue()
  const message = Buffer.allocUnsafeSlow(4 * 4090)
  for (let count = 0; count < 100; count++) {
    queue.push(message.subarray(0, 64))
    queue.push(message.subarray(0, 4090))
    // What another stream has read meanwhile.
    for (let count = 0; count < 200; count++) alone(message.subarray(0, 64))
  }

  const chunks = drain(queue)
  const copied = chunks.filter(chunk => chunk.buffer !== message.buffer)
  t.equal(copied.length, 100)
  t.ok(pinned(copied) <= 100 * 64, `${pinned(copied)} bytes are kept`)
})

t.test('a large part of a message is kept, not copied', async t => {
  const queue = new ReceiveQueue()
  const message = Buffer.allocUnsafeSlow(65_536)

  queue.push(message.subarray(8, 8 + 16_384))
  queue.push(message.subarray(0, 16_383))

  const [kept, copied] = drain(queue)
  t.equal(kept!.buffer, message.buffer)
  t.not(copied!.buffer, message.buffer)
})

t.test(
  'alone: a quarter of the memory is kept as it is, less is copied, tiny ones to their own size',
  async t => {
    const memory = Buffer.allocUnsafeSlow(400).fill('x')
    const pinned = (bytes: number): number => alone(memory.subarray(0, bytes)).buffer.byteLength

    t.equal(alone(memory.subarray(0, 100)).buffer, memory.buffer)
    t.equal(pinned(99), 8192)
    t.equal(pinned(64), 8192)
    t.equal(pinned(63), 63)
    t.equal(alone(memory.subarray(0, 99)).toString(), 'x'.repeat(99))
  }
)

t.test('a chunk that was handed out never changes', async t => {
  const queue = new ReceiveQueue()
  queue.push(Buffer.from('one'))
  queue.push(Buffer.from('two'))
  const out = queue.shift()!

  queue.push(Buffer.from('three'))
  queue.push(Buffer.from('four'))

  t.equal(out.toString(), 'onetwo')
  t.equal(Buffer.concat(drain(queue)).toString(), 'threefour')
})

t.test('what was handed out is not kept alive by the queue', async t => {
  const queue = new ReceiveQueue()
  for (let count = 0; count < 100; count++) queue.push(Buffer.allocUnsafeSlow(1 << 20))
  await collectGarbage()
  const before = process.memoryUsage().arrayBuffers

  for (let count = 0; count < 50; count++) queue.shift()
  await collectGarbage()

  t.ok(before - process.memoryUsage().arrayBuffers >= 49 << 20)
  t.equal(queue.length, 50)
})

t.test('clear drops everything, and may be called twice', async t => {
  const queue = new ReceiveQueue()
  queue.push(Buffer.alloc(10))
  queue.push(Buffer.alloc(100_000))

  queue.clear()
  queue.clear()

  t.equal(queue.length, 0)
  t.equal(queue.shift(), undefined)
})

t.test(
  'any mix of pushes and shifts keeps bytes and order, and pins at most four times what it holds',
  async () => {
    const step = fc.oneof(
      fc.constant('shift' as const),
      fc.record({
        bytes: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 70_000 })),
        part: fc.constantFrom(1, 2, 3, 4, 5, 100)
      })
    )
    let counter = 0

    fc.assert(
      fc.property(fc.array(step, { maxLength: 200, size: 'large' }), steps => {
        const queue = new ReceiveQueue()
        const said: Buffer[] = []
        const received: Buffer[] = []
        for (const step of steps) {
          if (step === 'shift') {
            const chunk = queue.shift()
            if (chunk) received.push(chunk)
          } else {
            const chunk = Buffer.allocUnsafeSlow(step.bytes * step.part).subarray(0, step.bytes)
            chunk.fill(counter++ % 251)
            said.push(Buffer.from(chunk))
            queue.push(chunk)
          }
        }
        const rest = drain(queue)
        const held = rest.reduce((sum, chunk) => sum + chunk.length, 0)
        // The last chunk's block, or its pool.
        const slack = 16 << 10
        return (
          pinned(rest) <= 4 * held + slack &&
          Buffer.concat([...received, ...rest]).equals(Buffer.concat(said))
        )
      }),
      { numRuns: 300 }
    )
  }
)
