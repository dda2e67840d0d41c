/** The client's way out through a real squid, configured or found in the environment, and what it says when it may not. */
import t, { type Test } from 'tap'
import { httpGet } from '../support/apiserver.js'
import { ask } from '../support/ask.js'
import { deploy, type Program, type Settings } from '../support/deployment.js'
import { requireTool, until } from '../support/child-process.js'
import { squid, type SquidOptions } from '../support/proxies.js'
import { podTarget, sinkTarget } from '../support/targets.js'
import { digestOf, MIB, upload } from './talk.js'

const account = { user: 'tendril', password: 'p@ss:w/rd' }
/** As the environment and the file have to write it. */
const credentials = `${account.user}:${encodeURIComponent(account.password)}`

/** At SIGTERM squid thinks for two seconds, even with nothing to do. It has nothing to lose here. */
async function quickSquid(t: Test, options?: SquidOptions) {
  const proxy = await squid(t, options)
  t.teardown(() => {
    proxy.child.kill('SIGKILL')
  })
  return proxy
}

const withCredentials = (url: string, written: string) => url.replace('http://', `http://${written}@`)

/** The only client says why it has no link, in its log and to whoever asks whether it is ready. */
async function says(client: Program, why: RegExp): Promise<void> {
  await until(`the client says ${String(why)}`, () => why.test(client.log()))
  await until('its readiness says so too', async () => {
    const { status, body } = await ask(`${client.admin}/readyz`)
    return status === 503 && why.test(body)
  })
}

t.test('a pod is reached through squid, and bulk passes', async t => {
  if (!requireTool(t, 'squid')) return
  const proxy = await quickSquid(t)
  const { dial, server, clients } = await deploy(t, {
    shoot: settings => ({ ...settings, proxy: proxy.url })
  })
  const pod = await podTarget(t)
  const sink = await sinkTarget(t)

  const answer = await httpGet(await dial(pod.addr))
  const up = await dial(sink.addr)
  await upload(up, 10 * MIB)

  t.equal(answer.body.toString(), 'hello from the pod: GET /\n')
  t.strictSame(await sink.received(), digestOf(10 * MIB))
  up.destroy()
  // A tunnel is in the access log only when it has ended.
  await clients[0]!.stop()
  await server.stop()
  await until('squid has written its log', () => /TCP_TUNNEL\/200 .* CONNECT /.test(proxy.accessLog()))
})

t.test('squid asks for a password: the right one passes, and is in no log', async t => {
  if (!requireTool(t, 'squid', 'openssl')) return
  const proxy = await quickSquid(t, { auth: account })
  const { dial, clients } = await deploy(t, {
    shoot: settings => ({ ...settings, proxy: withCredentials(proxy.url, credentials) })
  })
  const pod = await podTarget(t)

  const answer = await httpGet(await dial(pod.addr))

  t.equal(answer.status, 200)
  t.notMatch(clients[0]!.log(), account.password)
  t.notMatch(clients[0]!.log(), encodeURIComponent(account.password))
})

t.test('a wrong or missing password is a 407 that says what to do', async t => {
  if (!requireTool(t, 'squid', 'openssl')) return
  const proxy = await quickSquid(t, { auth: account })
  for (const url of [proxy.url, withCredentials(proxy.url, `${account.user}:wrong`)]) {
    await t.test(url === proxy.url ? 'missing' : 'wrong', async t => {
      const { clients } = await deploy(t, {
        startClients: false,
        shoot: settings => ({ ...settings, proxy: url })
      })

      await clients[0]!.start()

      await says(
        clients[0]!,
        /proxy refused: proxy http:\/\/127\.0\.0\.1:\d+ answered 407 Proxy Authentication Required, which asks for credentials/
      )
      t.notMatch(clients[0]!.log(), 'wrong', 'the password is not repeated')
    })
  }
})

t.test('a port that squid does not allow is a 403 that names the proxy', async t => {
  if (!requireTool(t, 'squid')) return
  const proxy = await quickSquid(t, { allowedPorts: [443] })
  const { clients } = await deploy(t, {
    startClients: false,
    shoot: settings => ({ ...settings, proxy: proxy.url })
  })

  await clients[0]!.start()

  await says(clients[0]!, /proxy refused: proxy http:\/\/127\.0\.0\.1:\d+ answered 403 Forbidden/)
})

/** On Linux a connect to it reaches this machine; and it is no loopback address, which no proxy of the environment gets. */
const UNSPECIFIED = '0.0.0.0'

const goingByEnvironment = (settings: Settings): Settings => ({
  ...settings,
  proxy: 'env',
  servers: (settings['servers'] as Settings[]).map(server => ({
    ...server,
    address: (server['address'] as string).replace('127.0.0.1', UNSPECIFIED)
  }))
})

/** Sets variables for one test. The deployment runs in this process and reads them there. */
function setEnvironment(t: Test, variables: Record<string, string>): void {
  const names = ['https_proxy', 'http_proxy', 'no_proxy', 'all_proxy']
  for (const name of [...names, ...names.map(name => name.toUpperCase())]) {
    const before = process.env[name]
    Reflect.deleteProperty(process.env, name)
    t.teardown(() => {
      if (before === undefined) Reflect.deleteProperty(process.env, name)
      else process.env[name] = before
    })
  }
  Object.assign(process.env, variables)
}

t.test('HTTPS_PROXY leads through squid, password and all', async t => {
  if (!requireTool(t, 'squid', 'openssl')) return
  const proxy = await quickSquid(t, { auth: account })
  setEnvironment(t, { HTTPS_PROXY: withCredentials(proxy.url, credentials), NO_PROXY: 'other.test' })
  const { dial, server, clients } = await deploy(t, { shoot: goingByEnvironment })
  const pod = await podTarget(t)

  const answer = await httpGet(await dial(pod.addr))

  t.equal(answer.status, 200)
  // A tunnel is in the access log only when it has ended.
  await clients[0]!.stop()
  await server.stop()
  await until('squid has written its log', () => /TCP_TUNNEL\/200 .* CONNECT /.test(proxy.accessLog()))
})

t.test('NO_PROXY leads past it, by the name of the server or by its address', async t => {
  if (!requireTool(t, 'squid')) return
  const proxy = await quickSquid(t)
  for (const exempt of ['.demo.test', `10.0.0.0/8,${UNSPECIFIED}`]) {
    await t.test(exempt, async t => {
      setEnvironment(t, { HTTPS_PROXY: proxy.url, NO_PROXY: exempt })
      const { dial, server, clients } = await deploy(t, { shoot: goingByEnvironment })
      const pod = await podTarget(t)

      const answer = await httpGet(await dial(pod.addr))

      t.equal(answer.status, 200)
      await clients[0]!.stop()
      await server.stop()
      t.notMatch(proxy.accessLog(), 'CONNECT')
    })
  }
})
