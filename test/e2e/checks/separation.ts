/** Check 0: the premise of all others. Nothing in the seed can open a connection into the shoot. */
import { connect } from 'node:net'
import { expect, type CheckContext } from '../support/check-context.js'
import { NODE_ADDRESSES } from '../support/network.js'
import { must } from '../support/namespace-process.js'

const ATTEMPT_MS = 1_500

export async function separation(context: CheckContext): Promise<void> {
  const { report, network } = context
  await report.check(
    '0.1',
    'the seed has no route into the shoot, and the router drops what comes all the same',
    async () => {
      const [node] = NODE_ADDRESSES
      const without = await attempt(node, 10250)
      expect(without === 'ENETUNREACH', `without a route: ${without}`)
      const before = await network.droppedIntoShoot()
      await must(['ip', 'route', 'add', `${node}/32`, 'via', '10.1.0.1'])
      try {
        const withRoute = await attempt(node, 10250)
        expect(withRoute === 'silence', `with a route: ${withRoute}`)
      } finally {
        await must(['ip', 'route', 'delete', `${node}/32`])
      }
      expect((await network.droppedIntoShoot()) > before, 'the router did not count a drop')
    }
  )
}

/** How a connection attempt ends: an error code, `connected`, or `silence`. */
function attempt(host: string, port: number): Promise<string> {
  return new Promise(resolve => {
    const socket = connect({ host, port, timeout: ATTEMPT_MS })
    const end = (how: string): void => {
      socket.destroy()
      resolve(how)
    }
    socket.on('connect', () => end('connected'))
    socket.on('timeout', () => end('silence'))
    socket.on('error', error => end((error as NodeJS.ErrnoException).code ?? error.message))
  })
}
