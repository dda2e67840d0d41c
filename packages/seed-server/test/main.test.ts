import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { writePki } from '../src/identity/authority.js'

const BIN = fileURLToPath(new URL('../../bin/seed-server.js', import.meta.url))

async function configFile(t: Test): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'main-'))
  t.teardown(() => rm(dir, { recursive: true }))
  await writePki({ dir, hosts: ['127.0.0.1'], clusters: ['demo'] })
  const tls = '{ cert: server.crt, key: server.key, clientCa: ca.crt }'
  const yaml = `tunnel: { listen: '127.0.0.1:0', tls: ${tls} }
fronts: [ { name: f, listen: '127.0.0.1:0', tls: ${tls} } ]
clusters: [ { name: demo } ]
admin: { listen: '127.0.0.1:0' }
`
  await writeFile(join(dir, 'seed.yaml'), yaml)
  return join(dir, 'seed.yaml')
}

function start(t: Test, config: string, ...flags: string[]) {
  const child = spawn(process.execPath, [BIN, 'run', '--config', config, ...flags], {
    stdio: ['ignore', 'pipe', 'pipe']
  })
  t.teardown(() => child.kill('SIGKILL'))
  const exit = once(child, 'close').then(([code]) => code as number | null)
  return { child, exit, errors: text(child.stderr) }
}

t.test('run serves until SIGTERM and then ends with 0', async t => {
  const { child, exit, errors } = start(t, await configFile(t))

  const said: string[] = []
  for await (const line of createInterface(child.stdout)) {
    const { msg, event, name, address } = JSON.parse(line)
    said.push(msg)
    if (event !== 'listening' || name !== 'admin') continue
    t.equal((await fetch(`http://${address}/livez`)).status, 200)
    t.equal((await fetch(`http://${address}/readyz`)).status, 503)
    t.match(
      await (await fetch(`http://${address}/metrics`)).text(),
      'tendril_build_info{program="seed-server"'
    )
    child.kill('SIGTERM')
  }

  t.equal(await exit, 0)
  t.equal(await errors, '')
  t.equal(said.at(-1), 'seed-server stopped')
})

t.test('every listener is announced in the log, with its name and the port that it got', async t => {
  const { child, exit } = start(t, await configFile(t))

  const addresses: [name: string, address: string][] = []
  for await (const line of createInterface(child.stdout)) {
    const { event, msg, name, address } = JSON.parse(line)
    if (event !== 'listening') continue
    t.equal(msg, 'listening for connections')
    addresses.push([name, address])
    // It accepts connections from then on.
    const socket = connect(Number(address.split(':').at(-1)), '127.0.0.1')
    await once(socket, 'connect')
    socket.destroy()
    if (name === 'front f') child.kill('SIGTERM')
  }

  t.equal(await exit, 0)
  t.same(
    addresses.map(([name]) => name),
    ['admin', 'tunnel', 'front f'],
    'probes come first, callers last'
  )
  for (const [, address] of addresses) t.match(address, /^127\.0\.0\.1:[1-9]\d+$/)
})

t.test('an address that is taken is one sentence and exit code 1', async t => {
  const taken = createServer().listen(0, '127.0.0.1')
  t.teardown(() => void taken.close())
  await once(taken, 'listening')
  const { port } = taken.address() as { port: number }

  for (const key of ['tunnel.listen', 'fronts.0.listen', 'admin.listen']) {
    const { child, exit, errors } = start(t, await configFile(t), '--set', `${key}=127.0.0.1:${port}`)
    child.stdout.resume()

    t.equal(await exit, 1, key)
    t.match(await errors, new RegExp(`^seed-server: cannot listen on 127\\.0\\.0\\.1:${port}.*in use.*\n$`))
  }
})

t.test('certificates that are not there are one sentence', async t => {
  const { child, exit, errors } = start(
    t,
    await configFile(t),
    '--set',
    'tunnel.tls.cert=/does/not/exist.crt'
  )
  child.stdout.resume()

  t.equal(await exit, 1)
  t.match(await errors, /^seed-server: [^\n]*\/does\/not\/exist\.crt[^\n]*\n$/)
})
