import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { runProgram } from '@tendril/common/command'
import { createCli } from '../src/cli.js'
import type { SeedConfig } from '../src/config.js'
import { main } from '../src/main.js'

const SEED = `tunnel:
  listen: 127.0.0.1:8443
  tls: { cert: server.crt, key: server.key, clientCa: ca.crt }
fronts:
  - name: kube-apiserver
    listen: 127.0.0.1:9443
    tls: { cert: server.crt, key: server.key, clientCa: ca.crt }
clusters: [ { name: demo } ]
`

type Said = { code: number; out: string; err: string; ran: SeedConfig[] }

async function directory(t: Test): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'cli-'))
  t.teardown(() => rm(dir, { recursive: true }))
  await writeFile(join(dir, 'seed.yaml'), SEED)
  return dir
}

async function say(argv: string[], env: NodeJS.ProcessEnv = {}): Promise<Said> {
  const said: Said = { code: -1, out: '', err: '', ran: [] }
  const io = {
    env,
    out: (text: string) => void (said.out += text),
    err: (text: string) => void (said.err += text)
  }
  const run = async (config: SeedConfig): Promise<void> => void said.ran.push(config)
  said.code = await runProgram(createCli({ version: '1.2.3', run, io }), argv, io)
  return said
}

t.test('the help names every command, and shows how to begin', async t => {
  const { code, out } = await say(['--help'])

  t.equal(code, 0)
  for (const command of ['run', 'check-config', 'egress-config', 'pki'])
    t.match(out, new RegExp(`^  ${command} `, 'm'))
  t.match(out, 'seed-server pki --dir pki --host')
  t.match(out, 'docs/configuration.md')
})

t.test('main prints the version of the package and never throws', async t => {
  let out = ''
  const io = { env: {}, out: (text: string) => void (out += text), err: () => {} }

  t.equal(await main(['--version'], io), 0)
  t.match(out, /^\d+\.\d+\.\d+\n$/)
  t.equal(await main(['run', '--config', '/does/not/exist'], io), 2)
})

t.test('run gets the configuration: file, variables, flags', async t => {
  const config = join(await directory(t), 'seed.yaml')

  const { code, ran } = await say(
    ['run', '--admin-listen', '127.0.0.1:1', '--set', 'fronts.0.listen=127.0.0.1:0'],
    {
      TENDRIL_CONFIG: config,
      TENDRIL_ADMIN_LISTEN: '127.0.0.1:2',
      TENDRIL_LOG_LEVEL: 'debug',
      TENDRIL_TUNNEL_LISTEN: '[::1]:3'
    }
  )

  t.equal(code, 0)
  t.match(ran, [
    {
      admin: { listen: { port: 1 } },
      log: { level: 'debug' },
      tunnel: { listen: { host: '::1', port: 3 } },
      fronts: [{ listen: { port: 0 } }]
    }
  ])
})

t.test('check-config prints all that is in force, and what it prints is a configuration', async t => {
  const dir = await directory(t)
  const shown = await say(['check-config', '--config', join(dir, 'seed.yaml')])

  t.equal(shown.code, 0)
  t.match(parse(shown.out), {
    tunnel: { listen: '127.0.0.1:8443', handshakeTimeout: '10s' },
    fronts: [{ dialTimeout: '4s', headerLimit: '8KiB' }]
  })
  t.match(shown.out, /^# Most memory, with every bound used up at once: \d+ MiB/m)
  await writeFile(join(dir, 'again.yaml'), shown.out)
  t.equal((await say(['check-config', '-c', join(dir, 'again.yaml')])).out, shown.out)
})

t.test('a typo is told with file, line and key, and with exit code 2', async t => {
  const dir = await directory(t)
  const file = join(dir, 'typo.yaml')
  await writeFile(file, SEED.replace('clientCa', 'clientCA').replace('clusters:', 'cluster:'))

  for (const command of ['run', 'check-config', 'egress-config']) {
    const { code, err, out, ran } = await say([command, '--config', file])
    t.equal(code, 2)
    t.equal(out, '')
    t.same(ran, [])
    t.match(err, `seed-server: ${file}:3:45: tunnel.tls.clientCA: unknown key; did you mean clientCa?\n`)
    t.match(err, `seed-server: ${file}:8:1: cluster: unknown key; did you mean clusters?\n`)
  }
  t.match(await say(['check-config', '-c', file], { TENDRIL_TUNEL_LISTEN: 'x' }), {
    code: 2,
    err: /did you mean TENDRIL_TUNNEL_LISTEN\?/
  })
})

t.test('pki makes certificates, adds clusters later, and overwrites nothing', async t => {
  const dir = join(await directory(t), 'pki')

  const made = await say([
    'pki',
    '--dir',
    dir,
    '--host',
    'vpn.demo.test',
    '127.0.0.1',
    '--host',
    '::1',
    '--cluster',
    'demo'
  ])
  t.match(made, { code: 0, err: '' })
  t.same(
    (await readdir(dir)).sort(),
    ['ca', 'client-demo', 'kube-apiserver', 'server'].flatMap(name => [`${name}.crt`, `${name}.key`])
  )
  t.same(made.out.trim().split('\n').sort(), (await readdir(dir)).map(file => join(dir, file)).sort())
  t.equal((await stat(join(dir, 'ca.key'))).mode & 0o777, 0o600)

  t.match(await say(['pki', '--dir', dir, '--cluster', 'two']), { code: 0, out: /client-two\.crt/ })
  t.match(await say(['pki', '--dir', dir, '--cluster', 'two']), { code: 2, err: /client-two/ })
  t.match(await say(['pki', '--dir', dir, '--host', 'x', '--cluster', 'demo']), { code: 2, err: /ca\.crt/ })
  t.match(await say(['pki', '--dir', dir]), { code: 2, err: /--host/ })
  t.match(await say(['pki', '--host', 'x']), { code: 2, err: /--dir/ })
})

t.test('egress-config prints what the certificate allows', async t => {
  const dir = await directory(t)
  await say(['pki', '--dir', dir, '--host', '127.0.0.1', '--cluster', 'demo'])
  const egress = ['egress-config', '--config', join(dir, 'seed.yaml')]

  const { code, out } = await say([...egress, '--front', 'kube-apiserver'])
  t.equal(code, 0)
  t.match(parse(out), { kind: 'EgressSelectorConfiguration' })
  t.match(out, 'https://127.0.0.1:9443')
  t.match(await say([...egress, '--host', 'elsewhere']), { code: 2, out: '', err: /not valid for elsewhere/ })
})
