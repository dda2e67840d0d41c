/**
 * What /proc says about a process and its children: CPU time, memory now, memory at the peak. Linux only, and
 * silent about processes that are gone: they count as zero.
 */
import { readFileSync, writeFileSync } from 'node:fs'

/** USER_HZ, which /proc/PID/stat counts in; 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}

/** The process and its descendants: a program may have worker processes. */
export function family(pid: number): number[] {
  const children = read(`/proc/${pid}/task/${pid}/children`).trim()
  return [pid, ...(children ? children.split(' ').flatMap(child => family(Number(child))) : [])]
}

const sum = (pid: number, of: (pid: number) => number): number =>
  family(pid).reduce((total, one) => total + of(one), 0)

/** User and system seconds so far, all threads. */
export function cpuSeconds(pid: number): number {
  return sum(pid, one => {
    const stat = read(`/proc/${one}/stat`)
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ') // proc(5): field 3, the state, is index 0 here
    return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) / TICKS_PER_SECOND
  })
}

/** Seconds that all processors together have been busy since boot, whoever kept them so. */
export function machineBusySeconds(): number {
  // proc(5): cpu user nice system idle iowait irq softirq steal …; the rest is counted in user already
  const [line = ''] = read('/proc/stat').split('\n', 1)
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = line
    .split(/\s+/)
    .slice(1)
    .map(Number)
  return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND
}

/** Proportional set size in KiB: shared pages count in part, so that two programs add up. */
export function pssKib(pid: number): number {
  return sum(pid, one => Number(/^Pss:\s+(\d+)/m.exec(read(`/proc/${one}/smaps_rollup`))?.[1] ?? 0))
}

/** Resident set at its highest since the start or the last `resetPeak`, in KiB. */
export function peakKib(pid: number): number {
  return sum(pid, one => Number(/^VmHWM:\s+(\d+)/m.exec(read(`/proc/${one}/status`))?.[1] ?? 0))
}

/** Lets `peakKib` begin anew. Where the kernel refuses, the peak stays that of the whole life. */
export function resetPeak(pid: number): void {
  for (const one of family(pid)) {
    try {
      writeFileSync(`/proc/${one}/clear_refs`, '5') // proc(5): 5 resets VmHWM
    } catch {
      // gone, or not ours
    }
  }
}
