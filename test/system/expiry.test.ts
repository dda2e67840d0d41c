/**
 * Certificates that come to their end under open links and tunnels: they expire, they are renewed in time, or their
 * authority is taken out of the file. What one certificate opened ends, and nothing else.
 */
import { once } from 'node:events'
import { copyFileSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import type { Duplex } from 'node:stream'
import t from 'tap'
import { createAuthority } from '@tendril/common/identity/certificate'
import { makeKeyPair } from '@tendril/common/identity/keys'
import { deploy, type Settings, type Deployment } from '../support/deployment.js'
import { until } from '../support/child-process.js'
import { echoTarget } from '../support/targets.js'
import { issue, type Material } from './issue-certificate.js'

/** Long enough to start everything on a machine that has other things to do. */
const VALID_S = 10
/** And until that is over. */
const OVER_TIMEOUT_MS = 2_000 * VALID_S
const SHORT = { validityDays: VALID_S / 86_400 }

/** As editors and Secret volumes do: a new file under the old name. */
function put(deployment: Pick<Deployment, 'pki'>, name: string, content: string): void {
  writeFileSync(deployment.pki(`${name}.new`), content, { mode: 0o600 })
  renameSync(deployment.pki(`${name}.new`), deployment.pki(name))
}

function putPair(deployment: Pick<Deployment, 'pki'>, name: string, { cert, key }: Material): void {
  // The key first: a reading in between fails, and is repeated.
  put(deployment, `${name}.key`, key)
  put(deployment, `${name}.crt`, cert)
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
  const deployment = await deploy(t, { clusters: ['ends', 'renewed', 'stays'], startClients: false })
  const target = await echoTarget(t)
  const client = (cluster: string) => issue(deployment, { ...SHORT, uris: [`tendril://client/${cluster}`] })
  for (const cluster of ['ends', 'renewed']) putPair(deployment, `client-${cluster}`, client(cluster))
  const expiry = Date.now() + VALID_S * 1_000
  const [ends, renewed, stays] = deployment.clients as [
    Deployment['clients'][0],
    Deployment['clients'][0],
    Deployment['clients'][0]
  ]
  for (const one of deployment.clients) await one.start()
  for (const one of deployment.clients) await one.ready()
  const caller = {
    ...issue(deployment, { ...SHORT, uris: ['tendril://caller/x'] }),
    ca: readFileSync(deployment.pki('ca.crt'))
  }
  const throughLink = await deployment.dial(target.addr, { cluster: 'ends' })
  const ofCaller = await deployment.dial(target.addr, { cluster: 'stays', tls: caller })
  const kept = await deployment.dial(target.addr, { cluster: 'stays' })
  const goesOn = await deployment.dial(target.addr, { cluster: 'renewed' })

  putPair(deployment, 'client-renewed', issue(deployment, { uris: ['tendril://client/renewed'] }))
  const [linkCode, callerCode] = await Promise.all([endOf(throughLink), endOf(ofCaller)])

  t.ok(Date.now() >= expiry - 1_000, 'not before')
  t.match(linkCode, /ECONNRESET/, 'half an answer never looks whole')
  t.match(callerCode, /ECONNRESET/)
  t.match(
    deployment.server.log(),
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

  putPair(deployment, 'client-ends', issue(deployment, { uris: ['tendril://client/ends'] }))
  await ends.ready()
  const again = await deployment.dial(target.addr, { cluster: 'ends' })
  t.ok(await echoes(again, 'again'))
  for (const stream of [kept, goesOn, again]) stream.destroy()
})

t.test('onExpiry: keep leaves open what is open, and lets nobody in', async t => {
  const deployment = await deploy(t, {
    startClients: false,
    seed: settings => {
      const tunnel = settings['tunnel'] as Settings
      const keep = { ...(tunnel['tls'] as Settings), onExpiry: 'keep' }
      const fronts = (settings['fronts'] as Settings[]).map(front => ({ ...front, tls: keep }))
      return { ...settings, tunnel: { ...tunnel, tls: keep }, fronts }
    }
  })
  const target = await echoTarget(t)
  putPair(deployment, 'client-demo', issue(deployment, { ...SHORT, uris: ['tendril://client/demo'] }))
  const tls = {
    ...issue(deployment, { ...SHORT, uris: ['tendril://caller/x'] }),
    ca: readFileSync(deployment.pki('ca.crt'))
  }
  const expiry = Date.now() + VALID_S * 1_000
  await deployment.clients[0]!.start()
  await deployment.clients[0]!.ready()
  const stream = await deployment.dial(target.addr, { tls })

  await until('both certificates to be over', () => Date.now() > expiry + 1_500, OVER_TIMEOUT_MS)

  t.ok(await echoes(stream, 'kept'))
  stream.destroy()
  await t.rejects(deployment.dial(target.addr, { tls }), {
    message: /407 caller not identified: .*expired on/
  })
})

t.test('an authority that is taken out of the file ends what it had let in', async t => {
  const deployment = await deploy(t, { shoot: withOwnAuthorities })
  const target = await echoTarget(t)
  const stream = await deployment.dial(target.addr)
  const ours = readFileSync(deployment.pki('ca.crt'), 'utf8')
  const other = createAuthority({ commonName: 'another', keys: makeKeyPair() })

  put(deployment, 'ca.crt', `${other}${ours}`)
  await until(
    'the server to have read both',
    () => deployment.server.log().split('certificate reloaded').length > 2
  )
  t.ok(await echoes(stream, 'accepted still'))

  put(deployment, 'ca.crt', other)
  t.match(await endOf(stream), /ECONNRESET/)
  await until('both to be ended', () => {
    const log = deployment.server.log()
    return ['client-demo', 'kube-apiserver'].every(name =>
      log.includes(`certificate of \\"${name}\\" comes from an authority that is no longer accepted`)
    )
  })
})

t.test(
  'a server whose certificate expires is left by its clients, and found again when it has another',
  async t => {
    const expiry = Date.now() + VALID_S * 1_000
    const deployment = await deploy(t, {
      seed: withShortCertificate(),
      shoot: settings => ({ ...settings, reconnect: { maxDelay: '1s' } })
    })
    const client = deployment.clients[0]!
    const target = await echoTarget(t)
    const stream = await deployment.dial(target.addr)

    await until('the client to drop it', () => client.log().includes('link down'), OVER_TIMEOUT_MS)
    t.ok(Date.now() >= expiry - 1_000, 'not before')
    t.match(
      client.log(),
      /link lost: the server's certificate of \\"somebody\\" expired on .*"msg":"link down/
    )
    await until('the next connection to be refused', () => client.log().includes('SERVER_NOT_IDENTIFIED"'))
    const sinceThen = (): string => client.log().slice(client.log().indexOf('link down'))
    t.notMatch(sinceThen(), /link resumed/)

    putPair(deployment, 'server', server(deployment, {}))
    t.ok(await echoes(stream, 'over a connection with the new certificate'))
    t.match(sinceThen(), /link resumed/)
    stream.destroy()
  }
)

t.test(
  'a client replaces connections before the certificate of the server ends, and drops what its own file no longer accepts',
  async t => {
    const expiry = Date.now() + VALID_S * 1_000
    const deployment = await deploy(t, {
      seed: withShortCertificate(),
      shoot: settings => ({ ...withOwnAuthorities(settings), reconnect: { maxDelay: '1s' } })
    })
    const client = deployment.clients[0]!
    const ours = readFileSync(deployment.pki('ca.crt'), 'utf8')
    const target = await echoTarget(t)
    const stream = await deployment.dial(target.addr)

    putPair(deployment, 'server', server(deployment, {}))
    await until('the old certificate to be over', () => Date.now() > expiry + 1_500, OVER_TIMEOUT_MS)
    t.ok(await echoes(stream, 'over a newer connection'))
    t.notMatch(client.log(), /link down|link closed/)

    put(deployment, 'ca.crt.client', createAuthority({ commonName: 'another', keys: makeKeyPair() }))
    await until('the client to drop it', () => client.log().includes('link down'))
    t.match(
      client.log(),
      /the server's certificate of \\"somebody\\" comes from an authority that is no longer accepted.*link down/
    )
    put(deployment, 'ca.crt.client', ours)
    t.ok(await echoes(stream, 'accepted again'))
    stream.destroy()
  }
)

t.test('servers replace the connections between them when their certificate is renewed', async t => {
  const deployment = await deploy(t, {
    servers: 2,
    shoot: settings => ({ ...settings, servers: (settings['servers'] as Settings[]).slice(0, 1) }),
    seed: withShortCertificate()
  })
  const expiry = Date.now() + VALID_S * 1_000
  const target = await echoTarget(t)
  await until('the servers to know each other', async () =>
    (await deployment.replicas[1]!.server.metrics()).includes('tendril_server_peers 1\n')
  )
  const stream = await deployment.dial(target.addr, { at: 1 })

  putPair(deployment, 'server', server(deployment, {}))
  await until('the old certificate to be over', () => Date.now() > expiry + 1_500, OVER_TIMEOUT_MS)

  t.ok(await echoes(stream, 'from one server to the other'))
  stream.destroy()
  for (const { server } of deployment.replicas)
    t.notMatch(server.log(), /peer lost|peer gone|certificate ended/)
})

t.test('a connection to another server ends with the certificate of that server', async t => {
  const deployment = await deploy(t, {
    servers: 2,
    startClients: false,
    seed: (settings, index) => {
      const tls = (settings['tunnel'] as { tls: Record<string, string> }).tls
      const pki = (file: string) => tls['cert']!.replace('server.crt', file)
      // What it shows as a client lives on; what it shows as a server does not, for the second one.
      if (index === 0) putPair({ pki }, 'peer', server({ pki }, {}))
      else putPair({ pki }, 'second', server({ pki }, SHORT))
      const peers = {
        ...(settings['peers'] as Settings),
        tls: { ca: pki('ca.crt'), cert: pki('peer.crt'), key: pki('peer.key') }
      }
      const shown = { ...tls, cert: pki('second.crt'), key: pki('second.key') }
      const tunnel = { ...(settings['tunnel'] as Settings), ...(index === 1 && { tls: shown }) }
      return { ...settings, tunnel, peers }
    }
  })
  const [first, second] = deployment.replicas.map(({ server }) => server)

  await until('the servers to know each other', async () =>
    (await first!.metrics()).includes('tendril_server_peers 1\n')
  )
  await until('the first to drop it', () => first!.log().includes('peer lost'), OVER_TIMEOUT_MS)
  t.match(first!.log(), /link lost: the server's certificate of \\"somebody\\" expired on .*peer lost/)
  t.notMatch(second!.log(), /peer lost/)

  putPair(deployment, 'second', server(deployment, {}))
  await until('it to be found again', () => first!.log().includes('peer connected again'), OVER_TIMEOUT_MS)
})

/** The client reads its authorities from another file than the server. */
function withOwnAuthorities(settings: Settings): Settings {
  const tls = settings['tls'] as { ca: string; cert: string; key: string }
  const ca = `${tls.ca}.client`
  copyFileSync(tls.ca, ca)
  return { ...settings, tls: { ...tls, ca } }
}

/** The server begins with a certificate that soon expires: the last words on its configuration. */
function withShortCertificate(): (settings: Settings) => Settings {
  let made = false
  return settings => {
    const pki = (file: string) =>
      (settings['tunnel'] as { tls: Record<string, string> }).tls['cert']!.replace('server.crt', file)
    if (!made) putPair({ pki }, 'server', server({ pki }, SHORT))
    made = true
    return settings
  }
}

function server(deployment: Pick<Deployment, 'pki'>, validity: object): Material {
  const hosts = ['127.0.0.1', '::1', 'localhost', 'vpn.demo.test']
  return issue(deployment, {
    ...validity,
    hosts,
    usages: ['serverAuth', 'clientAuth'],
    uris: ['tendril://server']
  })
}
