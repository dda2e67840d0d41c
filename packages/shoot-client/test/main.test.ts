import { spawn } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { createAuthority, issueLeaf } from '@tendril/common/identity/certificate'
import { encodePrivateKey, makeKeyPair } from '@tendril/common/identity/keys'

const BIN = fileURLToPath(new URL('../../bin/shoot-client.js', import.meta.url))
/** RFC 863 discard: nobody listens there, so every attempt fails at once. */
const NOBODY = 'wss://127.0.0.1:9'

async function configFile(t: Test): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'main-'))
  t.teardown(() => rm(dir, { recursive: true }))
  const [authority, leaf] = [makeKeyPair(), makeKeyPair()]
  const ca = createAuthority({ commonName: 'test', keys: authority, validityDays: 1 })
  const issuer = { certificate: new X509Certificate(ca), key: authority.privateKey }
  const uris = ['tendril://client/demo']
  const cert = issueLeaf(issuer, {
    commonName: 'c',
    publicKey: leaf.publicKey,
    usages: ['clientAuth'],
    uris,
    validityDays: 1
  })
  await writeFile(join(dir, 'ca.crt'), ca)
  await writeFile(join(dir, 'c.crt'), cert)
  await writeFile(join(dir, 'c.key'), encodePrivateKey(leaf.privateKey), { mode: 0o600 })
  const yaml = `cluster: demo
servers: [ { url: ${NOBODY} } ]
tls: { ca: ca.crt, cert: c.crt, key: c.key }
proxy: none
admin: { listen: '127.0.0.1:0' }
`
  await writeFile(join(dir, 'shoot.yaml'), yaml)
  return join(dir, 'shoot.yaml')
}

function start(t: Test, config: string, ...flags: string[]) {
  const child = spawn(process.execPath, [BIN, 'run', '--config', config, ...flags], {
    stdio: ['ignore', 'pipe', 'pipe']
  })
  t.teardown(() => child.kill('SIGKILL'))
  const exit = once(child, 'close').then(([code]) => code as number | null)
  return { child, exit, errors: text(child.stderr) }
}

t.test('run keeps trying, says so to probes, and ends with 0 at SIGTERM', async t => {
  const { child, exit, errors } = start(t, await configFile(t))

  const said: string[] = []
  for await (const line of createInterface(child.stdout)) {
    const { msg, event, name, address } = JSON.parse(line)
    said.push(msg)
    if (event !== 'listening' || name !== 'admin') continue
    t.equal((await fetch(`http://${address}/livez`)).status, 200)
    const ready = await fetch(`http://${address}/readyz`)
    t.equal(ready.status, 503)
    t.match(await ready.text(), /127\.0\.0\.1:9/)
    child.kill('SIGTERM')
  }

  t.equal(await exit, 0)
  t.equal(await errors, '')
  t.equal(said.at(-1), 'shoot-client stopped')
})

t.test('an address that is taken is one sentence and exit code 1', async t => {
  const taken = createServer().listen(0, '127.0.0.1')
  t.teardown(() => void taken.close())
  await once(taken, 'listening')
  const { port } = taken.address() as { port: number }
  const { child, exit, errors } = start(t, await configFile(t), '--set', `admin.listen=127.0.0.1:${port}`)
  child.stdout.resume()

  t.equal(await exit, 1)
  t.match(
    await errors,
    new RegExp(
      `^shoot-client: cannot listen on 127\\.0\\.0\\.1:${port} \\(admin\\): the address is in use[^\n]*\n$`
    )
  )
})

t.test('certificates that are not there are one sentence', async t => {
  const { child, exit, errors } = start(t, await configFile(t), '--set', 'tls.cert=/does/not/exist.crt')
  child.stdout.resume()

  t.equal(await exit, 1)
  t.match(await errors, /^shoot-client: [^\n]*\/does\/not\/exist\.crt[^\n]*\n$/)
})
