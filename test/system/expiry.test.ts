/**
 * Certificates that come to their end under open links and tunnels: they expire, they are renewed in time, or their
 * authority is taken out of the file. What one certificate opened ends, and nothing else.
 */
import { once } from 'node:events'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import type { Duplex } from 'node:stream'
import t from 'tap'
import { createAuthority } from '@tendril/common/identity/certificate'
import { makeKeyPair } from '@tendril/common/identity/keys'
import { house, type Settings, type TestHouse } from '../support/house.js'
import { until } from '../support/process.js'
import { echoTarget } from '../support/targets.js'
import { issue, type Material } from './certificates.js'

/** Long enough to start everything on a machine that has other things to do. */
const VALID_S = 10
/** And until that is over. */
const OVER_TIMEOUT_MS = 2_000 * VALID_S
const SHORT = { validityDays: VALID_S / 86_400 }

/** As editors and Secret volumes do: a new file under the old name. */
function put(home: Pick<TestHouse, 'pki'>, name: string, content: string): void {
  writeFileSync(home.pki(`${name}.new`), content, { mode: 0o600 })
  renameSync(home.pki(`${name}.new`), home.pki(name))
}

function putPair(home: Pick<TestHouse, 'pki'>, name: string, { cert, key }: Material): void {
  // The key first: a reading in between fails, and is repeated.
  put(home, `${name}.key`, key)
  put(home, `${name}.crt`, cert)
}

async function echoes(stream: Duplex, text: string): Promise<boolean> {
  stream.write(text)
  const [answer] = (await once(stream, 'data')) as [Buffer]
  return answer.toString() === text
}

/** Resolves to the error's code when the stream ends; '' when it ended cleanly. */
async function endOf(stream: Duplex): Promise<string> {
  let code = ''
  stream.on('error', (error: NodeJS.ErrnoException) => (code = error.code ?? 'unknown'))
  stream.resume()
  if (!stream.closed) await new Promise(resolve => stream.once('close', resolve))
  return code
}

t.test('links and tunnels end with their certificate; one that is renewed in time never ends', async t => {
  const home = await house(t, { clusters: ['ends', 'renewed', 'stays'], startClients: false })
  const target = await echoTarget(t)
  const client = (cluster: string) => issue(home, { ...SHORT, uris: [`tendril://client/${cluster}`] })
  for (const cluster of ['ends', 'renewed']) putPair(home, `client-${cluster}`, client(cluster))
  const expiry = Date.now() + VALID_S * 1_000
  const [ends, renewed, stays] = home.clients as [
    TestHouse['clients'][0],
    TestHouse['clients'][0],
    TestHouse['clients'][0]
  ]
  for (const one of home.clients) await one.start()
  for (const one of home.clients) await one.ready()
  const caller = {
    ...issue(home, { ...SHORT, uris: ['tendril://caller/x'] }),
    ca: readFileSync(home.pki('ca.crt'))
  }
  const throughLink = await home.dial(target.addr, { cluster: 'ends' })
  const ofCaller = await home.dial(target.addr, { cluster: 'stays', tls: caller })
  const kept = await home.dial(target.addr, { cluster: 'stays' })
  const goesOn = await home.dial(target.addr, { cluster: 'renewed' })

  putPair(home, 'client-renewed', issue(home, { uris: ['tendril://client/renewed'] }))
  const [linkCode, callerCode] = await Promise.all([endOf(throughLink), endOf(ofCaller)])

  t.ok(Date.now() >= expiry - 1_000, 'not before')
  t.match(linkCode, /ECONNRESET/, 'half an answer never looks whole')
  t.match(callerCode, /ECONNRESET/)
  t.match(
    home.server.log(),
    /certificate of \\"somebody\\" expired on .*certificate ended, and with it what it had opened/
  )
  await until('the client to say why', () => ends.log().includes('CLIENT_NOT_IDENTIFIED'))
  t.match(ends.log(), /client not identified: certificate of \\"somebody\\" expired on/)
  t.ok(await echoes(kept, 'of another caller'))

  await until(
    'the old certificate of the renewed client to be over',
    () => Date.now() > expiry + 1_500,
    OVER_TIMEOUT_MS
  )
  t.ok(await echoes(goesOn, 'over the connection made with the new one'))
  t.notMatch(renewed.log(), /link down|link closed/)
  t.notMatch(stays.log(), /link down|link closed/)

  putPair(home, 'client-ends', issue(home, { uris: ['tendril://client/ends'] }))
  await ends.ready()
  const again = await home.dial(target.addr, { cluster: 'ends' })
  t.ok(await echoes(again, 'again'))
  for (const stream of [kept, goesOn, again]) stream.destroy()
})

t.test('onExpiry: keep leaves open what is open, and lets nobody in', async t => {
  const home = await house(t, {
    startClients: false,
    seed: settings => {
      const tunnel = settings['tunnel'] as Settings
      const keep = { ...(tunnel['tls'] as Settings), onExpiry: 'keep' }
      const fronts = (settings['fronts'] as Settings[]).map(front => ({ ...front, tls: keep }))
      return { ...settings, tunnel: { ...tunnel, tls: keep }, fronts }
    }
  })
  const target = await echoTarget(t)
  putPair(home, 'client-demo', issue(home, { ...SHORT, uris: ['tendril://client/demo'] }))
  const tls = {
    ...issue(home, { ...SHORT, uris: ['tendril://caller/x'] }),
    ca: readFileSync(home.pki('ca.crt'))
  }
  const expiry = Date.now() + VALID_S * 1_000
  await home.clients[0]!.start()
  await home.clients[0]!.ready()
  const stream = await home.dial(target.addr, { tls })

  await until('both certificates to be over', () => Date.now() > expiry + 1_500, OVER_TIMEOUT_MS)

  t.ok(await echoes(stream, 'kept'))
  stream.destroy()
  await t.rejects(home.dial(target.addr, { tls }), { message: /407 caller not identified: .*expired on/ })
})

t.test('an authority that is taken out of the file ends what it had let in', async t => {
  const home = await house(t)
  const target = await echoTarget(t)
  const stream = await home.dial(target.addr)
  const ours = readFileSync(home.pki('ca.crt'), 'utf8')
  const other = createAuthority({ commonName: 'another', keys: makeKeyPair() })

  put(home, 'ca.crt', `${other}${ours}`)
  await until(
    'the server to have read both',
    () => home.server.log().split('certificate reloaded').length > 2
  )
  t.ok(await echoes(stream, 'accepted still'))

  put(home, 'ca.crt', other)
  t.match(await endOf(stream), /ECONNRESET/)
  await until('both to be ended', () => {
    const log = home.server.log()
    return ['client-demo', 'kube-apiserver'].every(name =>
      log.includes(`certificate of \\"${name}\\" comes from an authority that is no longer accepted`)
    )
  })
})

t.test('servers replace the connections between them when their certificate is renewed', async t => {
  let made = false
  const home = await house(t, {
    servers: 2,
    shoot: settings => ({ ...settings, servers: (settings['servers'] as Settings[]).slice(0, 1) }),
    seed: settings => {
      const pki = (file: string) =>
        (settings['tunnel'] as { tls: Record<string, string> }).tls['cert']!.replace('server.crt', file)
      if (!made) putPair({ pki }, 'server', server({ pki }, SHORT))
      made = true
      return settings
    }
  })
  const expiry = Date.now() + VALID_S * 1_000
  const target = await echoTarget(t)
  await until('the servers to know each other', async () =>
    (await home.replicas[1]!.server.metrics()).includes('tendril_server_peers 1\n')
  )
  const stream = await home.dial(target.addr, { at: 1 })

  putPair(home, 'server', server(home, {}))
  await until('the old certificate to be over', () => Date.now() > expiry + 1_500, OVER_TIMEOUT_MS)

  t.ok(await echoes(stream, 'from one server to the other'))
  stream.destroy()
  for (const { server } of home.replicas) t.notMatch(server.log(), /peer lost|peer gone|certificate ended/)
})

function server(home: Pick<TestHouse, 'pki'>, validity: object): Material {
  const hosts = ['127.0.0.1', '::1', 'localhost', 'vpn.demo.test']
  return issue(home, { ...validity, hosts, usages: ['serverAuth', 'clientAuth'], uris: ['tendril://server'] })
}
