/**
 * Bar charts as SVG text: horizontal bars in labelled groups, the range of the rounds as a whisker, an axis with
 * its unit. Readable on light and dark pages; text is text, so that it can be searched.
 */
const WIDTH = 760
const LEFT = 190
const RIGHT = 70
const TOP = 62
const BAR = 15
const BAR_GAP = 3
const GROUP_GAP = 14
const AXIS = 46
const TICKS = 5

export type Bar = { series: string; value: number; min: number; max: number; text: string }
export type Chart = {
  title: string
  axis: string
  /** Logarithmic axis: for figures that differ by powers of ten. */
  log?: boolean
  series: readonly string[]
  groups: readonly { label: string; bars: readonly Bar[] }[]
}

/** Told apart without colour vision (after Okabe and Ito), light page and dark page. */
const COLOURS = [
  ['#767676', '#9a9a9a'],
  ['#0072b2', '#56b4e9'],
  ['#b8860b', '#e6b422'],
  ['#c2410c', '#f2793f'],
  ['#00815d', '#27c29a'],
  ['#a0437f', '#d98cbb'],
  ['#5b4bb7', '#a79bf2']
] as const

export const STYLE = `
text{font-family:system-ui,-apple-system,"DejaVu Sans",sans-serif;font-size:12px;fill:#1f2328}
.page{fill:#ffffff}.grid{stroke:#d0d7de;stroke-width:1}.whisker{stroke:#1f2328;stroke-width:1.2}
.title{font-size:15px;font-weight:600}.quiet{fill:#59636e}
${COLOURS.map(([light], index) => `.s${index}{fill:${light}}`).join('')}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}.grid{stroke:#3d444d}.whisker{stroke:#e6edf3}.quiet{fill:#9198a1}
${COLOURS.map(([, dark], index) => `.s${index}{fill:${dark}}`).join('')}}`

export const escapeXml = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')

export function barChart({ title, axis, log = false, series, groups }: Chart): string {
  const { x, ticks } = log ? logScale(groups) : linearScale(groups)
  const parts: string[] = []

  let y = TOP
  for (const group of groups) {
    const height = group.bars.length * (BAR + BAR_GAP) - BAR_GAP
    parts.push(
      `<text x="${LEFT - 10}" y="${y + height / 2 + 4}" text-anchor="end">${escapeXml(group.label)}</text>`
    )
    for (const bar of group.bars) {
      const middle = y + BAR / 2
      const width = Math.max(1, x(bar.value) - LEFT).toFixed(1)
      parts.push(
        `<rect class="s${series.indexOf(bar.series) % COLOURS.length}" x="${LEFT}" y="${y}" width="${width}" height="${BAR}">` +
          `<title>${escapeXml(`${bar.series}: ${bar.text}`)}</title></rect>`
      )
      if (bar.max > bar.min) {
        parts.push(`<path class="whisker" d="M${x(bar.min).toFixed(1)} ${middle}H${x(bar.max).toFixed(1)}"/>`)
      }
      parts.push(
        `<text class="quiet" x="${(x(bar.max) + 5).toFixed(1)}" y="${middle + 4}">${escapeXml(bar.text)}</text>`
      )
      y += BAR + BAR_GAP
    }
    y += GROUP_GAP - BAR_GAP
  }
  const bottom = y - GROUP_GAP + 8
  const grid = ticks.map(
    tick =>
      `<path class="grid" d="M${x(tick).toFixed(1)} ${TOP - 6}V${bottom}"/>` +
      `<text class="quiet" x="${x(tick).toFixed(1)}" y="${bottom + 15}" text-anchor="middle">${Number(tick.toPrecision(6))}</text>`
  )
  const height = bottom + AXIS
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img">`,
    `<title>${escapeXml(title)}</title><style>${STYLE}</style>`,
    `<rect class="page" width="${WIDTH}" height="${height}" rx="6"/>`,
    `<text class="title" x="14" y="24">${escapeXml(title)}</text>`,
    legend(
      series.filter(name => groups.some(({ bars }) => bars.some(bar => bar.series === name))),
      series
    ),
    ...grid,
    ...parts,
    `<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${bottom + 35}" text-anchor="middle">${escapeXml(axis)}${log ? ' (logarithmic)' : ''}</text>`,
    '</svg>',
    ''
  ].join('\n')
}

/** The series that were drawn, each in the colour that it has in every chart of the run. */
function legend(drawn: readonly string[], series: readonly string[]): string {
  let left = 14
  return drawn
    .map(name => {
      const at = left
      left += 26 + name.length * 7.4
      return (
        `<rect class="s${series.indexOf(name) % COLOURS.length}" x="${at}" y="36" width="11" height="11"/>` +
        `<text x="${at + 16}" y="46">${escapeXml(name)}</text>`
      )
    })
    .join('')
}

type Scale = { x(value: number): number; ticks: number[] }

function linearScale(groups: Chart['groups']): Scale {
  const most = Math.max(...groups.flatMap(({ bars }) => bars.map(({ max }) => max)), Number.MIN_VALUE)
  const step = niceStep(most / TICKS)
  const count = Math.max(1, Math.ceil(most / step))
  return {
    x: value => LEFT + (Math.max(0, value) / (count * step)) * (WIDTH - LEFT - RIGHT),
    ticks: Array.from({ length: count + 1 }, (_, index) => index * step)
  }
}

/** From the power of ten below the least to the one above the most. */
function logScale(groups: Chart['groups']): Scale {
  const values = groups
    .flatMap(({ bars }) => bars.flatMap(({ min, max }) => [min, max]))
    .filter(value => value > 0)
  const low = Math.floor(Math.log10(Math.min(...values)))
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))))
  return {
    x: value =>
      LEFT + ((Math.log10(Math.max(value, 10 ** low)) - low) / (high - low)) * (WIDTH - LEFT - RIGHT),
    ticks: Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index))
  }
}

/** The next of 1, 2, 5 times a power of ten. */
function niceStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least))
  const factor = [1, 2, 5, 10].find(one => one * power >= least) ?? 10
  return factor * power
}
