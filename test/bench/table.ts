/** A run as text for the terminal: medians with their spread, then ratios to the relay. 110 columns with five contenders. */
import { metrics, type Metric } from './figures.js'
import { BASE, failures, figure, ratio, type Run, type Summary } from './results.js'

const LABEL_WIDTH = 34
const COLUMN_WIDTH = 15

export function formatNumber(value: number, { digits }: Pick<Metric, 'digits'>): string {
  // Adding zero turns the -0 of a rounded small negative into 0.
  return (Number(value.toFixed(digits)) + 0).toFixed(digits)
}

/** Median and half the range in per cent of it: `577 ±3%`. */
function cell(found: Summary | undefined, metric: Metric): string {
  if (!found) return '-'
  const spread = found.median === 0 ? 0 : ((found.max - found.min) * 50) / found.median
  return `${formatNumber(found.median, metric)}${found.max > found.min ? ` ±${spread.toFixed(0)}%` : ''}`
}

const row = (label: string, cells: readonly string[]): string =>
  label.padEnd(LABEL_WIDTH) + cells.map(text => text.padStart(COLUMN_WIDTH)).join('')

export const ran = (run: Run): string[] =>
  run.contenders.filter(({ available }) => available === true).map(({ name }) => name)

export function table(run: Run): string {
  const names = ran(run)
  const lines = [row('', names)]
  for (const { name, title, shows } of run.workloads) {
    if (!names.some(contender => run.cells[contender]?.[name])) continue
    lines.push(title)
    for (const shown of shows) {
      const metric = metrics[shown]
      const unit = metric.unit && `, ${metric.unit}`
      lines.push(
        row(
          `  ${metric.label}${unit}`,
          names.map(contender => cell(figure(run, contender, name, shown), metric))
        )
      )
    }
  }
  return [...lines, ...notes(run)].join('\n')
}

export function ratioTable(run: Run): string {
  const names = ran(run)
  if (!names.includes(BASE)) return `no ratios: ${BASE} did not run`
  const lines = [row(`times ${BASE}, same round`, names)]
  for (const { name, shows } of run.workloads) {
    const [shown] = shows
    if (!shown || !run.cells[BASE]?.[name]) continue
    const { better, label } = metrics[shown]
    const cells = names.map(contender => {
      const found = ratio(run, contender, name, shown)
      return found ? `${found.median.toFixed(2)}x` : '-'
    })
    lines.push(row(`${better === 'higher' ? '↑' : '↓'} ${name} ${label}`.slice(0, LABEL_WIDTH - 1), cells))
  }
  return [...lines, '↑ more is better, ↓ less is better'].join('\n')
}

function notes(run: Run): string[] {
  const absent = run.contenders.flatMap(({ name, available }) =>
    available === true ? [] : [`${name} did not run: ${available}`]
  )
  const failed = failures(run).map(
    ({ contender, workload, error }) => `${contender} failed at ${workload}: ${error}`
  )
  return [...absent, ...failed]
}
