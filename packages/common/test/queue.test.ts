import fc from 'fast-check'
import t from 'tap'
import { Queue } from '../src/queue.js'

t.test('does what an array does, whatever is done in whatever order', async t => {
  const action = fc.oneof(
    { weight: 6, arbitrary: fc.constant('push' as const) },
    { weight: 5, arbitrary: fc.constant('shift' as const) },
    { weight: 1, arbitrary: fc.constant('replaceLast' as const) }
  )
  fc.assert(
    fc.property(fc.array(action, { maxLength: 2_000, size: 'max' }), actions => {
      const queue = new Queue<number>()
      const oracle: number[] = []
      for (const [at, name] of actions.entries()) {
        if (name === 'push') {
          queue.push(at)
          oracle.push(at)
        } else if (name === 'shift') {
          if (queue.shift() !== oracle.shift()) return false
        } else {
          queue.replaceLast(at)
          if (oracle.length > 0) oracle[oracle.length - 1] = at
        }
        if (queue.length !== oracle.length || queue.last !== oracle.at(-1)) return false
      }
      while (oracle.length > 0) if (queue.shift() !== oracle.shift()) return false
      return queue.length === 0 && queue.shift() === undefined
    })
  )
  t.pass()
})

t.test('an empty queue has nothing, and nothing to replace', async t => {
  const queue = new Queue<string>()

  queue.replaceLast('x')

  t.equal(queue.shift(), undefined)
  t.equal(queue.last, undefined)
  t.equal(queue.length, 0)
  queue.push('a')
  queue.clear()
  t.equal(queue.length, 0)
  t.equal(queue.shift(), undefined)
})

t.test('half a million items leave without moving those behind them each time', async t => {
  const queue = new Queue<number>()
  const count = 500_000
  for (let item = 0; item < count; item++) queue.push(item)

  let moved = 0
  const { splice } = Array.prototype
  const counting = function (this: unknown[], start: number, deleted: number): unknown[] {
    moved += this.length - deleted
    return splice.call(this, start, deleted) as unknown[]
  }
  Array.prototype.splice = counting as typeof splice
  try {
    for (let item = 0; item < count; item++) if (queue.shift() !== item) t.fail(`item ${item}`)
  } finally {
    Array.prototype.splice = splice
  }

  t.ok(moved < count, `${moved} items moved for ${count} taken`)
})
