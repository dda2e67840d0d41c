import { execFile, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { type AddressInfo, connect, createServer as createTcpServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { type FrontOptions, listenFront } from '../../src/front/front.js'
import { FakeBundle, Pki, silent, tcpDial } from '../support.js'

const run = promisify(execFile)

/** With CI=true a missing tool is a failure, not a skip. */
const isMissing = spawnSync('curl', ['--version']).error !== undefined && process.env.CI !== 'true'
if (isMissing) console.error('SKIPPED: curl is not installed, so the fronts were not tried with it')
const skip = { skip: isMissing && 'curl is not installed' }

async function pod(t: Test): Promise<string> {
  const server = createServer((request, response) => response.end(`pod ${request.url ?? ''}`))
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => new Promise(resolve => server.close(resolve)))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

async function open(t: Test, options: Partial<FrontOptions>) {
  const front = await listenFront({
    name: 'test',
    listen: { host: '127.0.0.1', port: 0 },
    route: () => 'demo',
    dial: () => tcpDial,
    log: silent,
    ...options
  })
  t.teardown(() => front.close())
  return front.address as { host: string; port: number }
}

function curl(...args: string[]) {
  return run('curl', ['-sS', '-p', '--noproxy', '', '--max-time', '10', ...args])
}

/** What curl says when it does not succeed. */
async function complaint(...args: string[]): Promise<string> {
  try {
    return `success: ${(await curl(...args)).stdout}`
  } catch (error) {
    return (error as { stderr: string }).stderr
  }
}

t.test('curl -p -x goes through a TLS front with a certificate, and hears why not without', skip, async t => {
  const dir = mkdtempSync(join(tmpdir(), 'tendril-curl-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  const pki = new Pki()
  const caller = pki.leaf({ uris: ['tendril://caller/curl'] })
  writeFileSync(join(dir, 'ca.crt'), pki.ca)
  writeFileSync(join(dir, 'own.crt'), caller.cert)
  writeFileSync(join(dir, 'own.key'), caller.key)
  const { port } = await open(t, { certificates: new FakeBundle(pki.server(), pki.ca) })
  const proxy = ['-x', `https://localhost:${port}`, '--proxy-cacert', join(dir, 'ca.crt')]
  const own = ['--proxy-cert', join(dir, 'own.crt'), '--proxy-key', join(dir, 'own.key')]
  const url = await pod(t)

  const { stdout } = await curl(...proxy, ...own, `${url}/hello`)

  t.equal(stdout, 'pod /hello')
  t.match(await complaint(...proxy, `${url}/hello`), /407/)
})

t.test('curl -p -x goes through a plain front', skip, async t => {
  const { port } = await open(t, {})

  const { stdout } = await curl('-x', `http://127.0.0.1:${port}`, `${await pod(t)}/plain`)

  t.equal(stdout, 'pod /plain')
  t.match(await complaint('-x', `http://127.0.0.1:${port}`, 'http://127.0.0.1:1/'), /500/)
})

t.test(
  'curl -p -x goes through a Unix front behind a relay, for it speaks to no Unix proxy itself',
  skip,
  async t => {
    const dir = mkdtempSync(join(tmpdir(), 'tendril-curl-'))
    t.teardown(() => rmSync(dir, { recursive: true }))
    const path = join(dir, 'front.sock')
    await open(t, { listen: { path } })
    const relay = createTcpServer({ allowHalfOpen: true }, socket => {
      const front = connect({ path, allowHalfOpen: true })
      socket.pipe(front).pipe(socket)
    })
    await new Promise<void>(resolve => relay.listen(0, '127.0.0.1', resolve))
    t.teardown(() => new Promise(resolve => relay.close(resolve)))

    const { stdout } = await curl(
      '-x',
      `http://127.0.0.1:${(relay.address() as AddressInfo).port}`,
      `${await pod(t)}/unix`
    )

    t.equal(stdout, 'pod /unix')
  }
)
