import t from 'tap'
import { usableCores } from '../../src/workers/cores.js'

const reading = (files: Record<string, string>) => (path: string) => {
  const content = files[path]
  if (content === undefined) throw new Error(`ENOENT: ${path}`)
  return `${content}\n`
}

const cases: [what: string, files: Record<string, string>, available: number, cores: number][] = [
  ['nothing to read', {}, 8, 8],
  ['no limit', { '/proc/self/cgroup': '0::/', '/sys/fs/cgroup/cpu.max': 'max 100000' }, 4, 4],
  ['a container', { '/proc/self/cgroup': '0::/', '/sys/fs/cgroup/cpu.max': '250000 100000' }, 8, 2],
  ['less than a core', { '/proc/self/cgroup': '0::/', '/sys/fs/cgroup/cpu.max': '20000 100000' }, 8, 1],
  ['more than there are', { '/proc/self/cgroup': '0::/', '/sys/fs/cgroup/cpu.max': '900000 100000' }, 2, 2],
  [
    'a unit of systemd in a slice that has less',
    {
      '/proc/self/cgroup': '0::/system.slice/seed.service',
      '/sys/fs/cgroup/system.slice/seed.service/cpu.max': '600000 100000',
      '/sys/fs/cgroup/system.slice/cpu.max': '300000 100000'
    },
    8,
    3
  ],
  [
    'version 1, with a container that does not see its own path',
    {
      '/proc/self/cgroup': '5:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n1:name=systemd:/docker/ab',
      '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '400000',
      '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us': '100000'
    },
    8,
    4
  ],
  [
    'version 1 without a limit',
    {
      '/proc/self/cgroup': '4:cpu,cpuacct:/',
      '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '-1',
      '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us': '100000'
    },
    8,
    8
  ],
  [
    'a path that leads out',
    { '/proc/self/cgroup': '0::/../../../..', '/sys/fs/cgroup/cpu.max': 'junk' },
    2,
    2
  ]
]

for (const [what, files, available, cores] of cases) {
  t.test(`${what}: ${cores} of ${available}`, async t => {
    t.equal(usableCores({ read: reading(files), available }), cores)
  })
}

t.test('here there is one at least', async t => {
  t.ok(usableCores() >= 1)
})
