/**
 * How many processes `workers: auto` stands for: the cores that this one may use, by its affinity and by the CPU quota
 * of its cgroups (a container's limit). Everything is asked of the kernel once, by reading files.
 */
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, resolve } from 'node:path'

export type CoresOptions = {
  /** Contents of a file. Throws when there is none. */
  read?: (path: string) => string
  /** By affinity. Default: of this process. */
  available?: number
}

const CGROUPS = '/sys/fs/cgroup'

/** At least 1. Of a quota whole cores count: the rest of one is soon used up by the kernel and the primary. */
export function usableCores({
  read = path => readFileSync(path, 'utf8'),
  available = availableParallelism()
}: CoresOptions = {}): number {
  const lines = (path: string): string[] => {
    try {
      return read(path).trim().split('\n')
    } catch {
      return []
    }
  }
  const quotas = lines('/proc/self/cgroup').flatMap(line => {
    // cgroups(7): hierarchy-ID:controllers:path; in version 2 hierarchy 0 without controllers.
    const [, controllers = '', ...path] = line.split(':')
    if (controllers === '') return upwards(path.join(':')).map(group => quotaOf(lines(group + '/cpu.max')))
    if (!controllers.split(',').includes('cpu')) return []
    return upwards(`/${controllers}${path.join(':')}`).map(group =>
      quotaOf([
        `${lines(`${group}/cpu.cfs_quota_us`).join('')} ${lines(`${group}/cpu.cfs_period_us`).join('')}`
      ])
    )
  })
  return Math.max(1, Math.floor(Math.min(available, ...quotas)))
}

/** A group and all above it: each may have a quota. Inside a container the upper ones may be all there is to see. */
function upwards(path: string): string[] {
  const groups = [resolve(CGROUPS, `.${path}`)]
  for (let group = groups[0]!; group.length > CGROUPS.length;) groups.push((group = dirname(group)))
  return groups
}

/** `150000 100000` is one and a half, `max 100000` and `-1 100000` are no limit, as is what is not there. */
function quotaOf([line = '']: string[]): number {
  const [quota, period] = line.split(' ').map(Number)
  return quota && period && quota > 0 && period > 0 ? quota / period : Infinity
}
