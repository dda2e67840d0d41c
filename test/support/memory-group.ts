/**
 * A control group with a limit on memory and no swap, as a kubelet makes one for each container. It needs root and a
 * cgroup file system that is writable; where there is none, nothing is limited and the test measures only. Of version 2,
 * or of version 1, where the buffers of TCP sockets have a counter of their own.
 */
import { randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Teardown } from './targets.js'

export type MemoryGroup = {
  /** Which limits are in force, for the output of the test. */
  readonly about: string
  /** A process writes its id here to be in it, from its first byte of memory on. */
  readonly procsFile: string
  /** The most that was counted, kernel's buffers of sockets included. */
  peakBytes(): number
  /** What the kernel's buffers of sockets take now. */
  socketBytes(): number
  /** Processes that were killed because of the limit. */
  kills(): number
}

/** Undefined where no group can be made. It is removed when the test has ended and its processes have. */
export function memoryGroup(t: Teardown, name: string, limitBytes: number): MemoryGroup | undefined {
  for (const make of [groupOfVersion2, groupOfVersion1]) {
    for (const parent of make.parents()) {
      const directory = join(parent, `tendril-test-${name}-${randomUUID()}`)
      try {
        mkdirSync(directory)
      } catch {
        continue
      }
      t.teardown(() => rmdirSync(directory))
      try {
        return make(directory, limitBytes)
      } catch {
        // No controller for memory there: the next one.
      }
    }
  }
  return undefined
}

function groupOfVersion2(directory: string, limitBytes: number): MemoryGroup {
  const file = (name: string): string => join(directory, name)
  writeFileSync(file('memory.max'), String(limitBytes))
  if (existsSync(file('memory.swap.max'))) writeFileSync(file('memory.swap.max'), '0')
  const peak = existsSync(file('memory.peak')) ? 'memory.peak' : 'memory.current'
  return {
    about: `cgroup v2, memory.max ${limitBytes}, no swap, socket buffers counted with the rest`,
    procsFile: file('cgroup.procs'),
    peakBytes: () => numberIn(file(peak)),
    socketBytes: () => numberIn(file('memory.stat'), 'sock'),
    kills: () => numberIn(file('memory.events'), 'oom_kill')
  }
}

/** A group inside the one we are in works where the controller is handed down; the root always hands it down. */
groupOfVersion2.parents = (): string[] => {
  const root = existsSync('/sys/fs/cgroup/cgroup.controllers') ? '/sys/fs/cgroup' : '/sys/fs/cgroup/unified'
  return existsSync(root) ? [join(root, ownPath('')), root] : []
}

function groupOfVersion1(directory: string, limitBytes: number): MemoryGroup {
  const file = (name: string): string => join(directory, name)
  writeFileSync(file('memory.limit_in_bytes'), String(limitBytes))
  // Memory and swap together: the same number leaves nothing for swap.
  const swap = existsSync(file('memory.memsw.limit_in_bytes'))
  if (swap) writeFileSync(file('memory.memsw.limit_in_bytes'), String(limitBytes))
  // Counted only where there is a limit.
  writeFileSync(file('memory.kmem.tcp.limit_in_bytes'), String(limitBytes))
  return {
    about: `cgroup v1, memory.limit_in_bytes ${limitBytes}, ${swap ? 'no swap' : 'swap not limited'}, socket buffers limited apart`,
    procsFile: file('cgroup.procs'),
    peakBytes: () =>
      numberIn(file('memory.max_usage_in_bytes')) + numberIn(file('memory.kmem.tcp.max_usage_in_bytes')),
    socketBytes: () => numberIn(file('memory.kmem.tcp.usage_in_bytes')),
    kills: () => numberIn(file('memory.oom_control'), 'oom_kill')
  }
}

groupOfVersion1.parents = (): string[] =>
  existsSync('/sys/fs/cgroup/memory') ? [join('/sys/fs/cgroup/memory', ownPath('memory'))] : []

/** Where this process is, in the hierarchy of a controller of version 1, or of version 2 (''). */
function ownPath(controller: string): string {
  const lines = readFileSync('/proc/self/cgroup', 'utf8').split('\n')
  const line = lines.find(line => line.split(':')[1]?.split(',').includes(controller))
  return line?.split(':').slice(2).join(':') ?? '/'
}

/** The number that a file is, or that stands behind a name in it; 0 if there is none. */
function numberIn(file: string, name?: string): number {
  const text = readFileSync(file, 'utf8')
  const value = name === undefined ? text : text.split('\n').find(line => line.startsWith(`${name} `))
  return Number(name === undefined ? value : value?.slice(name.length)) || 0
}
