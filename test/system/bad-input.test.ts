/**
 * Bad input of every kind at every listener of running programs, beside a cluster that works as usual: each gets
 * a reason, and that cluster's stream never stops. What each rule is in detail is shown by the tests of the parts.
 */
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import t, { type Test } from 'tap'
import { encode } from '@tendril/common/wire/encode'
import { frameType } from '@tendril/common/wire/frame'
import { type Front } from '../support/apiserver.js'
import { ask } from '../support/ask.js'
import { deploy, type Settings, type Deployment } from '../support/deployment.js'
import { PATIENCE_MS, requireTool, start, until } from '../support/child-process.js'
import { echoTarget, type TargetServer } from '../support/targets.js'
import { issue, type Material } from './issue-certificate.js'
import { frame, hello, hostileClient } from './hostile.js'
import { echo, gone, inParallel, MIB, rounds } from './talk.js'

// The neighbour.

/** A stream of another cluster that must not notice anything: it talks until it is asked how it was. */
type Neighbour = { stop(): Promise<{ rounds: number; slowestMs: number }> }

async function neighbour(t: Test, deployment: Deployment, target: TargetServer): Promise<Neighbour> {
  const stream = await deployment.dial(target.addr, { cluster: 'quiet' })
  t.teardown(() => stream.destroy())
  const state = { stopping: false }
  const talking = (async () => {
    const tookMs: number[] = []
    while (!state.stopping) {
      tookMs.push(...(await rounds(stream, 1)))
      await new Promise(setImmediate)
    }
    return tookMs
  })()
  talking.catch(() => {})
  return {
    async stop() {
      state.stopping = true
      const tookMs = await talking
      return { rounds: tookMs.length, slowestMs: Math.max(...tookMs) }
    }
  }
}

async function undisturbed(t: Test, neighbour: Neighbour): Promise<void> {
  const { rounds, slowestMs } = await neighbour.stop()
  t.comment(`neighbour: ${rounds} rounds, the slowest took ${slowestMs.toFixed(0)} ms`)
  t.ok(rounds > 0 && slowestMs < PATIENCE_MS, 'the stream of the other cluster went on')
}

/** A cluster that is attacked and one that is not, each with its client; the programs run by themselves. */
function twoClusters(t: Test, seed?: (settings: Settings) => Settings): Promise<Deployment> {
  return deploy(t, { processes: true, clusters: ['loud', 'quiet'], ...(seed && { seed }) })
}

// Certificates.

const LONG_AGO = { now: new Date('2020-01-01T00:00:00Z'), validityDays: 1 }

/** What a TLS listener answers to `request`. */
async function answerOf(
  { pki }: Deployment,
  where: { port: number },
  material: Material | undefined,
  request: string
): Promise<string> {
  const socket = connectTls({
    host: '127.0.0.1',
    port: where.port,
    ca: readFileSync(pki('ca.crt')),
    ...material
  })
  let text = ''
  socket.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')))
  socket.on('error', () => {})
  socket.write(request)
  await gone(socket)
  return text
}

const UPGRADE =
  'GET /tunnel HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n' +
  'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: tendril.v1\r\nTendril-Cluster: loud\r\n\r\n'

t.test(
  'no, a wrong and an expired certificate are refused with the reason at the front and the tunnel',
  async t => {
    const deployment = await deploy(t, { clusters: ['loud', 'quiet'] })
    const front = portOf(deployment.fronts['loud']!)
    const connectLine = 'CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\n\r\n'
    const client = ['tendril://client/loud']
    const caller = ['tendril://caller/me']
    const expired = /certificate of "somebody" expired on 2020-01-02/
    const unknown = /is signed by an unknown authority, .*untrusted.*; expected one of: /
    const cases: [what: string, material: Material | undefined, tunnel: RegExp, front: RegExp][] = [
      [
        'none',
        undefined,
        /^HTTP\/1\.1 401 client not identified: no client certificate was presented\r\n/,
        /^HTTP\/1\.1 407 caller not identified: no client certificate was presented\r\n/
      ],
      ["an untrusted peer's client", issue(deployment, { uris: client, untrusted: true }), unknown, unknown],
      ['an expired client', issue(deployment, { uris: client, ...LONG_AGO }), expired, expired],
      ['an expired caller', issue(deployment, { uris: caller, ...LONG_AGO }), expired, expired],
      [
        "a client of the cluster, at its own cluster's front",
        issue(deployment, { uris: client }),
        /^HTTP\/1\.1 101 /,
        /^HTTP\/1\.1 403 caller not allowed: .* is the certificate of a client, not of a caller/
      ],
      [
        'a caller',
        issue(deployment, { uris: caller }),
        /^HTTP\/1\.1 403 not a client of this cluster: .* is the certificate of a caller, not of a client/,
        /^HTTP\/1\.1 502 connection refused/
      ],
      [
        'a client of the other cluster',
        issue(deployment, { uris: ['tendril://client/quiet'] }),
        /^HTTP\/1\.1 403 not a client of this cluster: the client says it serves "loud", its certificate is for "quiet"/,
        /^HTTP\/1\.1 403 /
      ]
    ]

    for (const [what, material, atTunnel, atFront] of cases) {
      t.match(
        await answerOf(deployment, { port: front }, material, connectLine),
        atFront,
        `${what}, at the front`
      )
      // Whoever is let in is left to itself: the connection is closed from here.
      if (atTunnel.source.includes('101')) continue
      t.match(
        await answerOf(deployment, deployment.tunnel, material, UPGRADE),
        atTunnel,
        `${what}, at the tunnel`
      )
    }
  }
)

t.test('the client says which certificate the server did not like', async t => {
  const deployment = await deploy(t, { startClients: false })
  const [client] = deployment.clients
  const { cert, key } = issue(deployment, { uris: ['tendril://client/demo'], ...LONG_AGO })
  writeFileSync(deployment.pki('client-demo.crt'), cert)
  writeFileSync(deployment.pki('client-demo.key'), key, { mode: 0o600 })

  // The client refuses first: it does not even try an expired certificate.
  const started = await client!.start().then(
    () => 'it starts',
    (error: unknown) => String(error)
  )

  if (started === 'it starts') await until('it says so', () => /expired on 2020-01-02/.test(client!.log()))
  else t.match(started, /expired on 2020-01-02/)
})

function portOf(front: Front): number {
  return 'port' in front ? front.port : 0
}

// Strangers.

/** The beginning of a ClientHello, and then nothing. */
const HALF_A_HANDSHAKE = Buffer.from('160301020001000', 'hex')

t.test('random bytes, half handshakes and slow drips at every listener do not disturb others', async t => {
  const deployment = await twoClusters(t)
  const target = await echoTarget(t)
  const quiet = await neighbour(t, deployment, target)
  const listeners = [
    deployment.tunnel.port,
    portOf(deployment.fronts['loud']!),
    portOf(deployment.fronts['quiet']!),
    ...[deployment.server, ...deployment.clients].map(({ admin }) => Number(new URL(admin).port))
  ]
  const sockets: Socket[] = []
  const open = async (port: number) => {
    const socket = connect(port, '127.0.0.1')
    socket.on('error', () => {})
    socket.resume()
    sockets.push(socket)
    await Promise.race([once(socket, 'connect'), once(socket, 'close')])
    return socket
  }
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
  })

  const noisy: Socket[] = []
  for (const port of listeners) {
    for (let count = 0; count < 20; count += 1) {
      const socket = await open(port)
      socket.write(randomBytes(1 + count * 97))
      noisy.push(socket)
      const half = await open(port)
      half.write(HALF_A_HANDSHAKE)
      half.end()
      noisy.push(half)
      // One byte now and then, and never the end of it.
      const slow = await open(port)
      slow.write('G')
    }
  }
  for (const drip of 'ET /readyz HTTP/1.1') {
    for (const socket of sockets) if (!noisy.includes(socket) && socket.writable) socket.write(drip)
    await new Promise(setImmediate)
  }

  // Half a handshake that was ended is over; the slow ones have the time that they are given.
  await until(
    'those who ended are gone',
    () => noisy.filter(({ closed }) => !closed).length <= listeners.length * 20
  )
  t.equal((await ask(`${deployment.server.admin}/readyz`)).status, 200)
  const stream = await deployment.dial(target.addr, { cluster: 'loud' })
  t.equal(await echo(stream, 'and new ones come in'), 'and new ones come in')
  stream.destroy()
  await undisturbed(t, quiet)
})

t.test('a handshake and a header that never end are cut off in time', async t => {
  const deployment = await deploy(t, {
    processes: true,
    clusters: ['loud', 'quiet'],
    seed: settings => ({
      ...settings,
      tunnel: { ...(settings['tunnel'] as Settings), handshakeTimeout: '3s' },
      fronts: (settings['fronts'] as Settings[]).map(front => ({ ...front, headerTimeout: '3s' }))
    })
  })
  const quiet = await neighbour(t, deployment, await echoTarget(t))
  const front = portOf(deployment.fronts['loud']!)
  const caller = {
    cert: readFileSync(deployment.pki('kube-apiserver.crt'), 'utf8'),
    key: readFileSync(deployment.pki('kube-apiserver.key'), 'utf8')
  }

  for (const port of [deployment.tunnel.port, front]) {
    const socket = connect(port, '127.0.0.1')
    socket.write(HALF_A_HANDSHAKE)
    await gone(socket)
  }
  const answer = await answerOf(deployment, { port: front }, caller, 'CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost:')

  t.match(answer, /^HTTP\/1\.1 408 request header took too long/)
  await undisturbed(t, quiet)
})

t.test('10 MB of header are refused at every listener, and not read for long', async t => {
  const deployment = await twoClusters(t)
  const quiet = await neighbour(t, deployment, await echoTarget(t))
  const material = (name: string) => ({
    ca: readFileSync(deployment.pki('ca.crt')),
    cert: readFileSync(deployment.pki(`${name}.crt`)),
    key: readFileSync(deployment.pki(`${name}.key`))
  })
  const listeners: [what: string, head: string, open: () => Socket | TLSSocket][] = [
    [
      'tunnel',
      UPGRADE.slice(0, -2),
      () => connectTls({ host: '127.0.0.1', port: deployment.tunnel.port, ...material('client-loud') })
    ],
    [
      'front',
      'CONNECT 127.0.0.1:1 HTTP/1.1\r\n',
      () =>
        connectTls({
          host: '127.0.0.1',
          port: portOf(deployment.fronts['loud']!),
          ...material('kube-apiserver')
        })
    ],
    [
      'admin',
      'GET /livez HTTP/1.1\r\n',
      () => connect(Number(new URL(deployment.server.admin).port), '127.0.0.1')
    ]
  ]

  for (const [what, head, open] of listeners) {
    const socket = open()
    let answer = ''
    socket.on('data', (chunk: Buffer) => (answer += chunk.toString('latin1')))
    socket.on('error', () => {})
    socket.write(head)
    socket.write('X: '.padEnd(10 * MIB, 'x'))
    await gone(socket)

    // The admin listener hangs up with bytes unread, and the reset behind its answer may overtake it.
    t.match(answer, what === 'admin' ? /^(HTTP\/1\.1 431 |$)/ : /^HTTP\/1\.1 431 /, what)
  }
  t.equal((await ask(`${deployment.server.admin}/livez`)).status, 200)
  await undisturbed(t, quiet)
})

// File descriptors.

t.test('programs without a file descriptor left serve what is open, and recover', async t => {
  if (!requireTool(t, 'prlimit')) return
  const deployment = await twoClusters(t)
  const target = await echoTarget(t)
  const quiet = await neighbour(t, deployment, target)
  for (const { name, pid } of [deployment.server, deployment.clients[0]!]) {
    await t.test(name, async t => {
      const open = readdirSync(`/proc/${pid}/fd`).length
      const limit = (count: number) => spawnSync('prlimit', [`--pid=${pid}`, `--nofile=${count}:`])
      const normal = /NOFILE\s+\S.*?(\d+)\s+(\d+)\s+files/.exec(
        spawnSync('prlimit', [`--pid=${pid}`, '--nofile'], { encoding: 'utf8' }).stdout
      )!
      limit(open + 10)

      const crowd = await inParallel(60, 60, () =>
        deployment.dial(target.addr, { cluster: 'loud' }).catch((error: unknown) => String(error))
      )

      const inside = crowd.filter((one): one is Duplex => typeof one !== 'string')
      const refusal = crowd.find(one => typeof one === 'string') ?? 'nothing'
      t.comment(`${inside.length} of ${crowd.length} came in, then: ${refusal}`)
      t.ok(inside.length < crowd.length, 'the table was full')
      for (const stream of inside) t.equal(await echo(stream, 'inside'), 'inside')
      for (const stream of inside) stream.destroy()
      limit(Number(normal[1]))
      await until('it serves again', async () => {
        const next = await deployment.dial(target.addr, { cluster: 'loud' }).catch(() => undefined)
        next?.destroy()
        return next !== undefined
      })
    })
  }
  await undisturbed(t, quiet)
})

// Clients that know the wire.

const OPENED = (stream: number) => encode.opened(stream, 1 << 20)

t.test('whoever breaks a rule of the protocol is shown out with the rule', async t => {
  const deployment = await twoClusters(t)
  const quiet = await neighbour(t, deployment, await echoTarget(t))
  const PROTOCOL_ERROR = 4048
  const rules: [what: string, said: (Buffer | string)[], code: number, reason: RegExp][] = [
    ['text', ['hello'], PROTOCOL_ERROR, /messages are binary/],
    ['a message beyond 1 MiB', [Buffer.alloc(MIB + 1)], 1009, /^/],
    ['an empty message', [Buffer.alloc(0)], PROTOCOL_ERROR, /./],
    ['garbage', [Buffer.from('7f7f7f7f7f', 'hex')], PROTOCOL_ERROR, /a frame header has 8 bytes/],
    ['half a frame', [hello().subarray(0, 12)], PROTOCOL_ERROR, /ends inside its message/],
    [
      'an oversized frame',
      [frame(frameType.DATA, 1, Buffer.alloc(65_537))],
      PROTOCOL_ERROR,
      /at most 65536 bytes, not 65537/
    ],
    ['an unknown frame', [frame(0x0c, 0)], PROTOCOL_ERROR, /frame type 12 is not known/],
    ['a second HELLO', [hello()], PROTOCOL_ERROR, /HELLO comes once/],
    [
      'OPEN towards the server',
      [encode.open(1, { proto: 'tcp', host: '127.0.0.1', port: 22 }, 1 << 20, 1000)],
      PROTOCOL_ERROR,
      /OPEN from the side that opens nothing/
    ],
    [
      'an answer nobody asked for',
      [OPENED(7)],
      PROTOCOL_ERROR,
      /OPENED for stream 7, which was not asked for/
    ],
    [
      'DATA for a stream never opened',
      [frame(frameType.DATA, 9, 'x')],
      PROTOCOL_ERROR,
      /DATA for stream 9, never opened/
    ],
    [
      'PING on a stream',
      [frame(frameType.PING, 3, '12345678')],
      PROTOCOL_ERROR,
      /PING belongs to stream 0, not 3/
    ],
    ['a second link HELLO', [Buffer.concat([Buffer.from([0x80, 1]), Buffer.alloc(41)])], PROTOCOL_ERROR, /./],
    ['an ACK of what was never sent', [Buffer.from('830000000000ffffff', 'hex')], PROTOCOL_ERROR, /./],
    ['half an ACK', [Buffer.from('8300', 'hex')], PROTOCOL_ERROR, /./]
  ]

  for (const [what, said, code, reason] of rules) {
    const hostile = await hostileClient(t, deployment, { cluster: 'loud' })
    hostile.say(...said)
    const got = await hostile.closed
    t.equal(got.code, code, `${what}: ${got.reason}`)
    t.match(got.reason, reason, what)
  }

  await until('only the real client is left', async () =>
    (await deployment.server.metrics()).includes('tendril_server_clients{cluster="loud"} 1\n')
  )
  await undisturbed(t, quiet)
})

t.test('before the greetings are over nothing else is listened to', async t => {
  const deployment = await twoClusters(t)
  const quiet = await neighbour(t, deployment, await echoTarget(t))
  const early: [what: string, upTo: 'websocket' | 'link', said: Buffer, reason: RegExp][] = [
    [
      'a frame instead of a link HELLO',
      'websocket',
      hello(),
      /the first message of a client is a link HELLO/
    ],
    ['a link HELLO cut short', 'websocket', Buffer.from([0x80, 1, 0]), /link HELLO/],
    ['a frame instead of HELLO', 'link', frame(frameType.PING, 0, '12345678'), /the first frame is HELLO/],
    ['a HELLO of nobody', 'link', frame(frameType.HELLO, 0, Buffer.alloc(20)), /./]
  ]

  for (const [what, upTo, said, reason] of early) {
    const hostile = await hostileClient(t, deployment, { cluster: 'loud', upTo })
    hostile.say(said)
    t.match((await hostile.closed).reason, reason, what)
  }
  await undisturbed(t, quiet)
})

t.test('what a client does to its own streams ends those, and no other', async t => {
  const deployment = await deploy(t, { processes: true, clusters: ['loud', 'quiet'], startClients: false })
  await deployment.clients[1]!.start()
  await deployment.clients[1]!.ready()
  const quiet = await neighbour(t, deployment, await echoTarget(t))
  const hostile = await hostileClient(t, deployment, { cluster: 'loud' })
  const opened = async () => {
    const dialling = deployment.dial('10.0.0.1:80', { cluster: 'loud' })
    dialling.catch(() => {})
    const { stream } = await hostile.opened()
    return { stream, dialling }
  }
  const kept = await opened()
  hostile.say(OPENED(kept.stream))
  const keptStream = await kept.dialling
  const deeds: [what: string, said: (stream: number) => Buffer[]][] = [
    ['OPENED twice', stream => [OPENED(stream)]],
    [
      'DATA beyond credit',
      stream => Array.from({ length: 40 }, () => frame(frameType.DATA, stream, Buffer.alloc(65_536)))
    ],
    ['DATA without bytes', stream => [frame(frameType.DATA, stream)]],
    ['DATA after END', stream => [frame(frameType.END, stream), frame(frameType.DATA, stream, 'x')]],
    ['END twice', stream => [frame(frameType.END, stream), frame(frameType.END, stream)]],
    ['CREDIT of nothing', stream => [encode.credit(stream, 0)]],
    ['CREDIT without bound', stream => [encode.credit(stream, 0xffff_ffff)]]
  ]

  for (const [what, said] of deeds) {
    const { stream, dialling } = await opened()
    hostile.say(OPENED(stream))
    const connection = await dialling
    hostile.say(...said(stream))
    // Nobody reads here, as beyond credit it has to be: the reset itself is what is waited for.
    await until(`${what} resets its stream`, () =>
      hostile.frames.some(got => got.type === frameType.RESET && got.stream === stream)
    )
    connection.destroy()
  }
  const { stream, dialling } = await opened()
  hostile.say(frame(frameType.DATA, stream, 'too early'))
  await t.rejects(dialling, { message: /code 502: 502 protocol error: DATA before OPENED/ })
  const late = await opened()
  hostile.say(encode.refused(late.stream, 'TARGET_REFUSED', 'x\r\nInjected: yes'))
  await t.rejects(late.dialling, { message: /code 502: 502 connection refused: x Injected: yes$/ })

  keptStream.write('still here')
  await until('the first stream lives', () =>
    hostile.frames.some(
      ({ type, stream, payload }) =>
        type === frameType.DATA && stream === kept.stream && payload.equals(Buffer.from('still here'))
    )
  )
  keptStream.destroy()
  // Its FIN is a half-close: the other half is the client's to end.
  hostile.say(encode.reset(kept.stream, 'CLOSED'))
  await undisturbed(t, quiet)
})

t.test('a link is resumed by nobody but its owner', async t => {
  const deployment = await twoClusters(t)
  const owner = await hostileClient(t, deployment, { cluster: 'loud', upTo: 'session' })
  const { id } = owner.welcome!

  for (const [cluster, what] of [
    ['loud', { id: randomBytes(16), received: 0 }],
    ['quiet', { id, received: 0 }]
  ] as const) {
    await t.rejects(hostileClient(t, deployment, { cluster, resume: what }), {
      message: /^RESUME_REFUSED: this server holds no such link/
    })
  }

  await t.rejects(hostileClient(t, deployment, { cluster: 'loud', resume: { id, received: 1e9 } }), {
    message: /^RESUME_REFUSED: the message counts of the two sides do not fit/
  })
  t.match(await owner.closed, { code: 4037 }, 'what cannot be counted ends the link on both sides')
})

// Configuration.

t.test('a typo in a configuration is told with file, line and key, and exit code 2', async t => {
  const deployment = await deploy(t, { startClients: false })
  for (const { configFile, name } of [deployment.server, deployment.clients[0]!]) {
    const kind = name.startsWith('seed') ? 'seed-server' : 'shoot-client'
    const bin = new URL(`../../../packages/${kind}/bin/${kind}.js`, import.meta.url).pathname
    const text = readFileSync(configFile, 'utf8')
    const [before, after] = kind === 'seed-server' ? ['"listen"', '"lisen"'] : ['"servers"', '"severs"']
    const line = text.slice(0, text.indexOf(before)).split('\n').length
    writeFileSync(configFile, text.replace(before, after))

    for (const command of ['run', 'check-config']) {
      const child = start(name, process.execPath, [bin, command, '--config', configFile])
      const { code } = await child.exited

      t.equal(code, 2, `${kind} ${command}`)
      t.match(child.log(), `${configFile}:${line}:`)
      t.match(child.log(), after.slice(1, -1))
      t.match(child.log(), before.slice(1, -1), 'what was meant is said')
    }
  }
})
