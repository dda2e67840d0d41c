/**
 * A keystroke beside 64 uploads over a slow path, before, during and after a loss: what lies ahead of it is what the path
 * carries in a few round trips, whatever the uploads have to say (docs/protocol.md §6.1).
 */
import type { Duplex } from 'node:stream'
import t from 'tap'
import { shakeHands } from '../../src/link/handshake.js'
import { LinkHost } from '../../src/link/host.js'
import { TunnelError } from '../../src/errors.js'
import { Link, type LinkLimits } from '../../src/link/link.js'
import { isLinkMessage } from '../../src/link/link-message.js'
import { Session } from '../../src/mux/session.js'
import { FakeClock } from '../support/fake-clock.js'
import { type SlowCarrier, slowCarriers } from '../support/slow-carrier.js'
import { POD, never } from '../support/sessions.js'
import { dialContext } from '../support/dial-context.js'

const MIB = 1 << 20
const BYTES_PER_MS = (4 * MIB) / 1_000
const DELAY_MS = 20
const MESSAGE_BYTES = 128 << 10
/** Rate x (round trip + 250 ms) x 2, rounded up: what may be unacknowledged over this path. */
const WINDOW_BYTES = 2 * MIB
const UPLOADS = 64
const self = { name: 'c', instance: Buffer.alloc(8, 1), connectionIndex: 0 }

/** A server that dials and a client that answers: its targets swallow what they get, but for those that echo. */
async function slowTunnel(limits: Partial<LinkLimits> = {}) {
  const clock = new FakeClock()
  const state: { server?: Session; serverLink?: Link } = {}
  const host = new LinkHost({
    server: 's',
    clock,
    limits,
    onLink: link => {
      state.serverLink = link
      state.server = new Session(link, { clock })
    }
  })
  const link = new Link({ clock, limits })
  const client = new Session(link, {
    clock,
    onOpen: incoming => {
      const stream = incoming.accept().on('error', () => {})
      if (incoming.target.port === POD.port) stream.resume()
      else stream.pipe(stream)
    }
  })
  const pass = async (ms: number, until: () => boolean = () => false): Promise<boolean> => {
    for (const endMs = clock.now() + ms; clock.now() < endMs; clock.tick(2)) {
      for (let turn = 0; turn < 3; turn++) await new Promise(resolve => setImmediate(resolve))
      if (until()) return true
    }
    return until()
  }
  const connect = async (): Promise<SlowCarrier> => {
    const [near, far] = slowCarriers({ clock, bytesPerMs: BYTES_PER_MS, delayMs: DELAY_MS })
    host.accept(far, { key: 'k' })
    let up = false
    const shaken = shakeHands(near, link, self, { clock }).then(() => (up = true))
    await pass(5_000, () => up)
    await shaken
    return far
  }
  const carrier = await connect()
  await pass(1_000, () => state.server?.state === 'open')
  const server = state.server as Session
  const dial = async (port: number): Promise<Duplex> => {
    let stream: Duplex | undefined
    void server.dial({ ...POD, port }, dialContext()).then(opened => (stream = opened))
    await pass(5_000, () => stream !== undefined)
    return (stream as unknown as Duplex).on('error', () => {})
  }
  const end = (): void => {
    server.close()
    client.close()
  }
  return { clock, server, serverLink: state.serverLink as Link, client, carrier, connect, pass, dial, end }
}

/** Writes for as long as the stream takes it. */
function uploadOn(stream: Duplex): void {
  const chunk = Buffer.alloc(64 << 10, 'u')
  const write = (): void => {
    while (!stream.destroyed && stream.write(chunk));
  }
  stream.on('drain', write)
  write()
}

/** How long a keystroke takes to come back, in milliseconds. */
async function keystroke(
  stream: Duplex,
  { clock, pass }: Pick<Awaited<ReturnType<typeof slowTunnel>>, 'clock' | 'pass'>
): Promise<number> {
  const beganMs = clock.now()
  let back = false
  stream.once('data', () => (back = true))
  stream.write('k')
  await pass(60_000, () => back)
  return clock.now() - beganMs
}

t.test('beside 64 uploads a keystroke waits for no more than the path carries in a window', async t => {
  const tunnel = await slowTunnel()
  const echo = await tunnel.dial(22)
  for (let count = 0; count < UPLOADS; count++) uploadOn(await tunnel.dial(POD.port))
  let peakBytes = 0
  await tunnel.pass(3_000)

  const tookMs: number[] = []
  for (let round = 0; round < 20; round++) {
    tookMs.push(await keystroke(echo, tunnel))
    peakBytes = Math.max(peakBytes, tunnel.serverLink.replayBytes)
    await tunnel.pass(50)
  }

  t.ok(peakBytes <= WINDOW_BYTES, `${peakBytes} bytes unacknowledged`)
  const mostMs = (WINDOW_BYTES + MESSAGE_BYTES) / BYTES_PER_MS + 2 * DELAY_MS + 100
  t.ok(Math.max(...tookMs) <= mostMs, `${Math.max(...tookMs)} ms of ${mostMs}`)
  tunnel.end()
})

t.test(
  'after a loss a keystroke waits for what was unacknowledged, and for nothing that came later',
  async t => {
    const tunnel = await slowTunnel()
    const { serverLink, pass } = tunnel
    const echo = await tunnel.dial(22)
    for (let count = 0; count < UPLOADS; count++) uploadOn(await tunnel.dial(POD.port))
    await pass(3_000)

    const atCutBytes = serverLink.replayBytes
    tunnel.carrier.cut()
    await pass(5_000)
    const whileDownBytes = serverLink.replayBytes - atCutBytes
    t.ok(atCutBytes <= WINDOW_BYTES, `${atCutBytes} bytes unacknowledged at the cut`)
    t.ok(whileDownBytes <= MESSAGE_BYTES, `${whileDownBytes} bytes taken while down`)

    let replayedBytes = -1
    serverLink.on('up', info => (replayedBytes = info.replayedBytes))
    let back = ''
    echo.on('data', (chunk: Buffer) => (back += chunk.toString()))
    echo.write('kkkkkkkk')
    const next = await tunnel.connect()
    await pass(2_000)

    t.ok(
      replayedBytes > 0 && replayedBytes <= atCutBytes + whileDownBytes,
      `${replayedBytes} bytes sent again`
    )
    let aheadBytes = 0
    for (const message of next.sent.filter(message => !isLinkMessage(message))) {
      if (message.includes('kkkkkkkk')) break
      aheadBytes += message.length
    }
    t.equal(aheadBytes, replayedBytes, 'the first message that is new brings the keystroke')

    t.equal(back, 'kkkkkkkk', 'it came back within the bytes that were sent again and a window')
    const tookMs = await keystroke(echo, tunnel)
    const mostMs = (WINDOW_BYTES + MESSAGE_BYTES) / BYTES_PER_MS + 2 * DELAY_MS + 100
    t.ok(tookMs <= mostMs, `and then it takes as long as before: ${tookMs} ms`)
    tunnel.end()
  }
)

t.test('8192 streams that end or are read while the link is down do not end the session', async t => {
  const tunnel = await slowTunnel()
  const { server, client, pass } = tunnel
  const streams: Promise<Duplex>[] = []
  for (let count = 0; count < 8_192; count++)
    streams.push(server.dial(POD, dialContext({ signal: never(), timeoutMs: 60_000 })))
  let open: Duplex[] = []
  void Promise.all(streams).then(all => (open = all))
  t.ok(await pass(60_000, () => open.length === 8_192))
  const ends: string[] = []
  for (const session of [server, client]) session.on('close', error => ends.push(error.message))

  tunnel.carrier.cut()
  await pass(100)
  // Each says the longest that a stream can say: RESET with a text.
  for (const stream of open) {
    stream.on('error', () => {})
    stream.destroy(new TunnelError('TARGET_RESET', 'r'.repeat(400)))
  }
  await pass(1_000)
  t.same(ends, [])
  await tunnel.connect()
  t.ok(await pass(60_000, () => client.streamCount === 0))

  t.same(ends, [])
  tunnel.end()
})
