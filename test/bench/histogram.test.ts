import t from 'tap'
import { Histogram } from './histogram.js'

t.test('quantiles are within two per cent of the sorted values', async t => {
  const histogram = new Histogram()

  for (let value = 1; value <= 10_000; value++) histogram.record(value / 100)

  for (const share of [0.01, 0.5, 0.99, 0.999]) {
    const exact = share * 100
    t.ok(
      Math.abs(histogram.quantileMs(share) - exact) / exact < 0.02,
      `${share}: ${histogram.quantileMs(share)}`
    )
  }
})

t.test('a histogram that travelled as JSON adds up with another', async t => {
  const [one, other] = [new Histogram(), new Histogram()]
  one.record(1)
  other.record(100)
  other.record(100)

  one.add(JSON.parse(JSON.stringify(other)))

  t.equal(one.total, 3)
  t.ok(one.quantileMs(0.3) < 1.02)
  t.ok(one.quantileMs(0.9) > 98)
})

t.test('an empty histogram has no quantiles, and a value outside the range counts at its edge', async t => {
  const histogram = new Histogram()
  t.ok(Number.isNaN(histogram.quantileMs(0.5)))

  histogram.record(0)
  histogram.record(1e12)

  t.equal(histogram.total, 2)
  t.ok(histogram.quantileMs(0.5) < 0.002)
  t.ok(histogram.quantileMs(1) > 3_600_000)
})
