/** A plain front and a target in a process of their own, for the test that uses up its file descriptors. */
import { createServer } from 'node:net'
import { TunnelError } from '@tendril/common'
import { listenFront } from '../../src/front/front.js'
import { silent, tcpDial } from '../support.js'

const target = createServer(socket => {
  socket.on('error', () => {})
  socket.pipe(socket)
})
target.listen(0, '127.0.0.1', () => void start())

async function start(): Promise<void> {
  const front = await listenFront({
    name: 'test',
    listen: { host: '127.0.0.1', port: 0 },
    route: () => 'demo',
    dial: () => (target, options) =>
      tcpDial(target, options).catch((error: unknown) => {
        throw TunnelError.from(error, 'OVERLOADED')
      }),
    log: silent
  })
  process.send?.({ front: front.address, target: target.address() })
}
