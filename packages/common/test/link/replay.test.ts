import t from 'tap'
import { FairBudget } from '../../src/fair-budget.js'
import { ReplayBuffer } from '../../src/link/replay.js'
import { collectGarbage } from '../support/garbage.js'

const MIB = 1 << 20
const bytes = (length: number): Buffer => Buffer.alloc(length)

function buffer(replayLimitBytes = 1_000, replayMinBytes = 100, budget = new FairBudget(MIB)) {
  return new ReplayBuffer({ replayLimitBytes, replayMinBytes }, budget.share())
}

t.test('there is room until the limit is reached, and again below it', async t => {
  const replay = buffer(1_000)

  replay.push(bytes(999))
  t.ok(replay.hasRoom, 'one byte below')
  replay.push(bytes(1))
  t.notOk(replay.hasRoom, 'at the limit')
  replay.push(bytes(1))
  t.notOk(replay.hasRoom, 'beyond it')
  replay.acknowledge(1)
  t.ok(replay.hasRoom)
})

t.test('links of one process share a budget, and each keeps its minimum', async t => {
  const budget = new FairBudget(500)
  const one = buffer(1_000, 100, budget)
  const two = buffer(1_000, 100, budget)

  one.push(bytes(499))
  t.ok(one.hasRoom, 'one byte below the budget')
  one.push(bytes(1))
  t.notOk(one.hasRoom, 'the budget is used up')
  two.push(bytes(99))
  t.ok(two.hasRoom, 'below the minimum')
  two.push(bytes(1))
  t.notOk(two.hasRoom, 'at the minimum')
  t.equal(budget.usedBytes, 600, 'worst case: the budget and a minimum per link')

  one.acknowledge(2)
  t.ok(two.hasRoom, 'what one gives back another may use')
  t.equal(budget.usedBytes, 100)
})

t.test(
  'a thousand links of one party that acknowledge nothing leave another party what one of them leaves',
  async t => {
    const budget = new FairBudget(MIB)
    const [hog, other] = [budget.share('hog'), budget.share('other')]
    const limits = { replayLimitBytes: MIB, replayMinBytes: 2_000 }
    const fill = (replay: ReplayBuffer): number => {
      while (replay.hasRoom) replay.push(bytes(1_000))
      return replay.bytes
    }
    fill(new ReplayBuffer(limits, hog))
    const beside = new ReplayBuffer(limits, other)
    const oneBytes = fill(beside)
    beside.clear()

    for (let link = 0; link < 1_000; link++) fill(new ReplayBuffer(limits, hog))

    t.ok(oneBytes > 150_000)
    t.equal(fill(new ReplayBuffer(limits, other)), oneBytes)
  }
)

t.test('clearing gives everything back, once', async t => {
  const budget = new FairBudget(MIB)
  const replay = buffer(1_000, 100, budget)
  replay.push(bytes(10))
  replay.push(bytes(20))
  replay.acknowledge(1)

  replay.clear()
  replay.clear()

  t.equal(budget.usedBytes, 0)
  t.equal(replay.bytes, 0)
})

t.test('messages are kept by reference, in order, until they are acknowledged', async t => {
  const replay = buffer()
  const messages = [bytes(1), bytes(2), bytes(3)]
  for (const message of messages) replay.push(message)

  replay.acknowledge(1)

  t.equal(replay.message(2), messages[1])
  t.equal(replay.message(3), messages[2])
  t.equal(replay.sent, 3)
  t.equal(replay.acknowledged, 1)
  t.equal(replay.bytes, 5)
})

t.test('acknowledgements fit between what was acknowledged and what was sent', async t => {
  const replay = buffer()
  for (let count = 0; count < 4; count++) replay.push(bytes(1))
  replay.acknowledge(2)

  replay.acknowledge(2)
  t.throws(() => replay.acknowledge(1), { code: 'PROTOCOL_ERROR' })
  t.throws(() => replay.acknowledge(5), { code: 'PROTOCOL_ERROR' })
  t.equal(replay.bytes, 2, 'a refused acknowledgement changes nothing')
  replay.acknowledge(4)
  t.equal(replay.bytes, 0)
})

t.test('a million messages leave nothing behind', async t => {
  const budget = new FairBudget(MIB)
  const replay = buffer(1 << 20, 100, budget)
  const message = bytes(8)
  await collectGarbage()
  const heapBytes = process.memoryUsage().heapUsed

  for (let round = 0; round < 10_000; round++) {
    for (let count = 0; count < 100; count++) replay.push(message)
    // Three messages are always under way, so that the buffer is never empty when it is tidied.
    replay.acknowledge(Math.max(0, replay.sent - 3))
  }

  t.equal(replay.sent, 1_000_000)
  t.equal(replay.message(999_998), message)
  t.equal(budget.usedBytes, 24)
  await collectGarbage()
  const grownBytes = process.memoryUsage().heapUsed - heapBytes
  t.ok(grownBytes < 2 << 20, `the heap grew by ${grownBytes} bytes`)
})

t.test('an acknowledged message is let go at once', async t => {
  const replay = buffer()
  const gone = new WeakRef(bytes(100))
  replay.push(gone.deref() as Buffer)
  replay.push(bytes(1))

  replay.acknowledge(1)
  await collectGarbage()

  t.equal(gone.deref(), undefined)
  t.equal(replay.bytes, 1)
})
