/** A Carrier over real `ws` on loopback, TCP and TLS: what the compliance suite does not reach. */
import { once } from 'node:events'
import { type Server, createServer } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { type AddressInfo, type Socket, connect } from 'node:net'
import t, { type Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import { MESSAGE_LIMIT_BYTES } from '../../src/carrier.js'
import { type ErrorCode, TunnelError, errors } from '../../src/errors.js'
import {
  WEBSOCKET_PROTOCOL,
  WebSocketCarrier,
  websocketClientOptions,
  websocketOptions
} from '../../src/transport/websocket.js'
import { SLICE_LEAST_BYTES } from '../../src/transport/sliced-reads.js'
import { makeAuthority } from '../identity/fixtures.js'
import { SHARE_UNITS, TURN_UNITS, receiveScheduler } from '../../src/fair-scheduler.js'
import { allocMessage, holdMessage, releaseMessage } from '../../src/message-buffer.js'
import { turns, until } from '../support/sessions.js'

type End = {
  carrier: WebSocketCarrier
  websocket: WebSocket
  socket: Socket
  messages: Buffer[]
  closes: TunnelError[]
}

function end(websocket: WebSocket, socket: Socket): End {
  const carrier = new WebSocketCarrier(websocket, socket)
  const messages: Buffer[] = []
  const closes: TunnelError[] = []
  carrier.on('message', message => {
    if (closes.length > 0) throw new Error('a message after close')
    messages.push(message)
  })
  carrier.on('close', error => closes.push(error))
  return { carrier, websocket, socket, messages, closes }
}

async function listening(t: Test, { tls = false, options = {} } = {}) {
  const server: Server = tls ? createTlsServer(makeAuthority().issue()) : createServer()
  const websockets = new WebSocketServer({ server, ...websocketOptions, ...options })
  const sockets = new Set<Socket>()
  server.on('connection', socket => void sockets.add(socket))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    websockets.close()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  const accepted = (): Promise<End> =>
    new Promise(resolve =>
      websockets.once('connection', (websocket, request) => resolve(end(websocket, request.socket)))
    )
  return { port, accepted }
}

async function pair(
  t: Test,
  options: { tls?: boolean; options?: object } = {}
): Promise<[client: End, server: End]> {
  const { port, accepted } = await listening(t, options)
  const server = accepted()
  const websocket = new WebSocket(`${options.tls ? 'wss' : 'ws'}://127.0.0.1:${port}`, WEBSOCKET_PROTOCOL, {
    ...websocketClientOptions,
    rejectUnauthorized: false,
    ...options.options
  })
  t.teardown(() => websocket.terminate())
  const upgraded = once(websocket, 'upgrade')
  await once(websocket, 'open')
  const [response] = (await upgraded) as [{ socket: Socket }]
  return [end(websocket, response.socket), await server]
}

/** A WebSocket client of a few lines that does only what a test tells it. */
async function rawClient(t: Test): Promise<{ socket: Socket; server: End }> {
  const { port, accepted } = await listening(t)
  const server = accepted()
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  socket.on('error', () => {})
  socket.write(
    'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n'
  )
  await once(socket, 'data')
  return { socket, server: await server }
}

for (const tls of [false, true]) {
  t.test(`messages over ${tls ? 'TLS' : 'TCP'}, both ways, are counted as signs of life`, async t => {
    const [client, server] = await pair(t, { tls })
    const before = server.carrier.bytesReceived

    client.carrier.send(Buffer.from('there'))
    server.carrier.send(Buffer.from('back'))
    await until(() => client.messages.length + server.messages.length === 2)

    t.equal(server.messages[0]!.toString(), 'there')
    t.equal(client.messages[0]!.toString(), 'back')
    t.ok(server.carrier.bytesReceived - before >= 5)
  })

  t.test(
    `back-pressure over ${tls ? 'TLS' : 'TCP'}: send answers false, drain follows, nothing is lost`,
    async t => {
      const [client, server] = await pair(t, { tls })
      server.socket.pause()
      let sent = 0
      let drained = true
      client.carrier.on('drain', () => (drained = true))
      // The kernel takes a few MiB first: blocked is who stays blocked.
      while (drained) {
        drained = client.carrier.send(Buffer.alloc(100_000, ++sent % 251))
        if (!drained) await turns(50)
        if (sent > 2_000) throw new Error('never blocked')
      }
      t.ok(client.websocket.bufferedAmount < 1 << 20, `${client.websocket.bufferedAmount} bytes wait`)

      server.socket.resume()
      await until(() => drained && server.messages.length === sent)

      t.ok(server.messages.every((message, at) => message[0] === (at + 1) % 251))
    }
  )
}

t.test('every close code arrives with its detail, from either side', async t => {
  for (const [at, code] of (Object.keys(errors) as ErrorCode[]).entries()) {
    const ends = await pair(t)
    const [one, two] = at % 2 ? ends : [ends[1], ends[0]]

    one.carrier.close(code, `because ${code}`)
    one.carrier.close('INTERNAL', 'twice')
    await until(() => one.closes.length === 1 && two.closes.length === 1)

    t.match(two.closes, [{ code, detail: `because ${code}` }])
    t.match(one.closes, [{ code, detail: `because ${code}` }])
  }
})

t.test('a reason is cut to 123 bytes at a character boundary', async t => {
  for (const [said, received] of [
    ['x'.repeat(123), 'x'.repeat(123)],
    ['x'.repeat(124), 'x'.repeat(123)],
    ['ü'.repeat(62), 'ü'.repeat(61)],
    ['🦀'.repeat(31), '🦀'.repeat(30)],
    ['', undefined]
  ] as const) {
    const [client, server] = await pair(t)

    client.carrier.close('DRAINING', said)
    await until(() => server.closes.length === 1)

    t.equal(server.closes[0]!.detail, received)
  }
})

t.test('what was sent before close arrives before it', async t => {
  const [client, server] = await pair(t)

  for (let count = 0; count < 50; count++) client.carrier.send(Buffer.alloc(50_000))
  client.carrier.close('CLOSED')
  await until(() => server.closes.length === 1)

  t.equal(server.messages.length, 50)
})

t.test('send after close is ignored, also after the peer closed and after the end', async t => {
  const [client, server] = await pair(t)

  client.carrier.close('CLOSED')
  t.equal(client.carrier.send(Buffer.alloc(1 << 20)), true)
  await until(() => server.websocket.readyState !== WebSocket.OPEN)
  server.carrier.send(Buffer.alloc(10))
  await until(() => server.closes.length === 1 && client.closes.length === 1)
  t.equal(server.carrier.send(Buffer.alloc(1 << 20)), true)
  server.carrier.close('INTERNAL')

  t.equal(server.messages.length, 0)
  t.equal(client.messages.length, 0)
  t.match(server.closes, [{ code: 'CLOSED' }])
})

t.test('a text message is refused on both sides', async t => {
  const [client, server] = await pair(t)

  client.websocket.send('text')
  await until(() => client.closes.length + server.closes.length === 2)

  t.match(server.closes, [{ code: 'PROTOCOL_ERROR', detail: 'messages are binary' }])
  t.match(client.closes, [{ code: 'PROTOCOL_ERROR', detail: 'messages are binary' }])
  t.equal(server.messages.length, 0)
})

t.test('a message at the limit arrives, one byte more ends both sides as a protocol error', async t => {
  const [client, server] = await pair(t)

  client.carrier.send(Buffer.alloc(MESSAGE_LIMIT_BYTES))
  await until(() => server.messages.length === 1)
  client.carrier.send(Buffer.alloc(MESSAGE_LIMIT_BYTES + 1))
  await until(() => client.closes.length + server.closes.length === 2)

  t.equal(server.messages.length, 1)
  t.match(server.closes, [{ code: 'PROTOCOL_ERROR' }])
  t.match(client.closes, [
    { code: 'PROTOCOL_ERROR', detail: `a message has at most ${MESSAGE_LIMIT_BYTES} bytes` }
  ])
})

t.test('broken WebSocket frames are a protocol error, a broken line is not', async t => {
  const broken = await rawClient(t)
  broken.socket.write(Buffer.from([0xff, 0xff, 0xff, 0xff]))
  await until(() => broken.server.closes.length === 1)
  t.match(broken.server.closes, [{ code: 'PROTOCOL_ERROR' }])

  const cut = await rawClient(t)
  cut.socket.resetAndDestroy()
  await until(() => cut.server.closes.length === 1)
  t.match(cut.server.closes, [{ code: 'LINK_LOST' }])

  const half = await rawClient(t)
  half.socket.end(Buffer.from([0x82, 0xff, 0, 0]))
  await until(() => half.server.closes.length === 1)
  t.match(half.server.closes, [{ code: 'LINK_LOST' }])
})

t.test('RST is LINK_LOST on the side that hears it', async t => {
  const [client, server] = await pair(t)

  client.socket.resetAndDestroy()
  await until(() => server.closes.length === 1 && client.closes.length === 1)

  t.match(server.closes, [{ code: 'LINK_LOST' }])
  t.match(client.closes, [{ code: 'LINK_LOST' }])
})

t.test('a WebSocket close that is not ours is LINK_LOST with its code', async t => {
  const [client, server] = await pair(t)

  client.websocket.close(1001, 'proxy goes home')
  await until(() => server.closes.length === 1)

  t.match(server.closes, [{ code: 'LINK_LOST', detail: 'closed with WebSocket code 1001' }])
})

t.test('terminate ends at once with its own reason; the other side loses the link', async t => {
  const [client, server] = await pair(t)

  client.carrier.terminate(new TunnelError('SUPERSEDED', 'a newer one'))
  client.carrier.terminate(new TunnelError('INTERNAL'))
  t.match(client.closes, [{ code: 'SUPERSEDED', detail: 'a newer one' }], 'heard before terminate returns')
  await until(() => server.closes.length === 1 && client.socket.closed)

  t.match(server.closes, [{ code: 'LINK_LOST' }])
  t.equal(client.closes.length, 1)
})

t.test('a peer that never answers the closing handshake is destroyed in time', async t => {
  const { server } = await rawClient(t)

  server.carrier.close('DRAINING')
  await until(() => server.closes.length === 1)

  t.match(server.closes, [{ code: 'DRAINING' }])
  t.ok(server.socket.destroyed)
})

t.test('pings are answered, but one answer waits at most for a peer that does not read', async t => {
  const { socket, server } = await rawClient(t)
  const ping = (text: string): Buffer =>
    Buffer.concat([Buffer.from([0x89, 0x80 + text.length, 0, 0, 0, 0]), Buffer.from(text)])
  socket.write(ping('p'.repeat(125)))
  const [pong] = (await once(socket, 'data')) as [Buffer]
  t.same([...pong.subarray(0, 3)], [0x8a, 125, 0x70])
  socket.pause()
  const before = server.carrier.bytesReceived
  // Until the kernel takes no more, and then on and on.
  while (server.carrier.send(Buffer.alloc(100_000))) await until(() => true)
  const waiting = server.socket.writableLength

  const many = Buffer.concat(Array.from({ length: 8_000 }, () => ping('p'.repeat(125))))
  for (let count = 0; count < 20; count++) socket.write(many)
  socket.write(ping('the last'))
  await until(() => server.carrier.bytesReceived - before === 20 * many.length + 14)

  const pongBytes = server.socket.writableLength - waiting
  t.ok(pongBytes <= 2 * 127, `${pongBytes} bytes of pongs wait`)
  t.equal(server.closes.length, 0)
  const seen: Buffer[] = []
  socket.on('data', (chunk: Buffer) => seen.push(chunk))
  socket.resume()
  await until(() => seen.length > 0 && Buffer.concat(seen.slice(-2)).includes('the last'))
})

for (const tls of [false, true]) {
  t.test(`tiny messages over ${tls ? 'TLS' : 'TCP'} are heard in turns, and the end after them`, async t => {
    const [client, server] = await pair(t, { tls })
    const perTurn = new Map<number, number>()
    server.carrier.on('message', () => {
      perTurn.set(receiveScheduler.turn, (perTurn.get(receiveScheduler.turn) ?? 0) + 1)
    })
    server.socket.pause()
    const total = 20_000

    for (let count = 0; count < total; count++) client.websocket.send(Buffer.from([count % 251]))
    client.websocket.close(4_000 + errors.DRAINING.reset, 'going home')
    server.socket.resume()
    await until(() => server.closes.length === 1)

    t.equal(server.messages.length, total)
    t.ok(server.messages.every((message, at) => message.length === 1 && message[0] === at % 251))
    t.match(server.closes, [{ code: 'DRAINING', detail: 'going home' }])
    const most = Math.max(...perTurn.values())
    t.ok(most <= TURN_UNITS + 2 * SHARE_UNITS, `${most} in one turn`)
  })
}

for (const tls of [false, true]) {
  t.test(`a read of tiny messages over ${tls ? 'TLS' : 'TCP'} is parsed in slices`, async t => {
    const [client, server] = await pair(t, { tls })
    const parsed = new Map<number, number>()
    server.websocket.on('message', () => {
      const turn = receiveScheduler.enter()
      parsed.set(turn, (parsed.get(turn) ?? 0) + 1)
    })
    const total = 20_000

    for (let count = 0; count < total; count++) client.websocket.send(Buffer.from([count % 251]))
    await until(() => server.messages.length === total)

    // A message and its frame have 7 bytes: one slice for each share of a turn, and two when the socket is read.
    const slices = TURN_UNITS / SHARE_UNITS + 2
    const most = Math.max(...parsed.values())
    t.ok(most <= slices * Math.ceil(SLICE_LEAST_BYTES / 7), `${most} in one turn`)
  })
}

t.test('a connection that breaks behind tiny messages is heard of after them', async t => {
  const [client, server] = await pair(t)
  server.socket.pause()

  for (let count = 0; count < 5_000; count++) client.websocket.send(Buffer.from([count % 251]))
  await until(() => client.socket.writableLength === 0)
  server.socket.resume()
  await until(() => server.messages.length > 0)
  server.socket.destroy()
  await until(() => server.closes.length === 1)

  t.ok(server.messages.length > SHARE_UNITS, `${server.messages.length} messages`)
  t.ok(server.messages.every((message, at) => message[0] === at % 251))
  t.match(server.closes, [{ code: 'LINK_LOST' }])
})

t.test('a flood of tiny messages does not hold up another connection', async t => {
  const floods = await Promise.all(Array.from({ length: 4 }, () => pair(t)))
  const [client, server] = await pair(t)
  for (const [, far] of floods) far.socket.pause()
  const total = 4_000
  for (const [near] of floods) {
    for (let count = 0; count < total; count++) near.websocket.send(Buffer.from([1]))
  }
  await until(() => floods.every(([near]) => near.socket.writableLength === 0))
  const flooded = (): number => floods.reduce((sum, [, far]) => sum + far.messages.length, 0)
  const before: number[] = []
  server.carrier.on('message', () => before.push(flooded()))

  for (const [, far] of floods) far.socket.resume()
  client.carrier.send(Buffer.from('quiet'))
  await until(() => server.messages.length === 1 && flooded() === floods.length * total)

  const most = floods.length * 3 * SHARE_UNITS + 2 * TURN_UNITS
  t.ok(before[0]! <= most, `heard after ${before[0]!} of ${floods.length * total} messages of others`)
})

t.test('half a message is a sign of life, said before the message is heard', async t => {
  const { socket, server } = await rawClient(t)
  const received: string[] = []
  server.carrier.on('bytes', () => received.push('bytes'))
  server.carrier.on('message', () => received.push('message'))

  socket.write(Buffer.from([0x82, 0x84, 0, 0, 0, 0, 1]))
  await until(() => received.length === 1)
  socket.write(Buffer.from([2, 3, 4]))
  await until(() => received.length === 3)

  t.same(received, ['bytes', 'bytes', 'message'])
})

t.test('tiny messages that do not leave count for what they keep alive', async t => {
  const [client, server] = await pair(t)
  client.socket.pause()
  while (server.carrier.send(Buffer.alloc(100_000))) await until(() => true)
  await until(() => server.socket.writableLength > 0)
  const { length } = Array.from({ length: 2 }, () => server.carrier.send(Buffer.alloc(1)))
  t.equal(length, 2)

  client.socket.resume()
  await until(() => server.socket.writableLength === 0)
  client.socket.pause()
  let sent = 0
  // In one turn nothing leaves: the answer comes after 256 KiB of memory, not after 256 KiB of bytes.
  while (server.carrier.send(Buffer.alloc(1))) sent++

  t.ok(sent >= 256 && sent <= 1_024, `${sent} messages of one byte`)
})

t.test('a message in more than 1024 fragments, or in more than 4096 reads, ends the connection', async t => {
  const fragments = await rawClient(t)
  const fragment = (first: number): Buffer => Buffer.from([first, 0x81, 0, 0, 0, 0, 7])
  const all = (count: number): Buffer =>
    Buffer.concat([fragment(2), ...Array.from({ length: count - 2 }, () => fragment(0)), fragment(0x80)])

  fragments.socket.write(all(1_024))
  await until(() => fragments.server.messages.length === 1)
  t.equal(fragments.server.messages[0]!.length, 1_024)
  fragments.socket.write(all(1_025))
  await until(() => fragments.server.closes.length === 1)
  t.match(fragments.server.closes, [{ code: 'PROTOCOL_ERROR' }])

  const drops = await rawClient(t)
  drops.socket.setNoDelay(true)
  const header = Buffer.alloc(14)
  header.set([0x82, 0xff])
  header.writeUInt32BE(1 << 19, 6)
  drops.socket.write(header)
  for (let count = 0; count < 6_000 && drops.server.closes.length === 0; count++) {
    const before = drops.server.carrier.bytesReceived
    drops.socket.write(Buffer.from([7]))
    await until(() => drops.server.carrier.bytesReceived > before || drops.server.closes.length > 0)
  }
  await until(() => drops.server.closes.length === 1)
  t.match(drops.server.closes, [{ code: 'PROTOCOL_ERROR' }])
})

t.test('a client masks with zeros: the bytes on the line are the bytes sent', async t => {
  const [client, server] = await pair(t)
  const seen: Buffer[] = []
  server.socket.on('data', chunk => seen.push(chunk))

  client.carrier.send(Buffer.from('unmasked'))
  await until(() => server.messages.length === 1)

  t.ok(Buffer.concat(seen).includes('unmasked'))
})

t.test('messages that crossed our close are not heard', async t => {
  const [client, server] = await pair(t)

  server.carrier.send(Buffer.from('crossing'))
  client.carrier.close('CLOSED')
  await until(() => client.closes.length === 1)

  t.equal(client.messages.length, 0)
})

for (const tls of [false, true]) {
  t.test(
    `memory that a ${tls ? 'TLS' : 'TCP'} socket still reads is nobody else's, whatever a peer acknowledged`,
    async t => {
      const [client, server] = await pair(t, { tls })
      client.socket.pause()
      const mine = Array.from({ length: 200 }, () => allocMessage(60_000).fill('A'))

      for (const message of mine) {
        holdMessage(message)
        server.carrier.send(message)
        // As the replay buffer does when the peer says that it has this message.
        releaseMessage(message)
      }
      const others = Array.from({ length: 300 }, () => allocMessage(60_000).fill('B'))
      client.socket.resume()
      await until(() => client.messages.length === mine.length)

      t.ok(client.messages.every(message => !message.includes('B')))
      t.equal(others.length, 300)
    }
  )
}

t.test('memory of messages that have left is used again', async t => {
  const [client, server] = await pair(t)
  const first = allocMessage(60_000)
  const { buffer } = first

  server.carrier.send(first)
  await until(() => client.messages.length === 1 && server.socket.writableLength === 0)
  const next = Array.from({ length: 40 }, () => allocMessage(60_000))

  t.ok(next.some(message => message.buffer === buffer))
})
