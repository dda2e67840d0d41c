/** What a caller hears when its tunnel breaks in the middle of an answer: all that was said, and never an end. */
import { once } from 'node:events'
import { type Socket, connect } from 'node:net'
import { connect as connectTls } from 'node:tls'
import t, { type Test } from 'tap'
import { TunnelError } from '@tendril/common'
import { type FrontOptions, listenFront } from '../../src/front/front.js'
import { FakeBundle, Pki, duplexPair, silent } from '../support.js'

/** A caller who has read half an answer; what it then hears, and the far side of its tunnel. */
async function halfAnswered(t: Test, secure: boolean) {
  const pki = new Pki()
  const [near, far] = duplexPair()
  const options: FrontOptions = {
    name: 'test',
    listen: { host: '127.0.0.1', port: 0 },
    ...(secure && { certificates: new FakeBundle(pki.server(), pki.ca) }),
    route: () => 'demo',
    dial: () => async () => near,
    log: silent
  }
  const front = await listenFront(options)
  t.teardown(() => front.close())
  const { host, port } = front.address as { host: string; port: number }
  const tcp = connect(port, host)
  const caller = secure
    ? connectTls({ socket: tcp, ca: pki.ca, ...pki.leaf({ uris: ['tendril://caller/kube-apiserver'] }) })
    : tcp
  t.teardown(() => caller.destroy())
  const ending = endingOf(caller)
  await once(caller, secure ? 'secureConnect' : 'connect')
  let received = ''
  caller.on('data', (chunk: Buffer) => (received += chunk.toString()))
  caller.write('CONNECT 10.0.0.5:80 HTTP/1.1\r\nHost: 10.0.0.5:80\r\n\r\n')
  await once(caller, 'data')
  far.on('error', () => {}).write('half an answer')
  await once(caller, 'data')
  return { front, far: far, ending, received: () => received.split('\r\n\r\n')[1] }
}

/** Whether the connection ended in order. In TLS a FIN without close_notify is an end to Node, and to Go. */
function endingOf(caller: Socket): Promise<string> {
  return new Promise(resolve => {
    caller.on('end', () => resolve('end'))
    caller.on('error', (error: NodeJS.ErrnoException) => resolve(error.code!))
  })
}

for (const secure of [true, false]) {
  for (const code of ['TARGET_RESET', 'LINK_LOST'] as const) {
    t.test(`${secure ? 'TLS' : 'plain'}: ${code} is no end`, async t => {
      const { far, ending, received } = await halfAnswered(t, secure)

      far.destroy(new TunnelError(code))

      t.equal(await ending, 'ECONNRESET')
      t.equal(received(), 'half an answer')
    })
  }

  t.test(`${secure ? 'TLS' : 'plain'}: a front that closes is no end`, async t => {
    const { front, ending } = await halfAnswered(t, secure)

    await front.close()

    t.equal(await ending, 'ECONNRESET')
  })
}
