/** Every figure that a workload may report: its unit, how it is printed, and which way is better. */

export type Metric = { unit: string; digits: number; better: 'higher' | 'lower'; label: string }

const metric = (label: string, unit: string, better: Metric['better'], digits = 0): Metric => ({
  label,
  unit,
  better,
  digits
})

export const metrics = {
  mibPerSecond: metric('throughput', 'MiB/s', 'higher'),
  cpuPerGib: metric('CPU of the programs', 's/GiB', 'lower', 2),
  loadCpuPerGib: metric('CPU of load and target', 's/GiB', 'lower', 2),
  perSecond: metric('rate', '/s', 'higher'),
  cpuPerThousand: metric('CPU of the programs', 's/1000', 'lower', 3),
  p50: metric('p50', 'ms', 'lower', 3),
  p99: metric('p99', 'ms', 'lower', 3),
  p999: metric('p99.9', 'ms', 'lower', 3),
  p99Alone: metric('p99 without', 'ms', 'lower', 3),
  p99Beside: metric('p99 with', 'ms', 'lower', 3),
  slowdown: metric('p99 with / without', 'x', 'lower', 2),
  nearKib: metric('memory, near end', 'KiB', 'lower', 1),
  farKib: metric('memory, far end', 'KiB', 'lower', 1),
  cpuPercent: metric('CPU, near end', '% of a core', 'lower', 1),
  openSeconds: metric('all open after', 's', 'lower', 2),
  failed: metric('failed', '', 'lower'),
  nearReady: metric('near end ready after', 'ms', 'lower'),
  farReady: metric('far end ready after', 'ms', 'lower'),
  peakMib: metric('peak memory, both ends', 'MiB', 'lower')
} as const satisfies Record<string, Metric>

export type MetricName = keyof typeof metrics
export type Figures = Partial<Record<MetricName, number>>
