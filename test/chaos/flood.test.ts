/**
 * Peers that send tiny messages as fast as they can and read nothing: the process they talk to lives in 160 MB of heap,
 * holds next to nothing for them, and serves others meanwhile. Times are shown as figures; only counts and bytes decide.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { constants, setPriority } from 'node:os'
import t from 'tap'
import type { Test } from 'tap'
import { type WebSocket, WebSocketServer } from 'ws'
import {
  decodeHello,
  decodeNumber,
  encodeNumber,
  encodeRefuse,
  encodeWelcome,
  linkType
} from '@tendril/common/link/link-message'
import { websocketOptions } from '@tendril/common/transport/websocket'
import { encode } from '@tendril/common/wire/encode'
import { FRAME_LIMIT_BYTES, VERSION } from '@tendril/common/wire/frame'
import { deploy } from '../support/deployment.js'
import { startForTest, until } from '../support/child-process.js'
import { echoTarget } from '../support/targets.js'
import { type Flood, type FloodSettings, floodBytes, floods, pour } from './flood.js'
import { WHOLE, echo, figure } from './traffic.js'

const FLOOD_BYTES = 16_600_000
const HEAP_LIMIT_MB = 160
/** What a process may hold after a flood, beside what it held before: garbage that was not worth collecting included. */
const KEPT_BYTES = 64 << 20

/** The short form has one of each way to answer. */
const kinds: Flood[] = WHOLE
  ? (Object.keys(floods) as Flood[])
  : ['link PINGs', 'session PINGs', 'WebSocket pings', 'resumes of no link']
const flooder = new URL('./flood.js', import.meta.url).pathname

function flood(t: Test, settings: FloodSettings) {
  return startForTest(t, 'flood', process.execPath, [flooder, JSON.stringify(settings)])
}

/** Whatever programs this process starts until the test ends have a small heap. */
function smallHeaps(t: Test): void {
  const before = process.env['NODE_OPTIONS']
  process.env['NODE_OPTIONS'] = `--max-old-space-size=${HEAP_LIMIT_MB}`
  t.teardown(() => {
    if (before === undefined) delete process.env['NODE_OPTIONS']
    else process.env['NODE_OPTIONS'] = before
  })
}

function metricOf(metrics: string, name: string): number {
  return Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(metrics)?.[1] ?? NaN)
}

async function heldBytes(program: { metrics(): Promise<string> }): Promise<number> {
  const metrics = await program.metrics()
  return metricOf(metrics, 'nodejs_heap_size_used_bytes') + metricOf(metrics, 'nodejs_external_memory_bytes')
}

t.test(`a server with ${HEAP_LIMIT_MB} MB lives through clients that ask and do not read`, async t => {
  smallHeaps(t)
  const { dial, server, tunnel, pki } = await deploy(t, { processes: true, clusters: ['a', 'b'] })
  const target = await echoTarget(t)
  const talk = echo(await dial(target.addr, { cluster: 'b' }), 64, 50)
  const { pid } = server
  const before = await heldBytes(server)
  let most = 0

  for (const kind of kinds) {
    const { port } = tunnel
    const settings = { port, pki: pki('.'), cluster: 'a', connections: 1, kinds: [kind], bytes: FLOOD_BYTES }
    const child = flood(t, settings)
    await child.logs(/^sent$/m)
    const held = (await heldBytes(server)) - before
    most = Math.max(most, held)
    t.ok(held < KEPT_BYTES, `${kind}: ${Math.round(held / 1e6)} MB held`)
    const rounds = talk.rounds()
    await until('another cluster is served', () => talk.rounds() > rounds)
    await child.stop()
  }

  await talk.stop()
  t.equal(server.pid, pid)
  figure(t, 'most held after 16.6 MB of one kind, MB', Math.round(most / 1e6))
})

t.test(`a client with ${HEAP_LIMIT_MB} MB lives through a server that asks and does not read`, async t => {
  const state: { fake?: Awaited<ReturnType<typeof hostileServer>> } = {}
  const { clients, pki } = await deploy(t, {
    processes: true,
    startClients: false,
    before: async () => (state.fake = await hostileServer(t)).address
  })
  const fake = state.fake!
  fake.identify(readFileSync(pki('server.crt')), readFileSync(pki('server.key')))
  const client = clients[0]!
  smallHeaps(t)
  await client.start()
  let before: number | undefined

  for (const kind of kinds) {
    if (kind === 'resumes of no link') continue
    const { socket, websocket } = await fake.next()
    before ??= await heldBytes(client)
    socket.pause()
    await pour(socket, floodBytes([kind], false), FLOOD_BYTES)
    const held = (await heldBytes(client)) - before
    t.ok(held < KEPT_BYTES, `${kind}: ${Math.round(held / 1e6)} MB held`)
    websocket.terminate()
  }

  // The answer to the newest question is there once somebody reads.
  const { websocket } = await fake.next()
  const pongs: number[] = []
  websocket.on('message', data => {
    if ((data as Buffer)[0] === linkType.PONG) pongs.push(decodeNumber(data as Buffer))
  })
  for (let number = 1; number <= 1_000; number++) websocket.send(encodeNumber(linkType.PING, number))
  await until('the newest is answered', () => pongs.at(-1) === 1_000)
  figure(t, 'PONGs for 1000 PINGs', pongs.length)
})

/** Says what a server says until a link is open; what comes then is up to the test. */
async function hostileServer(t: Test) {
  const server = createServer()
  const connections: { socket: Socket; websocket: WebSocket }[] = []
  const websockets = new WebSocketServer({ server, ...websocketOptions })
  websockets.on('headers', headers => void headers.push('tendril-server: fake'))
  websockets.on('connection', (websocket, request) => {
    websocket.on('error', () => {})
    const onHello = (data: unknown): void => {
      // The client asks for a new link, over the same connection.
      if (decodeHello(data as Buffer).resume) {
        return websocket.send(encodeRefuse({ code: 'RESUME_REFUSED', text: '' }))
      }
      websocket.off('message', onHello)
      websocket.send(
        encodeWelcome({
          id: Buffer.alloc(16, connections.length + 1),
          resumed: false,
          received: 0,
          sendsFrom: 0,
          replayLimitBytes: 0,
          resumeWindowMs: 1_000,
          server: 'fake'
        })
      )
      websocket.send(
        encode.hello({ ...VERSION, features: 0, frameLimitBytes: FRAME_LIMIT_BYTES, streamLimit: 0 })
      )
      connections.push({ socket: request.socket, websocket })
    }
    websocket.on('message', onHello)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(async () => {
    for (const { websocket } of connections) websocket.terminate()
    websockets.close()
    server.closeAllConnections()
    await new Promise(resolve => server.close(resolve))
  })
  let taken = 0
  return {
    address: { host: '127.0.0.1', port: (server.address() as AddressInfo).port },
    /** The certificates are made after the listener. */
    identify(cert: Buffer, key: Buffer) {
      server.setSecureContext({ cert, key })
    },
    async next() {
      await until('the client connects', () => connections.length > taken)
      return connections[taken++]!
    }
  }
}

t.test('eight connections of tiny messages do not hold up another cluster', async t => {
  const { dial, server, tunnel, pki } = await deploy(t, { processes: true, clusters: ['a', 'b'] })
  const target = await echoTarget(t)
  const stream = await dial(target.addr, { cluster: 'b' })
  const seconds = WHOLE ? 20 : 3
  await roundTrips(stream, 200)
  const alone = await measured(stream, seconds, server.pid)

  const child = flood(t, {
    port: tunnel.port,
    pki: pki('.'),
    cluster: 'a',
    connections: 8,
    kinds: ['link PINGs', 'session PINGs', 'link ACKs', 'announcements', 'messages that draw ACKs'],
    deaf: false
  })
  // A peer is on another machine: what it burns itself must not take this one's cores from whoever is measured.
  setPriority(child.pid, constants.priority.PRIORITY_LOW)
  await child.logs(/^connected$/m)
  // The first floods find a server whose data path V8 has not compiled; an attack lasts longer than that.
  await roundTrips(stream, 200)
  const attacked = await measured(stream, seconds, server.pid)
  await child.stop()

  const loops = Array.from({ length: Math.max(1, Math.round(attacked.cores - alone.cores)) }, () =>
    spawn(process.execPath, ['-e', 'for (;;);'])
  )
  t.teardown(() => loops.forEach(loop => loop.kill('SIGKILL')))
  const beside = await measured(stream, seconds, server.pid)
  for (const loop of loops) loop.kill('SIGKILL')

  stream.end()
  t.ok(attacked.rounds > 0)
  figure(
    t,
    'echo p99 ms alone / flooded / beside a busy loop',
    [alone, attacked, beside].map(({ p99 }) => p99.toFixed(1)).join(' / ')
  )
  figure(
    t,
    'server CPU ms per round alone / flooded / beside a busy loop',
    [alone, attacked, beside].map(({ cpuMsPerRound }) => cpuMsPerRound.toFixed(2)).join(' / ')
  )
  figure(
    t,
    'cores of the server alone / flooded / beside a busy loop',
    [alone, attacked, beside].map(({ cores }) => cores.toFixed(2)).join(' / ')
  )
})

type Talk = { write(bytes: Buffer): unknown; once(event: 'data', got: () => void): unknown }

async function roundTrips(stream: Talk, count: number): Promise<number[]> {
  const times: number[] = []
  for (let round = 0; round < count; round++) {
    const began = performance.now()
    const back = new Promise<void>(resolve => stream.once('data', resolve))
    stream.write(Buffer.alloc(64, round))
    await back
    times.push(performance.now() - began)
  }
  return times
}

/** One round after the other, and what the server's CPU did meanwhile. */
async function measured(stream: Talk, seconds: number, pid: number) {
  const [began, cpu] = [performance.now(), cpuMs(pid)]
  const times: number[] = []
  while (performance.now() - began < seconds * 1_000) times.push(...(await roundTrips(stream, 20)))
  times.sort((a, b) => a - b)
  return {
    rounds: times.length,
    p99: times[Math.floor(times.length * 0.99)]!,
    // Whatever else this machine has to do: the time that a round waits for the server.
    cpuMsPerRound: (cpuMs(pid) - cpu) / times.length,
    cores: (cpuMs(pid) - cpu) / (performance.now() - began)
  }
}

/** User and system time of a process, as the kernel counts it: in ticks of 10 ms. */
function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10
}
