/** Log lines that anybody can cause at the two listeners: a few of each cause, then one per minute with a count. */
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import { createLog } from '@tendril/common/log'
import { REFUSAL_LINES } from '@tendril/common/log-limiter'
import t from 'tap'
import { listenAcceptor } from '../src/acceptor/acceptor.js'
import { listenFront } from '../src/front/front.js'
import { FakeBundle, Pki, rawPlain, tcpDial } from './support.js'

const ATTEMPTS = 4 * REFUSAL_LINES.burst
const listen = { host: '127.0.0.1', port: 0 }

/** Lines at `info` and above. */
function logged() {
  const lines: { msg: string; suppressed?: number }[] = []
  return {
    lines: (msg: string) => lines.filter(line => line.msg === msg),
    log: createLog({ destination: { write: line => void lines.push(JSON.parse(line)) } })
  }
}

t.test('callers that send no request', async t => {
  const clock = new FakeClock()
  const { log, lines } = logged()
  const front = await listenFront({
    name: 'test',
    listen,
    route: () => 'demo',
    dial: () => tcpDial,
    clock,
    log
  })
  t.teardown(() => front.close())
  const ask = async (): Promise<void> => {
    const raw = await rawPlain(t, front.address)
    await raw.write('GET / HTTP/1.1\r\n\r\n').untilText('HTTP/1.1 4')
  }

  for (let count = 0; count < ATTEMPTS; count++) await ask()
  t.equal(lines('request refused').length, REFUSAL_LINES.burst)
  clock.tick(REFUSAL_LINES.everyMs)
  await ask()

  t.equal(lines('request refused').at(-1)?.suppressed, ATTEMPTS - REFUSAL_LINES.burst)
})

t.test('connections without a PROXY header, and clients that are refused', async t => {
  const clock = new FakeClock()
  const { log, lines } = logged()
  const pki = new Pki()
  const acceptor = await listenAcceptor({
    listen,
    certificates: new FakeBundle(pki.server(), pki.ca),
    clusters: [{ name: 'demo' }],
    proxyProtocol: 'required',
    onConnection: () => {},
    clock,
    log
  })
  t.teardown(() => acceptor.close())
  const ask = async (): Promise<void> => {
    const raw = await rawPlain(t, acceptor.address)
    raw.socket.on('error', () => {})
    raw.write('no header\r\n').socket.end()
    await raw.untilClosed().catch(() => {})
  }

  for (let count = 0; count < ATTEMPTS; count++) await ask()
  t.equal(lines('connection refused').length, REFUSAL_LINES.burst)
  clock.tick(REFUSAL_LINES.everyMs)
  await ask()

  t.equal(lines('connection refused').at(-1)?.suppressed, ATTEMPTS - REFUSAL_LINES.burst)
})
