/**
 * Real processes in an environment that would switch off what they promise: verification, versions and strength of TLS,
 * strict HTTP, and that nobody debugs them. What holds is in environment.ts and tls.ts of the package common.
 */
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { AddressInfo } from 'node:net'
import tls from 'node:tls'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { ask } from '../support/ask.js'
import { deploy, type Deployment } from '../support/deployment.js'
import { start, until, type Child } from '../support/child-process.js'
import { issue } from './issue-certificate.js'

const root = resolve(fileURLToPath(import.meta.url), '../../../..')

/** A program of the deployment as a process with variables of its own. The deployment's own one is not running then. */
async function run(
  t: Test,
  kind: 'seed-server' | 'shoot-client',
  { configFile, admin }: Deployment['server'],
  env: NodeJS.ProcessEnv
): Promise<Child> {
  const bin = join(root, 'packages', kind, 'bin', `${kind}.js`)
  const child = start(kind, process.execPath, [bin, 'run', '--config', configFile], env)
  t.teardown(() => child.stop())
  await until(`${kind} lives`, async () => (await ask(`${admin}/livez`)).status === 200, 20_000)
  return child
}

t.test(
  'NODE_TLS_REJECT_UNAUTHORIZED=0 lets no false server be dialled, and no true one be missed',
  async t => {
    const deployment = await deploy(t, { startClients: false })
    const [client] = deployment.clients as [Deployment['server']]
    const untrusted = issue(deployment, { untrusted: true, usages: ['serverAuth'], hosts: ['vpn.demo.test'] })
    let spoke = false
    const impostor = tls.createServer(untrusted, socket =>
      socket.on('error', () => {}).once('data', () => (spoke = true))
    )
    impostor.on('tlsClientError', () => {})
    impostor.listen(0, '127.0.0.1')
    await once(impostor, 'listening')
    t.teardown(() => impostor.close())
    const config = JSON.parse(readFileSync(client.configFile, 'utf8')) as { servers: { address: string }[] }
    const address = config.servers[0]!.address
    const point = (where: string): void => {
      config.servers[0]!.address = where
      writeFileSync(client.configFile, JSON.stringify(config))
    }
    const env = { NODE_TLS_REJECT_UNAUTHORIZED: '0' }

    point(`127.0.0.1:${(impostor.address() as AddressInfo).port}`)
    const deceived = await run(t, 'shoot-client', client, env)
    await deceived.logs(/SERVER_NOT_IDENTIFIED/)
    t.match(deceived.log(), /NODE_TLS_REJECT_UNAUTHORIZED has no effect here/)
    t.equal(spoke, false, 'not a byte')
    await deceived.stop()

    point(address)
    await run(t, 'shoot-client', client, env)
    await client.ready()
  }
)

t.test('neither flags nor the configuration of OpenSSL make TLS or HTTP weaker', async t => {
  const deployment = await deploy(t, { startClients: false })
  await deployment.server.stop()
  const file = join(deployment.directory, 'openssl.cnf')
  writeFileSync(
    file,
    'nodejs_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = weak\n' +
      '[weak]\nMinProtocol = TLSv1\nCipherString = ALL:@SECLEVEL=0\nOptions = UnsafeLegacyRenegotiation\n'
  )
  const child = await run(t, 'seed-server', deployment.server, {
    OPENSSL_CONF: file,
    NODE_OPTIONS: '--tls-min-v1.0 --tls-cipher-list=ALL:@SECLEVEL=0 --insecure-http-parser'
  })
  await child.logs(/"name":"tunnel"|tunnel listens/)
  const knock = async (options: tls.ConnectionOptions, request = ''): Promise<string> => {
    const socket = tls.connect({
      host: '127.0.0.1',
      port: deployment.tunnel.port,
      servername: 'localhost',
      ca: readFileSync(deployment.pki('ca.crt')),
      cert: readFileSync(deployment.pki('client-demo.crt')),
      key: readFileSync(deployment.pki('client-demo.key')),
      ciphers: 'ALL:@SECLEVEL=0',
      ...options
    })
    t.teardown(() => socket.destroy())
    let answer = ''
    socket.on('error', (error: NodeJS.ErrnoException) => (answer ||= error.code ?? 'unknown'))
    socket.on('data', (chunk: Buffer) => (answer += chunk.toString()))
    socket.write(request)
    await new Promise(resolve => socket.once('close', resolve))
    return answer
  }
  const old = { minVersion: 'TLSv1' } as const

  t.match(await knock({ ...old, maxVersion: 'TLSv1.1' }), /PROTOCOL_VERSION|WRONG_VERSION/)
  t.match(await knock({ maxVersion: 'TLSv1.2', ciphers: 'AES128-SHA:@SECLEVEL=0' }), /HANDSHAKE_FAILURE/)
  // Two lengths: only the strict parser refuses (RFC 9112 §6.3).
  const smuggled =
    'GET /tunnel HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n'
  t.match(await knock({}, smuggled), /^HTTP\/1\.1 400 /)
  for (const flag of ['--tls-min-v1.0', '--tls-cipher-list', '--insecure-http-parser'])
    t.ok(child.log().includes(`${flag} has no effect here`), flag)
})

t.test('SIGUSR1 opens no debugger: not in a server, not in its workers, not in a client', async t => {
  const deployment = await deploy(t, {
    startClients: false,
    seed: settings => ({ ...settings, workers: 2 }),
    processes: true
  })
  const client = await run(t, 'shoot-client', deployment.clients[0]!, {})
  await deployment.clients[0]!.ready()
  const workers = [...deployment.server.log().matchAll(/"pid":(\d+),"msg":"worker serves"/g)].map(([, pid]) =>
    Number(pid)
  )
  t.equal(workers.length, 2)

  for (let round = 0; round < 5; round++) {
    for (const pid of [deployment.server.pid, client.pid, ...workers]) process.kill(pid, 'SIGUSR1')
    for (const { admin } of [deployment.server, deployment.clients[0]!])
      t.equal((await ask(`${admin}/livez`)).status, 200, 'all of them go on')
  }
  for (const log of [deployment.server.log(), client.log()]) t.notMatch(log, /[Dd]ebugger|died/)
})
