import { MESSAGE_LIMIT_BYTES } from '@tendril/common/carrier'
import { CONTROL_BYTES, PROGRAM_BYTES, TLS_BYTES, showBounds } from '@tendril/common/config/memory-bounds'
import { sessionDefaults } from '@tendril/common/mux/session'
import { LOG_BUFFER_BYTES } from '@tendril/common/log-output'
import t from 'tap'
import { serverMemoryBounds } from '../src/server-bounds.js'
import { EARLY_LIMIT_BYTES } from '../src/front/caller.js'

t.test('the bounds on memory follow from the configuration', async t => {
  const limits = {
    links: 10,
    linksPerClient: 2,
    routesPerClient: 2,
    connections: 20,
    streams: 50,
    dialsPerSecond: 10
  }
  const cluster = { name: 'a', required: false, routes: [], serverNames: [], limits }
  const config = {
    clusters: [cluster, { ...cluster, name: 'b' }],
    link: { replayBudget: 1_000, replayMin: 10, linkLimit: 30 },
    session: { processBudget: 2_000, windowMin: 20 },
    tunnel: { maxPending: 3, headerLimit: 100, maxConnections: 7 },
    fronts: [
      { maxConnections: 2, headerLimit: 10, tls: {} },
      { maxConnections: 4, headerLimit: 20 }
    ]
  }
  const KIB = 1 << 10
  t.ok(CONTROL_BYTES >= (sessionDefaults.controlLimitBytes * 4) / 3)

  t.same(serverMemoryBounds(config as never), [
    { from: 'the program itself', bytes: PROGRAM_BYTES },
    { from: 'link.replayBudget', bytes: 1_000 },
    { from: '(link.replayMin + 130KiB) x 30 links', bytes: 30 * (10 + 130 * KIB) },
    {
      from: '(5.4MiB of control frames + 1MiB received + 512KiB written) x 30 links',
      bytes: 30 * (CONTROL_BYTES + MESSAGE_LIMIT_BYTES + 512 * KIB)
    },
    { from: 'session.processBudget', bytes: 2_000 },
    {
      from: '(session.windowMin + 256KiB sent + 130KiB received) x 100 streams',
      bytes: 100 * (20 + (256 + 130) * KIB)
    },
    { from: '416KiB of TLS x 12 connections', bytes: 12 * TLS_BYTES },
    {
      from: 'log lines that wait to be written, and buffers kept for messages',
      bytes: LOG_BUFFER_BYTES + 7 * KIB * KIB
    },
    { from: 'tunnel.headerLimit x tunnel.maxPending', bytes: 300 },
    { from: 'fronts[].headerLimit x fronts[].maxConnections', bytes: 2 * 10 + 4 * 20 },
    { from: '64KiB received before the answer x fronts[].maxConnections', bytes: 6 * EARLY_LIMIT_BYTES }
  ])
})

t.test('their sum stands in front of them, as a comment', async t => {
  const bounds = [
    { from: 'a', bytes: 3 << 20 },
    { from: 'b', bytes: (4 << 20) - 1 }
  ]

  const [sum, ...each] = showBounds(bounds, 2).split('\n')
  t.equal(sum, '# Most memory of each of 2 workers, with every bound used up at once: 7 MiB')
  t.same(each.slice(0, 2), ['#      3 MiB  a', '#      4 MiB  b'])
  t.match(each[2], /^# Not in it: buffers of sockets in the kernel/)
})
