/** A session on a link: what its streams hear when the link does not come back, and that dials wait while it may. */
import t from 'tap'
import { shakeHands } from '../../src/link/handshake.js'
import { LinkHost } from '../../src/link/host.js'
import { Link } from '../../src/link/link.js'
import { Session } from '../../src/mux/session.js'
import { FakeClock } from '../support/fake-clock.js'
import { memoryCarriers } from '../support/memory-carrier.js'
import { POD, closeOf, never, turns, until } from '../support/sessions.js'
import { dialContext } from '../support/dial-context.js'

const WINDOW_MS = 1_000
const self = { name: 'c', instance: Buffer.alloc(8, 1), connectionIndex: 0 }

/** Two sessions over a resumable link, and the way to break and mend it. */
async function pair() {
  const clock = new FakeClock()
  const limits = { resumeWindowMs: WINDOW_MS }
  const state: { server?: Session } = {}
  const host = new LinkHost({
    server: 's',
    clock,
    limits,
    onLink: link => (state.server = new Session(link, { clock }))
  })
  const link = new Link({ clock, limits })
  const client = new Session(link, { clock, onOpen: incoming => void incoming.accept() })
  const connect = async () => {
    const [near, far] = memoryCarriers()
    host.accept(far, { key: 'k' })
    await shakeHands(near, link, self, { clock })
    return near
  }
  const carrier = await connect()
  await until(() => state.server?.state === 'open')
  return { clock, link, client, server: state.server as Session, carrier, connect }
}

t.test('when the window is over, streams and dials of both sides hear RESUME_EXPIRED', async t => {
  const { clock, server, carrier } = await pair()
  const stream = await server.dial(POD, dialContext())
  carrier.cut()
  const waiting = server.dial(POD, dialContext({ signal: never(), timeoutMs: 60_000 }))
  waiting.catch(() => {})

  clock.tick(WINDOW_MS)

  t.match(await closeOf(stream), { code: 'RESUME_EXPIRED' })
  await t.rejects(waiting, { code: 'RESUME_EXPIRED' })
  await t.rejects(server.dial(POD, dialContext()), { code: 'RESUME_EXPIRED' })
  t.equal(clock.pending, 0)
})

t.test('a stream of a link that ends in any other way hears LINK_LOST, with the cause', async t => {
  const { server, link } = await pair()
  const stream = await server.dial(POD, dialContext())

  link.close('DRAINING')

  t.match(await closeOf(stream), { code: 'LINK_LOST', cause: { code: 'DRAINING' } })
})

t.test('a dial made while the link is down is answered when it is back', async t => {
  const { server, carrier, connect, client } = await pair()
  carrier.cut()
  await turns()
  const dialled = server.dial(POD, dialContext())
  await turns()

  await connect()

  t.not((await dialled).destroyed, true)
  server.close()
  client.close()
})

t.test(
  'a dial that waits for a link longer than its bound is DIAL_TIMEOUT; the link may still come back',
  async t => {
    const { clock, server, carrier, connect, client } = await pair()
    carrier.cut()
    await turns()
    const dialled = server.dial(POD, dialContext({ signal: never(), timeoutMs: 500 }))
    dialled.catch(() => {})

    clock.tick(500)

    await t.rejects(dialled, { code: 'DIAL_TIMEOUT' })
    await connect()
    const stream = await server.dial(POD, dialContext())
    t.equal(server.streamCount, 1)
    stream.destroy()
    server.close()
    client.close()
  }
)
