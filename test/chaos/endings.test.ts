/** What cannot be resumed: the window is over, the server or the client is another process, the identity another one. */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { once } from 'node:events'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import t from 'tap'
import { type LinkHello, decodeAnswer, encodeHello, linkType } from '@tendril/common/link/link-message'
import { connectServer } from '@tendril/shoot-client/transport/client-connect'
import { type Settings, type Deployment, deploy } from '../support/deployment.js'
import { requireTool, until } from '../support/child-process.js'
import { echoTarget } from '../support/targets.js'
import { type NetworkPath, networkPath } from './network-path.js'
import { echo, figure, logged, took } from './traffic.js'

/** How a caller's stream ended: by RST or error, or in order. */
async function endOf(stream: Duplex): Promise<string> {
  if (stream.destroyed) return stream.errored?.message ?? 'closed'
  return new Promise(resolve => {
    let error = ''
    stream.once('error', reason => (error = (reason as NodeJS.ErrnoException).code ?? reason.message))
    stream.once('end', () => {
      error ||= 'end'
      stream.destroy()
    })
    stream.once('close', () => resolve(error || 'closed'))
    stream.resume()
  })
}

t.test('when the window is over callers and targets hear a reset, and new dials work', async t => {
  const state: { relay?: NetworkPath } = {}
  const short = (settings: Settings): Settings => ({
    ...settings,
    link: { resumeWindow: '1s', pingInterval: '1s', deadAfter: '3s' },
    ...('servers' in settings ? { reconnect: { maxDelay: '200ms' } } : {})
  })
  const { dial, server, clients } = await deploy(t, {
    // Node hears no difference between a TLS connection that was reset and one that ended.
    front: 'plain',
    before: async tunnel => (state.relay = await networkPath(t, tunnel)),
    seed: short,
    shoot: short
  })
  const target = await echoTarget(t)
  const stream = await dial(target.addr)

  await state.relay!.refuse()
  state.relay!.cut()
  const ended = endOf(stream)
  const endedMs = await took(ended)

  t.not(await ended, 'end', 'never an orderly end')
  figure(t, 'resumeWindow 1 s: streams reset ms after the cut', endedMs)
  t.match(logged(server.log(), 'client gone')[0], { code: 'RESUME_EXPIRED' })
  await until('the target is closed', () => target.open() === 0)
  t.match(logged(clients[0]!.log(), 'link closed')[0], { code: 'RESUME_EXPIRED' })
  await state.relay!.listen()
  await clients[0]!.ready()
  await echo(await dial(target.addr)).stop()
})

t.test('a server killed and started again: old streams end, new dials work', async t => {
  const { dial, server, clients } = await deploy(t, {
    processes: true,
    front: 'plain',
    shoot: settings => ({ ...settings, reconnect: { maxDelay: '500ms' } })
  })
  const target = await echoTarget(t)
  const stream = await dial(target.addr)
  const ended = endOf(stream)

  await server.kill('SIGKILL')
  await ended
  const restarted = performance.now()
  await server.start()
  const upMs = Math.round(performance.now() - restarted)
  await server.ready()
  const readyMs = Math.round(performance.now() - restarted)

  await until('the old connection to the target is closed', () => target.open() === 0)
  await echo(await dial(target.addr)).stop()
  t.equal(target.accepted(), 2)
  t.equal(logged(clients[0]!.log(), 'link up').length, 2)
  figure(t, 'server killed: process up / clients back, ms after the start', `${upMs} / ${readyMs}`)
})

t.test(
  'a client killed and started again: its old streams end when it is back, not when the window is over',
  async t => {
    const { dial, server, clients } = await deploy(t, { processes: true, front: 'plain' })
    const client = clients[0]!
    const target = await echoTarget(t)
    const stream = await dial(target.addr)
    const ended = endOf(stream)

    await client.kill('SIGKILL')
    const began = performance.now()
    await client.start()
    t.not(await ended, 'end')
    const endedMs = Math.round(performance.now() - began)
    await client.ready()

    await until('the server tells', () => logged(server.log(), 'client gone').length > 0)
    t.match(logged(server.log(), 'client gone')[0], { code: 'SUPERSEDED' })
    await echo(await dial(target.addr)).stop()
    figure(t, 'client killed: streams reset ms after its start', endedMs)
  }
)

/** One handshake by hand: TLS as whoever, the upgrade, then the link's first message. */
async function ask(
  { tunnel, pki }: Deployment,
  { cluster, cert, key, hello }: { cluster: string; cert: string; key: string; hello: Partial<LinkHello> }
) {
  const { websocket } = await connectServer(
    { url: `wss://vpn.demo.test:${tunnel.port}`, address: `127.0.0.1:${tunnel.port}` },
    {
      tls: { ca: readFileSync(pki('ca.crt')), cert: readFileSync(cert), key: readFileSync(key) },
      proxy: 'none',
      headers: { 'Tendril-Cluster': cluster },
      signal: new AbortController().signal
    }
  )
  const answer = once(websocket, 'message') as Promise<[Buffer]>
  const fresh = { name: 'thief', instance: Buffer.alloc(8, 9), connectionIndex: 0, replayLimitBytes: 1 << 20 }
  websocket.send(encodeHello({ ...fresh, ...hello }))
  const [first] = await answer
  return { websocket, first, answer: decodeAnswer(first) }
}

t.test('a stolen link id is worth nothing without the identity it belongs to', async t => {
  if (!requireTool(t, 'openssl')) return
  const built = await deploy(t, {
    clusters: ['demo', 'green'],
    startClients: false,
    seed: settings => ({
      ...settings,
      clusters: [
        { name: 'demo', identities: { commonNames: ['colleague'] } },
        { name: 'green', required: false }
      ] as Settings[]
    })
  })
  const { pki, directory } = built
  const own = { cluster: 'demo', cert: pki('client-demo.crt'), key: pki('client-demo.key') }
  const owner = await ask(built, { ...own, hello: { name: 'owner' } })
  t.ok('welcome' in owner.answer)
  const id = 'welcome' in owner.answer ? owner.answer.welcome.id : Buffer.alloc(16)
  const resume = { id, received: 0 }

  // Of another cluster; and of the same one, but another subject.
  const colleague = { cluster: 'demo', cert: join(directory, 'c.crt'), key: join(directory, 'c.key') }
  const made = spawnSync('sh', [
    '-ec',
    `cd '${directory}'
     openssl req -new -newkey rsa:2048 -nodes -subj /CN=colleague -keyout c.key -out c.csr 2>/dev/null
     printf 'extendedKeyUsage=clientAuth\\n' > c.ext
     openssl x509 -req -in c.csr -CA '${pki('ca.crt')}' -CAkey '${pki('ca.key')}' -set_serial 77 -days 1 -extfile c.ext -out c.crt 2>/dev/null`
  ])
  t.equal(made.status, 0, String(made.stderr))
  const others = [
    { cluster: 'green', cert: pki('client-green.crt'), key: pki('client-green.key') },
    colleague
  ]
  for (const other of others) {
    const thief = await ask(built, { ...other, hello: { resume } })
    t.match(thief.answer, { refusal: { code: 'RESUME_REFUSED' } }, other.cert)
    thief.websocket.close()
  }
  t.equal(owner.websocket.readyState, owner.websocket.OPEN, 'the owner was not disturbed')

  const again = await ask(built, { ...own, hello: { name: 'owner', resume: { id, received: 1 } } })
  t.equal(again.first[0], linkType.WELCOME, 'and may go on')
  owner.websocket.close()
  again.websocket.close()
})
