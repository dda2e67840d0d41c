/** Real sockets and handshakes; only the time until a certificate expires is in the test's hands. */
import { EventEmitter, once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import t from 'tap'
import type { Test } from 'tap'
import { WebSocketServer } from 'ws'
import type { TunnelError } from '@tendril/common'
import { AdmittedCertificates, type AdmittedOptions } from '@tendril/common/identity/admitted'
import { holdToServerCertificate } from '@tendril/common/identity/server-certificate'
import { shakeHands } from '@tendril/common/link/handshake'
import { LinkHost } from '@tendril/common/link/host'
import { Link } from '@tendril/common/link/link'
import { INSTANCE_BYTES } from '@tendril/common/link/link-message'
import { createLog } from '@tendril/common/log'
import { connect } from '@tendril/common/transport/connect'
import type { Upgraded } from '@tendril/common/transport/upgrade'
import { WEBSOCKET_PROTOCOL, WebSocketCarrier, websocketOptions } from '@tendril/common/transport/websocket'
import { FakeClock } from '../support/fake-clock.js'
import { memoryCarriers } from '../support/memory-carrier.js'
import { AuthorityFiles, type Pair, makeAuthority, makeDirectory, operatorPki } from './fixtures.js'

const DAY_MS = 24 * 60 * 60_000
const ours = makeAuthority('Our CA')
const issue = (validityDays: number): Pair =>
  ours.issue({ commonName: 'vpn', hosts: ['localhost'], validityDays })

/** A server with one link, the messages it has received, and our side of that link. */
async function create(t: Test, first: Pair, options: Partial<AdmittedOptions> = {}) {
  const received: string[] = []
  const inbox = new EventEmitter()
  const host = new LinkHost<{ key: string }>({
    server: 'server',
    onLink: link => {
      link.on('message', message => {
        received.push(message.toString())
        inbox.emit('message')
      })
    }
  })
  const upgrades = new WebSocketServer({
    ...websocketOptions,
    noServer: true,
    handleProtocols: () => WEBSOCKET_PROTOCOL
  })
  const sockets = new Set<Duplex>()
  const server = createServer(first)
  server.on('connection', socket => sockets.add(socket))
  server.on('tlsClientError', () => {})
  server.on('upgrade', (request, socket, head) =>
    upgrades.handleUpgrade(request, socket, head, websocket =>
      host.accept(new WebSocketCarrier(websocket, socket as Upgraded['socket']), { key: 'client' })
    )
  )
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = `127.0.0.1:${(server.address() as AddressInfo).port}`

  const clock = new FakeClock()
  const startMs = clock.now()
  const lines: string[] = []
  const files = new AuthorityFiles(ours.cert)
  const admitted = new AdmittedCertificates({
    authorities: files,
    code: 'SERVER_NOT_IDENTIFIED',
    clock,
    today: () => new Date(Date.now() + clock.now() - startMs),
    log: createLog({ level: 'info', destination: { write: line => void lines.push(line) } }),
    ...options
  })
  const link = new Link()
  const downs: TunnelError[] = []
  link.on('down', reason => downs.push(reason))
  t.teardown(() => {
    link.close('CLOSED')
    admitted.close()
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return {
    clock,
    files,
    admitted,
    lines,
    link,
    downs,
    received,
    /** What the server shows from now on. */
    show: (pair: Pair) => server.setSecureContext(pair),
    /** One more connection for the link, as a tunnel manager makes it. Resolves to how long it may live. */
    async reach(): Promise<number> {
      const { websocket, socket, secured } = await connect(
        { url: 'wss://localhost', address },
        { tls: files.tlsOptions(), signal: new AbortController().signal }
      )
      const carrier = new WebSocketCarrier(websocket, socket)
      const leftMs = holdToServerCertificate(carrier, secured, admitted)
      await shakeHands(carrier, link, {
        name: 'client',
        instance: Buffer.alloc(INSTANCE_BYTES),
        connectionIndex: 0
      })
      return leftMs
    },
    async send(text: string): Promise<void> {
      link.send(Buffer.from(text))
      while (!received.includes(text)) await once(inbox, 'message')
    }
  }
}

t.test('the connection ends when the certificate expires; the link goes on once it is renewed', async t => {
  const { clock, show, reach, link, downs, lines, send, received, admitted } = await create(t, issue(1))
  const leftMs = await reach()
  t.ok(leftMs > DAY_MS - 60_000 && leftMs <= DAY_MS, `${leftMs} ms`)
  await send('before')

  clock.tick(DAY_MS - 60_000)
  t.equal(link.state, 'up')
  clock.tick(60_001)
  t.equal(link.state, 'down', 'and not closed')
  t.match(downs, [
    { code: 'LINK_LOST', message: /^link lost: the server's certificate of "vpn" expired on \d{4}-.*Z$/ }
  ])
  t.match(lines, [/certificate of \\"vpn\\" expired on .*certificate ended, and with it what it had opened/])
  t.equal(admitted.size, 0)

  link.send(Buffer.from('meanwhile'))
  show(issue(9))
  await reach()
  await send('after')
  t.same(received, ['before', 'meanwhile', 'after'])
  t.equal(link.state, 'up')
})

t.test(
  'what counts is the certificate of the newest connection: renewed in time, nothing is lost',
  async t => {
    const { clock, show, reach, link, downs, send, admitted } = await create(t, issue(1))
    await reach()
    show(issue(9))
    await reach()
    await send('over the newer one')

    clock.tick(2 * DAY_MS)
    t.equal(link.state, 'up')
    t.same(downs, [])
    t.equal(admitted.size, 1, 'of the older connection nothing is left')
    clock.tick(8 * DAY_MS)
    t.equal(link.state, 'down')
  }
)

t.test('authorities that were read again drop what they do not accept, and let nobody else in', async t => {
  const { clock, files, reach, link, downs, send } = await create(t, issue(9))
  const other = makeAuthority('another').cert
  await reach()
  files.change(other, ours.cert)
  clock.tick(1)
  await send('accepted still')

  files.change(other)
  clock.tick(1)
  t.equal(link.state, 'down')
  t.match(downs, [
    { message: /the server's certificate of "vpn" comes from an authority that is no longer accepted/ }
  ])
  await t.rejects(reach(), { code: 'SERVER_NOT_IDENTIFIED' })
  t.equal(link.state, 'down')

  files.change(other, ours.cert)
  await reach()
  await send('accepted again')
})

t.test(
  'a server under an intermediate authority, which it shows, is held to the root in the file',
  async t => {
    const dir = makeDirectory(t)
    const { ca, leaf } = operatorPki(dir, ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256'])
    const [root, cert, key] = [ca, leaf.cert, leaf.key].map(file => readFileSync(file, 'utf8'))
    const { clock, files, reach, link, downs, send } = await create(t, { cert: cert!, key: key! })
    files.change(root!, ours.cert)
    await reach()

    files.change(root!)
    clock.tick(1)
    await send('accepted still')
    t.same(downs, [])

    files.change(ours.cert)
    clock.tick(1)
    t.equal(link.state, 'down')
    t.match(downs, [{ message: /certificate of "leaf" comes from an authority that is no longer accepted/ }])
  }
)

t.test('kept: a certificate that expires drops nothing, an authority that is gone does', async t => {
  const { clock, files, reach, link, send } = await create(t, issue(1), { onExpiry: 'keep' })
  t.equal(await reach(), Infinity)

  clock.tick(9 * DAY_MS)
  await send('kept')
  files.change(makeAuthority('another').cert)
  clock.tick(1)
  t.equal(link.state, 'down')
})

t.test('a connection without TLS is held to nothing, and one that is over leaves nothing', async t => {
  const { admitted, reach, link } = await create(t, issue(1))
  const [near] = memoryCarriers()
  t.equal(holdToServerCertificate(near, undefined, admitted), Infinity)
  t.equal(admitted.size, 0)

  await reach()
  t.equal(admitted.size, 1)
  const closed = once(link, 'close')
  link.close('CLOSED')
  await closed
  // The peer's answer to the close frame is awaited.
  while (admitted.size > 0) await new Promise(resolve => setImmediate(resolve))
  t.equal(admitted.size, 0)
})
