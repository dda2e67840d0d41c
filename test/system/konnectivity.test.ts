/**
 * Konnectivity's own test list in http-connect form, for a whole deployment: what its users are used to, and what its
 * authors left untested. Where each line of the list is shown; what is about several servers or tokens is not here.
 *
 *   GET through CONNECT, nothing behind the header     direct-path.test.ts
 *   refused, name not found: 502 and counters          here
 *   black hole: the dial's time                        behaviours.test.ts
 *   50 cancelled dials at once, nothing left           here
 *   deadline in the middle of a slow answer            here
 *   a caller that has left before it asks              packages/common/test/mux/session.test.ts
 *   20 MiB answer, 10 x 10 MiB at once                 here
 *   100 POSTs over two clients, no cross-talk          here
 *   raw TCP echo in pieces, clean close                here
 *   second client of the same name ends                here
 *   client dies: its connections end                   here: when it is back, or when its resume window is over
 *   client and server restart                          here
 *   readiness of both sides                            here
 *   only client drains                                 here: open streams go on; a new one, which Konnectivity serves, waits
 *   ALPN of the tunnel, broken CA                      here, packages/common/test/identity/bundle.test.ts
 *   dial that cannot be sent: 503, client retired      here
 *   full channel, stalled readers, half-close, …       behaviours.test.ts
 *   one of two links ends, the other's streams live    here
 *   certificates renewed under load                    here
 *   nothing left open                                  every deployment checks
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { connect as connectTls } from 'node:tls'
import { once } from 'node:events'
import t from 'tap'
import { httpGet } from '../support/apiserver.js'
import { ask } from '../support/ask.js'
import { deploy, type Program, type Settings, type Deployment } from '../support/deployment.js'
import { until } from '../support/child-process.js'
import {
  blackHole,
  echoTarget,
  podTarget,
  pseudoRandom,
  refusedPort,
  sourceTarget
} from '../support/targets.js'
import { issue, type Material } from './issue-certificate.js'
import { digest, echo, gone, inParallel, MIB, readBytes, rounds } from './talk.js'

/** Clients of one cluster that can be told apart: by default all of a machine have its name. */
const named = (settings: Settings, _cluster: string, index: number): Settings => ({
  ...settings,
  name: `client-${index}`
})

const oneName = (settings: Settings): Settings => ({ ...settings, name: 'twin' })

const withDialTimeout =
  (dialTimeout: string) =>
  (settings: Settings): Settings => ({
    ...settings,
    fronts: (settings['fronts'] as Settings[]).map(front => ({ ...front, dialTimeout }))
  })

async function streamsAre(server: Program, count: number): Promise<void> {
  await until(`${count} streams are open`, async () =>
    (await server.metrics()).includes(`tendril_server_streams{cluster="demo"} ${count}\n`)
  )
}

async function clientsAre(server: Program, count: number): Promise<void> {
  await until(`${count} clients are connected`, async () =>
    (await server.metrics()).includes(`tendril_server_clients{cluster="demo"} ${count}\n`)
  )
}

async function readiness({ admin }: Program): Promise<number> {
  return (await ask(`${admin}/readyz`)).status
}

t.test('a refused target and an unknown name are a 502 with the cause, counted on both sides', async t => {
  const { dial, server, clients } = await deploy(t)
  // A label may have 63 characters: this name is unknown without asking anybody.
  const unknown = `${'x'.repeat(64)}.test:80`

  await t.rejects(dial(`127.0.0.1:${await refusedPort()}`), { message: /code 502: 502 connection refused: / })
  await t.rejects(dial(unknown), { message: /code 502: 502 no such host: xxx/ })

  const [atServer, atClient] = [await server.metrics(), await clients[0]!.metrics()]
  for (const code of ['TARGET_REFUSED', 'TARGET_NOT_FOUND']) {
    t.match(atServer, `tendril_server_connects_total{front="demo",cluster="demo",code="${code}"} 1\n`)
    t.match(atClient, `tendril_client_dials_total{code="${code}"} 1\n`)
  }
})

t.test('50 callers who leave at once leave nothing behind', async t => {
  const { dial, server, clients } = await deploy(t)
  const hole = await blackHole(t)
  const target = await echoTarget(t)
  const callers = Array.from({ length: 50 }, () => new AbortController())

  const dials = callers.map(({ signal }) => dial(hole.addr, { signal }))
  const outcomes = Promise.allSettled(dials)
  await streamsAre(server, 50)
  for (const caller of callers) caller.abort()

  t.ok((await outcomes).every(({ status }) => status === 'rejected'))
  await streamsAre(server, 0)
  t.match(await clients[0]!.metrics(), 'tendril_client_dials_total{code="DIAL_CANCELLED"} 50\n')
  const stream = await dial(target.addr)
  t.equal(await echo(stream, 'next'), 'next')
  stream.destroy()
})

t.test(
  'a caller whose deadline passes in the middle of an answer takes the target connection along',
  async t => {
    const { dial, server } = await deploy(t)
    const pod = await podTarget(t, (_, response) => {
      // The beginning of an answer that never ends.
      response.write('slowly')
    })

    const streams = await inParallel(10, 10, async () => {
      const stream = await dial(pod.addr)
      stream.write('GET / HTTP/1.1\r\nHost: pod\r\n\r\n')
      await readBytes(stream, 1)
      return stream
    })
    t.equal(pod.open(), 10)
    for (const stream of streams) stream.destroy()

    await until('the pod has been left', () => pod.open() === 0)
    await streamsAre(server, 0)
  }
)

t.test('an answer of 20 MiB, and ten of 10 MiB at once, are whole', async t => {
  const { dial } = await deploy(t)
  const large = await sourceTarget(t, 20 * MIB)
  const each = await sourceTarget(t, 10 * MIB)

  const alone = await dial(large.addr)
  t.strictSame(await digest(alone), { bytes: 20 * MIB, sha256: large.sha256 })
  alone.end()

  const answers = await inParallel(10, 10, async () => {
    const stream = await dial(each.addr)
    const answer = await digest(stream)
    stream.end()
    return answer
  })
  for (const answer of answers) t.strictSame(answer, { bytes: 10 * MIB, sha256: each.sha256 })
})

t.test('100 POSTs at once over two clients are answered with their own bodies', async t => {
  const { dial, server } = await deploy(t, { clients: 2, shoot: named })
  await clientsAre(server, 2)
  const pod = await podTarget(t, (request, response) => request.pipe(response))

  const answers = await inParallel(100, 100, async index => {
    const body = `number ${index} `.repeat(1 + index * 10)
    const { body: received } = await httpGet(await dial(pod.addr), { method: 'POST', body })
    return received.toString() === body
  })

  t.ok(answers.every(Boolean))
})

t.test('raw TCP: what is written in pieces is echoed in order, and closed in order', async t => {
  const { dial } = await deploy(t)
  const target = await echoTarget(t)
  const all = Buffer.concat([...pseudoRandom(100_000)])

  const stream = await dial(target.addr)
  const received: Buffer[] = []
  stream.on('data', (chunk: Buffer) => received.push(chunk))
  for (let at = 0; at < all.length; at += 977) {
    stream.write(all.subarray(at, at + 977))
    if (at % 10 === 0) await new Promise(setImmediate)
  }
  stream.end()
  await once(stream, 'end')

  t.ok(Buffer.concat(received).equals(all))
  await until('the target has closed as well', () => target.open() === 0)
})

t.test('of two clients of one name the second ends, and the streams of the first live', async t => {
  const { dial, clients, server } = await deploy(t, { clients: 2, shoot: oneName, startClients: false })
  const target = await echoTarget(t)
  const [first, second] = clients
  await first!.start()
  await first!.ready()
  const stream = await dial(target.addr)

  await second!.start()
  await second!.ready()
  await clientsAre(server, 2)
  const other = await dial(target.addr)
  t.equal(await echo(other, 'two'), 'two')
  other.destroy()
  await streamsAre(server, 1)
  await second!.stop()
  await clientsAre(server, 1)

  t.equal(await echo(stream, 'one'), 'one')
  const next = await dial(target.addr)
  t.equal(await echo(next, 'next'), 'next')
  for (const open of [stream, next]) open.destroy()
})

t.test('of two links of one client one is lost, and the streams of the other do not notice', async t => {
  const { dial, clients, server } = await deploy(t, {
    clients: 2,
    shoot: named,
    processes: true,
    seed: settings => ({ ...settings, link: { resumeWindow: '200ms' } })
  })
  await clientsAre(server, 2)
  const target = await echoTarget(t)
  // Enough of them that both clients have some.
  const streams = await inParallel(20, 5, () => dial(target.addr))
  await until('all have come', () => target.open() === 20)

  await clients[1]!.kill('SIGKILL')
  await clientsAre(server, 1)
  const received = await Promise.allSettled(streams.map(stream => rounds(stream, 1)))

  const alive = received.filter(({ status }) => status === 'fulfilled').length
  t.comment(`${alive} of 20 streams live`)
  t.ok(alive > 0, 'those of the other client live')
  await streamsAre(server, alive)
  for (const stream of streams) stream.destroy()
})

t.test(
  'a client that dies and comes back: its old connections end, and a dial has waited for it',
  async t => {
    const { dial, clients, server } = await deploy(t, { processes: true, seed: withDialTimeout('20s') })
    const target = await echoTarget(t)
    const stream = await dial(target.addr)
    t.equal(await echo(stream, 'before'), 'before')

    await clients[0]!.kill('SIGKILL')
    await until('the server has noticed', () => server.log().includes('link down, waiting'))
    const waiting = dial(target.addr)
    await clients[0]!.start()
    await gone(stream)
    const next = await waiting

    t.match(server.log(), '"code":"SUPERSEDED"', 'not when its resume window was over')
    t.notMatch(server.log(), 'RESUME_EXPIRED')
    t.equal(await echo(next, 'after'), 'after')
    next.destroy()
  }
)

t.test('client and server restart, gracefully and not, and are found again', async t => {
  const { dial, clients, server } = await deploy(t, {
    processes: true,
    shoot: settings => ({ ...settings, reconnect: { maxDelay: '200ms' } })
  })
  const target = await echoTarget(t)
  const serves = async (what: string) => {
    await until(`it serves after ${what}`, async () => {
      const stream = await dial(target.addr).catch(() => undefined)
      if (!stream) return false
      const received = await echo(stream, what)
      stream.destroy()
      return received === what
    })
  }

  for (const [who, program] of [
    ['the client', clients[0]!],
    ['the server', server]
  ] as const) {
    await program.stop()
    await program.start()
    await serves(`a stop of ${who}`)
    await program.kill('SIGKILL')
    await program.start()
    await serves(`a kill of ${who}`)
  }
  t.pass('four times')
})

t.test('each side is ready while it has the other', async t => {
  const { server, clients } = await deploy(t, { startClients: false })
  const [client] = clients

  t.equal(await readiness(server), 503)
  await client!.start()
  await client!.ready()
  await server.ready()
  await client!.stop()
  await until('the server is not ready any more', async () => (await readiness(server)) === 503)
  await client!.start()
  await server.ready()
  await server.stop()
  await until('the client is not ready any more', async () => (await readiness(client!)) === 503)
})

t.test(
  'the only client drains: what is open goes on to its end, what is new waits for another in vain',
  async t => {
    const { dial, clients } = await deploy(t, { seed: withDialTimeout('300ms') })
    const target = await echoTarget(t)
    const stream = await dial(target.addr)

    const stopping = clients[0]!.stop()

    await t.rejects(dial(target.addr), { message: /code 50[34]: / })
    t.equal(target.accepted(), 1, 'the target was not asked')
    t.equal(await echo(stream, 'not yet'), 'not yet')
    stream.end()
    stream.resume()
    await stopping
  }
)

t.test('a client that is stopped in its tracks costs a dial its time, and is then retired', async t => {
  const { dial, clients, server } = await deploy(t, {
    processes: true,
    seed: settings => ({
      ...withDialTimeout('20s')(settings),
      link: { pingInterval: '200ms', deadAfter: '1s', resumeWindow: '1s' }
    })
  })
  const target = await echoTarget(t)
  t.teardown(() => clients[0]!.kill('SIGCONT'))

  await clients[0]!.kill('SIGSTOP')

  await t.rejects(dial(target.addr), { message: /code 503: 503 / })
  await clientsAre(server, 0)
  await t.rejects(dial(target.addr), { message: /code 503: 503 no client connected for cluster demo/ })
  await clients[0]!.kill('SIGCONT')
  await clientsAre(server, 1)
  const stream = await dial(target.addr)
  t.equal(await echo(stream, 'back'), 'back')
  stream.destroy()
})

t.test('the tunnel agrees on http/1.1, on nothing when nothing is asked, and on nothing else', async t => {
  const deployment = await deploy(t)
  const agreed = (ALPNProtocols?: string[]) => protocolOf(deployment, ALPNProtocols)

  t.equal(await agreed(['http/1.1']), 'http/1.1')
  t.equal(await agreed(['h2', 'http/1.1']), 'http/1.1')
  t.equal(await agreed(), false)
  await t.rejects(agreed(['h2']))
})

async function protocolOf(
  { pki, tunnel }: Deployment,
  ALPNProtocols?: string[]
): Promise<string | false | null> {
  const socket = connectTls({
    ...tunnel,
    ca: readFileSync(pki('ca.crt')),
    ...(ALPNProtocols && { ALPNProtocols })
  })
  await once(socket, 'secureConnect')
  socket.destroy()
  return socket.alpnProtocol
}

t.test('certificates are renewed while streams are busy, which do not notice', async t => {
  const deployment = await deploy(t)
  const { dial, clients, server, pki } = deployment
  const hosts = ['127.0.0.1', 'vpn.demo.test']
  const renew = (name: string, material: Material) => {
    for (const [end, text] of [
      ['crt', material.cert],
      ['key', material.key]
    ] as const) {
      writeFileSync(pki(`${name}.${end}.new`), text, { mode: 0o600 })
      renameSync(pki(`${name}.${end}.new`), pki(`${name}.${end}`))
    }
  }
  const target = await echoTarget(t)
  const stream = await dial(target.addr)
  const state = { stopping: false }
  const talking = (async () => {
    let count = 0
    for (; !state.stopping; count += 1) await rounds(stream, 1)
    return count
  })()

  renew(
    'server',
    issue(deployment, { usages: ['serverAuth', 'clientAuth'], uris: ['tendril://server'], hosts })
  )
  renew('client-demo', issue(deployment, { uris: ['tendril://client/demo'] }))
  for (const one of [server, clients[0]!])
    await until(`${one.name} has seen it`, () => one.log().includes('certificate reloaded'))
  const fresh = await dial(target.addr)
  t.equal(await echo(fresh, 'fresh'), 'fresh')

  state.stopping = true
  t.ok((await talking) > 0)
  t.notMatch(clients[0]!.log(), 'link down')
  for (const open of [stream, fresh]) open.destroy()
})
