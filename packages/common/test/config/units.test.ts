import t from 'tap'
import { formatDuration, formatSize, parseDuration, parseSize } from '../../src/config/units.js'

t.test('durations and sizes are read with their unit, and written in the largest that fits', async t => {
  const durations: [string, number, string?][] = [
    ['0ms', 0],
    ['500ms', 500],
    ['4s', 4_000],
    ['1.5s', 1_500, '1500ms'],
    ['10m', 600_000],
    ['60m', 3_600_000, '1h'],
    ['24h', 86_400_000, '1d'],
    ['4 s', 4_000, '4s']
  ]
  for (const [text, ms, shortest = text] of durations) {
    t.equal(parseDuration(text), ms, text)
    t.equal(formatDuration(ms), shortest)
  }
  const sizes: [string, number, string?][] = [
    ['0B', 0],
    ['512B', 512],
    ['64KiB', 65_536],
    ['0.5KiB', 512, '512B'],
    ['32MiB', 33_554_432],
    ['1024MiB', 1_073_741_824, '1GiB']
  ]
  for (const [text, bytes, shortest = text] of sizes) {
    t.equal(parseSize(text), bytes, text)
    t.equal(formatSize(bytes), shortest)
  }
})

t.test('without a known unit it is nothing', async t => {
  for (const text of [
    '',
    '4',
    's',
    '-4s',
    '4S',
    '4sec',
    '1e3s',
    '4s5ms',
    ' 4s',
    '9'.repeat(15) + 'd',
    '4constructor',
    '4__proto__'
  ]) {
    t.equal(parseDuration(text), undefined, text)
  }
  for (const text of ['64', '64K', '64KB', '64kib', '64 MB']) t.equal(parseSize(text), undefined, text)
})
