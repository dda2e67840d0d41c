import fc from 'fast-check'
import t from 'tap'
import { type BudgetShare, FairBudget } from '../src/fair-budget.js'

/** Takes all it gets. */
function grab(share: BudgetShare): number {
  const bytes = Math.max(0, share.freeBytes)
  share.take(bytes)
  return bytes
}

t.test('a budget with one party is all its own', async t => {
  const budget = new FairBudget(1_000)

  t.equal(grab(budget.share()), 1_000)
  t.equal(budget.share().freeBytes, 0)
  budget.share().take(1)
  t.equal(budget.usedBytes, 1_001, 'minima may go beyond it')
  budget.share().release(1)
  t.equal(budget.share().freeBytes, 0)
  budget.share().release(1)
  t.equal(budget.share().freeBytes, 1)
})

t.test('one of several parties gets four fifths, and whoever comes next four fifths of the rest', async t => {
  const budget = new FairBudget(1_000)
  const [a, b, c] = ['a', 'b', 'c'].map(name => budget.share(name)) as [BudgetShare, BudgetShare, BudgetShare]

  t.equal(grab(a), 800)
  t.equal(grab(b), 160)
  t.equal(grab(c), 32)
  t.equal(grab(a), 0)
  t.equal(budget.usedBytes, 992)
})

t.test('when what one party held moves, the parties come to hold the same', async t => {
  const budget = new FairBudget(900)
  const shares = ['a', 'b'].map(name => budget.share(name)) as [BudgetShare, BudgetShare]
  grab(shares[0])

  for (let round = 0; round < 100; round++) {
    for (const share of shares) {
      share.release(Math.min(share.usedBytes, 50))
      grab(share)
    }
  }

  for (const { usedBytes } of shares) t.ok(Math.abs(usedBytes - 400) <= 45, `${usedBytes} of 900`)
})

t.test('what a party gives back is there for the others at once', async t => {
  const budget = new FairBudget(1_000)
  const a = budget.share('a')
  const b = budget.share('b')
  a.take(800)
  grab(b)

  a.release(800)

  t.equal(a.usedBytes, 0)
  t.equal(b.usedBytes + b.freeBytes, 800)
})

t.test(
  'what a party takes beyond its part, minima of a thousand, leaves that of the others as it was',
  async t => {
    const budget = new FairBudget(1_000)
    const [a, b] = ['a', 'b'].map(name => budget.share(name)) as [BudgetShare, BudgetShare]
    grab(a)
    const before = b.freeBytes
    for (let minima = 0; minima < 1_000; minima++) a.take(100)

    t.equal(b.freeBytes, before)
    t.equal(a.usedBytes, 100_800)
    a.release(100_000)
    t.equal(b.freeBytes, before)
    a.release(800)
    t.equal(a.usedBytes, 0)
    t.equal(grab(b), 800)
  }
)

t.test('a party is the same share whenever it is asked for', async t => {
  const budget = new FairBudget(1_000)

  t.equal(budget.share('a'), budget.share('a'))
  t.not(budget.share('a'), budget.share('b'))
})

t.test('whatever parties that never give back have taken, there is room for one more', async () => {
  const grabs = fc.array(fc.record({ party: fc.nat(3), part: fc.double({ min: 0, max: 1, noNaN: true }) }))
  fc.assert(
    fc.property(grabs, steps => {
      const budget = new FairBudget(1_000_000)
      const parties = [0, 1, 2, 3].map(name => budget.share(`hog ${name}`))
      const late = budget.share('late')
      for (const { party, part } of steps) {
        const share = parties[party] as BudgetShare
        share.take(Math.floor(Math.max(0, share.freeBytes) * part))
      }

      // A fifth of what each hog found: 1/5 of 1/5 of 1/5 of 1/5, of which four fifths.
      return budget.usedBytes <= budget.totalBytes && late.freeBytes >= 1_000_000 / 5 ** 4 / 2
    })
  )
})
