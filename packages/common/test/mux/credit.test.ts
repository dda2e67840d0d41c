import fc from 'fast-check'
import t from 'tap'
import { FairBudget } from '../../src/fair-budget.js'
import { CreditBudget, type CreditLimits, type ReceiveWindow, creditDefaults } from '../../src/mux/credit.js'

const LIMITS: CreditLimits = {
  windowInitialBytes: 1000,
  windowMinBytes: 100,
  windowMaxBytes: 8000,
  budgetBytes: 100_000
}

t.test('a first window is a sixteenth of what is free, between the minimum and the initial size', async t => {
  const free = (budgetBytes: number): number =>
    new CreditBudget({ ...LIMITS, budgetBytes }).open().windowBytes

  t.equal(free(16_000), 1000)
  t.equal(free(16_001), 1000)
  t.equal(free(15_999), 999)
  t.equal(free(1_600), 100)
  t.equal(free(1_599), 100)
  t.equal(free(0), 100)
})

t.test('a window is used to the last byte; one more is a flow control error', async t => {
  const window = new CreditBudget(LIMITS).open()

  window.received(999)
  window.received(1)

  t.throws(() => window.received(1), {
    code: 'FLOW_CONTROL_ERROR',
    detail: '1 bytes sent with 0 of credit'
  })
})

t.test('credit is returned when half a window was read, not one byte before', async t => {
  const window = new CreditBudget(LIMITS).open()
  window.received(1000)

  t.equal(window.read(499, 1_000_000, 10), 0)
  t.equal(window.read(1, 1_000_000, 10), 500)
  t.equal(window.read(499, 2_000_000, 10), 0)
  t.equal(window.read(1, 2_000_000, 10), 500)
  window.received(1000)
})

t.test(
  'a window doubles when half of it was read within two round trips, and not a moment later',
  async t => {
    const read = (afterMs: number): number => {
      const window = new CreditBudget(LIMITS).open()
      window.received(1000)
      window.read(500, 5_000, 10)
      window.read(500, 5_000 + afterMs, 10)
      return window.windowBytes
    }

    t.equal(read(19.9), 2000)
    t.equal(read(20), 1000)
    t.equal(read(20.1), 1000)
  }
)

t.test('the first window of a process that has just started does not count as fast', async t => {
  const window = new CreditBudget(LIMITS).open()
  window.received(1000)

  t.equal(window.read(500, 0, 10), 500)
  t.equal(window.windowBytes, 1000)
})

t.test(
  'growth stops at the largest window, and takes at most half of what is left of the budget',
  async t => {
    const budget = new CreditBudget(LIMITS)
    const window = budget.open()
    const sizes = []
    for (let now = 0; sizes.length < 6; now += 1) {
      window.received(window.windowBytes / 2)
      window.read(window.windowBytes / 2, now, 10)
      sizes.push(window.windowBytes)
    }
    t.same(sizes, [1000, 2000, 4000, 8000, 8000, 8000])
    t.equal(budget.usedBytes, 8000 - 100)

    const tight = new CreditBudget({ ...LIMITS, budgetBytes: 2000 })
    const one = tight.open()
    t.equal(one.windowBytes, 125)
    one.received(126 - 1)
    one.read(63, 0, 10)
    one.read(63, 1, 10)
    t.equal(one.windowBytes, 250)
    t.equal(tight.freeBytes, 1850)
  }
)

t.test('close gives the budget back once, and returns no credit from then on', async t => {
  const budget = new CreditBudget(LIMITS)
  const window = budget.open()
  window.received(1000)
  t.equal(budget.usedBytes, 900)

  window.close()
  window.close()

  t.equal(budget.usedBytes, 0)
  t.equal(window.read(1000, 0, 10), 0)
  t.equal(budget.usedBytes, 0)
})

t.test('the defaults hold 8192 streams in 64 MiB and 256 MiB of minimum windows', async t => {
  const budget = new CreditBudget(creditDefaults)
  let sum = 0

  for (let count = 0; count < 8192; count++) sum += budget.open().windowBytes

  t.ok(sum <= creditDefaults.budgetBytes + 8192 * creditDefaults.windowMinBytes)
})

t.test('whatever streams do, the windows promise at most the budget and the minimum of each', async () => {
  const limits = fc.record({
    windowInitialBytes: fc.integer({ min: 1, max: 5000 }),
    windowMinBytes: fc.integer({ min: 1, max: 500 }),
    windowMaxBytes: fc.integer({ min: 1, max: 50_000 }),
    budgetBytes: fc.integer({ min: 0, max: 100_000 })
  })
  const steps = fc.array(
    fc.record({
      act: fc.constantFrom('open', 'open', 'use', 'use', 'use', 'use', 'close'),
      which: fc.nat(1000),
      elapsedMs: fc.integer({ min: 0, max: 30 })
    }),
    { maxLength: 400 }
  )

  fc.assert(
    fc.property(limits, steps, (limits, steps) => {
      const budget = new CreditBudget(limits)
      const open: { window: ReceiveWindow; promised: number }[] = []
      let now = 0
      for (const { act, which, elapsedMs } of steps) {
        now += elapsedMs
        if (act === 'open') {
          const window = budget.open()
          open.push({ window, promised: window.windowBytes })
        } else if (open.length > 0) {
          const at = which % open.length
          const stream = open[at]!
          if (act === 'close') {
            stream.window.close()
            open.splice(at, 1)
          } else {
            const bytes = Math.ceil(stream.promised / 2)
            stream.window.received(bytes)
            stream.promised += stream.window.read(bytes, now, 10) - bytes
          }
        }
        const sum = open.reduce((sum, { window }) => sum + window.windowBytes, 0)
        if (sum > limits.budgetBytes + open.length * limits.windowMinBytes) return false
        if (open.some(({ window, promised }) => promised > window.windowBytes)) return false
        if (budget.usedBytes < 0 || budget.usedBytes > limits.budgetBytes) return false
      }
      for (const { window } of open) window.close()
      return budget.usedBytes === 0
    }),
    { numRuns: 500 }
  )
})

t.test('sessions of one party share what the process may promise, and give it back', async t => {
  const process = new FairBudget(10_000)
  const [a, b] = ['a', 'b'].map(name => process.share(name))
  const open = (share: typeof a, count: number): ReceiveWindow[] => {
    const session = new CreditBudget(LIMITS, share)
    return [...Array(count).keys()].map(() => session.open())
  }

  const hog = [...open(a, 1_000), ...open(a, 1_000)]
  const held = process.usedBytes

  t.ok(held <= 8_000, `${held} of 10000 beyond the minimum windows`)
  t.equal(hog.at(-1)?.windowBytes, 100, 'the minimum is for everybody')
  const [late] = open(b, 1)
  t.equal(late?.windowBytes, Math.floor((4 * (10_000 - held)) / 5 / 16))
  late?.close()
  for (const window of hog) window.close()
  t.equal(process.usedBytes, 0)
})
