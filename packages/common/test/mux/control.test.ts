import fc from 'fast-check'
import t from 'tap'
import { ControlQueue } from '../../src/mux/control.js'

/** A frame that knows its number. */
function frame(number: number, length: number): Buffer {
  const bytes = Buffer.alloc(length, number % 251)
  bytes.writeUInt32BE(number)
  return bytes
}

t.test('frames leave whole, in order and once, however many are taken at a time', async t => {
  const step = fc.oneof(
    fc.record({ push: fc.integer({ min: 8, max: 5_000 }) }),
    fc.record({ take: fc.integer({ min: 1, max: 20_000 }) })
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300, size: 'max' }), steps => {
      const queue = new ControlQueue()
      const waiting: Buffer[] = []
      let number = 0
      const took = (bytes: number): boolean => {
        let out = Buffer.concat(queue.take(bytes))
        while (out.length > 0) {
          const next = waiting.shift()
          if (!next || !out.subarray(0, next.length).equals(next)) return false
          out = out.subarray(next.length)
        }
        return true
      }
      for (const one of steps) {
        if ('push' in one) {
          waiting.push(frame(++number, one.push))
          queue.push(waiting.at(-1) as Buffer)
        } else if (!took(one.take)) return false
        if (queue.bytes !== waiting.reduce((sum, { length }) => sum + length, 0)) return false
      }
      return took(Infinity) && waiting.length === 0 && queue.bytes === 0
    })
  )
  t.pass()
})

t.test('the memory of what waits is at most a third more than its bytes, and one block', async t => {
  for (const length of [8, 12, 16, 531]) {
    const queue = new ControlQueue()
    for (let count = 0; count < 1_000; count++) queue.push(frame(count, length))

    const kept = new Set(queue.take(Infinity).map(part => part.buffer))

    const bytes = [...kept].reduce((sum, { byteLength }) => sum + byteLength, 0)
    t.ok(bytes <= (1_000 * length * 4) / 3 + 2_048, `${bytes} bytes for ${1_000 * length}`)
  }
})

t.test('one take is about as much as was asked for', async t => {
  const queue = new ControlQueue()
  for (let count = 0; count < 10_000; count++) queue.push(frame(count, 12))

  const taken = Buffer.concat(queue.take(10_000)).length

  t.ok(taken >= 10_000 && taken < 10_000 + 2_048, `${taken} bytes`)
})
