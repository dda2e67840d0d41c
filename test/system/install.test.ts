/**
 * docs/install followed word for word, by hand, on a machine that has nothing but this checkout: all but the real
 * kube-apiserver, which the end-to-end test has. The test stands where kube-apiserver would.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { readGuide, strayBlocks, ways } from '../support/guide.js'
import { until } from '../support/child-process.js'
import { Sandbox, whyNoSandbox } from '../support/sandbox.js'

/** An address of the "workload cluster": on loopback, and inside what the guide's client may reach. */
const POD = '10.96.0.80'
const COMMANDS_AT_MOST = 5

t.test('every block of the installation pages belongs to a way that a test follows', async t => {
  t.same(await strayBlocks(), [], 'blocks without a way, or without a file to save')
  for (const way of ways) t.ok((await readGuide(way)).length > 0, way)
})

t.test('by hand it takes five commands at most', async t => {
  const commands = (await readGuide('by-hand')).flatMap(({ file, text }) =>
    file ? [] : text.trim().split('\n')
  )

  t.ok(commands.length <= COMMANDS_AT_MOST, commands.join('\n'))
  t.match(commands.at(-1), /^kubectl exec /)
})

t.test('by hand, word for word, up to kube-apiserver', async t => {
  const why = whyNoSandbox()
  if (why) return void t.pass('needs a sandbox', { skip: why })
  const dir = mkdtempSync(join(tmpdir(), 'tendril-install-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const sandbox = await Sandbox.create({ dir, hosts: { 'vpn.example.org': '127.0.0.1' }, network: 'own' })
  t.teardown(() => sandbox.close())
  await sandbox.run(`ip address add ${POD}/32 dev lo
    ${process.execPath} -e 'require("http").createServer((_, r) => r.end("from the pod\\n")).listen(80, "${POD}")' &`)

  for (const { file, text, page, line } of await readGuide('by-hand')) {
    t.comment(`${page}.md:${line}`)
    if (file) await sandbox.write(file, text)
    else if (!text.startsWith('kubectl')) await sandbox.run(text)
  }

  const ready = async () => (await sandbox.run('curl -s http://127.0.0.1:8095/readyz || true')) === 'ok\n'
  await until('the client is connected', ready)
  const { egressSelections } = parse(await readFile(sandbox.path('egress.yaml'), 'utf8'))
  const { url, tlsConfig } = egressSelections[0].connection.transport.tcp
  const front = `curl -sSp -x ${url} --proxy-cacert ${tlsConfig.caBundle}`
  const identity = `--proxy-cert ${tlsConfig.clientCert} --proxy-key ${tlsConfig.clientKey}`
  t.equal(await sandbox.run(`${front} ${identity} http://${POD}/`), 'from the pod\n')

  const target = `http://${POD}/ || true`
  t.notMatch(await sandbox.run(`${front} ${target}`), 'from the pod', 'nobody without a certificate')
  const untrusted = '--proxy-cert pki/client-demo.crt --proxy-key pki/client-demo.key'
  t.match(await sandbox.run(`${front} ${untrusted} ${target}`), '403', 'nor with the client’s')
  const outside = await sandbox.run(`${front} ${identity} http://192.0.2.1/ || true`)
  t.match(outside, '403', 'the client reaches what its configuration lists and nothing else')
})
