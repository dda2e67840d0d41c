import t from 'tap'
import { foreignShare, ratio, summary, type Run } from './results.js'

/** A run of two contenders with these throughputs, one per round. */
function runOf(tendril: (number | null)[], relay: (number | null)[]): Run {
  const cell = (mibPerSecond: (number | null)[]): Run['cells'][string] => ({
    'bulk-down-8': { figures: { mibPerSecond }, cpuSeconds: [], peakMib: [], errors: [], foreignShare: [] }
  })
  return { cells: { tendril: cell(tendril), relay: cell(relay) } } as unknown as Run
}

t.test('a ratio is formed inside each round before its median is taken', async t => {
  // The machine halved its speed in the second round: the ratio of the medians would be 1.5.
  const run = runOf([600, 300, 900], [500, 250, 600])

  t.equal(ratio(run, 'tendril', 'bulk-down-8', 'mibPerSecond')?.median, 1.2)
})

t.test('a round in which one of the two failed has no ratio', async t => {
  const run = runOf([600, null, 500], [null, 250, 250])

  t.same(ratio(run, 'tendril', 'bulk-down-8', 'mibPerSecond'), { median: 2, min: 2, max: 2 })
  t.equal(ratio(run, 'absent', 'bulk-down-8', 'mibPerSecond'), undefined)
})

t.test('the median of an even count lies between the two in the middle', async t => {
  t.same(summary([4, 1, 3, 2]), { median: 2.5, min: 1, max: 4 })
  t.equal(summary([null]), undefined)
})

t.test('the share of the machine that others used is the median over everything measured', async t => {
  const run = runOf([1], [1])
  run.cells['tendril']!['bulk-down-8']!.foreignShare = [0.1, null, 0.3]
  run.cells['relay']!['bulk-down-8']!.foreignShare = [0.2]

  t.equal(foreignShare(run), 0.2)
  t.equal(foreignShare(runOf([1], [1])), 0)
})
