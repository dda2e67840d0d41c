import t from 'tap'
import { serverMemoryBounds } from '../src/bounds.js'

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
    session: { processBudget: 2_000, windowMin: 20 }
  }

  t.same(serverMemoryBounds(config as never), [
    { from: 'link.replayBudget', bytes: 1_000 },
    { from: 'link.replayMin x 30 links', bytes: 300 },
    { from: 'session.processBudget', bytes: 2_000 },
    { from: 'session.windowMin x 100 streams', bytes: 2_000 }
  ])
})
