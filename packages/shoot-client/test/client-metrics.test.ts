import { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import { Registry } from 'prom-client'
import t from 'tap'
import { createClientMetrics } from '../src/client-metrics.js'

const socketWith = (bytesRead: number, bytesWritten: number) =>
  Object.assign(new EventEmitter(), { bytesRead, bytesWritten }) as unknown as Socket & {
    bytesRead: number
    bytesWritten: number
  }

t.test('bytes of open connections are counted at each scrape, once', async t => {
  const registry = new Registry()
  const metrics = createClientMetrics(registry)
  const socket = socketWith(10, 20)
  metrics.connectionOpened(socket)

  t.match(await registry.metrics(), /bytes_total\{direction="from_target"\} 10\n/)
  socket.bytesRead = 15
  t.match(
    await registry.metrics(),
    /bytes_total\{direction="from_target"\} 15\n[^]*tendril_client_connections 1\n/
  )
  socket.bytesWritten = 21
  socket.emit('close')

  t.match(
    await registry.metrics(),
    /bytes_total\{direction="to_target"\} 21\n[^]*tendril_client_connections 0\n/
  )
})

t.test(
  'a target that resets with bytes on their way to it, which were counted at a scrape, ends nothing',
  async t => {
    const registry = new Registry()
    const metrics = createClientMetrics(registry)
    const socket = socketWith(0, 100)
    metrics.connectionOpened(socket)
    t.match(await registry.metrics(), /bytes_total\{direction="to_target"\} 100\n/)

    // Node no longer counts what it has not sent.
    socket.bytesWritten = 60
    t.doesNotThrow(() => socket.emit('close'))

    t.match(
      await registry.metrics(),
      /bytes_total\{direction="to_target"\} 100\n[^]*tendril_client_connections 0\n/
    )
  }
)

t.test('dials and links are counted by code', async t => {
  const registry = new Registry()
  const metrics = createClientMetrics(registry)

  metrics.dialEnded('OK', 4)
  metrics.dialEnded('TARGET_REFUSED', 30)
  metrics.linkEnded('LINK_LOST')
  const down = metrics.linkUp()
  metrics.linkUp()
  down()
  down()

  const text = await registry.metrics()
  t.match(text, 'tendril_client_dials_total{code="OK"} 1')
  t.match(text, 'tendril_client_dials_total{code="TARGET_REFUSED"} 1')
  t.match(text, 'tendril_client_dial_seconds_bucket{le="0.005"} 1')
  t.match(text, 'tendril_client_dial_seconds_bucket{le="0.1"} 2')
  t.match(text, 'tendril_client_link_ends_total{code="LINK_LOST"} 1')
  t.match(text, 'tendril_client_links_up 1')
})
