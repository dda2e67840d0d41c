import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { runProgram } from '@tendril/common/command'
import { createCli } from '../src/cli.js'
import type { ShootConfig } from '../src/config.js'
import { main } from '../src/main.js'

const SHOOT = `cluster: demo
servers:
  - url: wss://vpn.demo.test:443
tls: { ca: ca.crt, cert: c.crt, key: c.key }
`

type Said = { code: number; out: string; err: string; ran: ShootConfig[]; warnings: string[] }

async function configFile(t: Test, yaml: string): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'cli-'))
  t.teardown(() => rm(dir, { recursive: true }))
  await writeFile(join(dir, 'shoot.yaml'), yaml)
  return join(dir, 'shoot.yaml')
}

async function say(argv: string[], env: NodeJS.ProcessEnv = {}): Promise<Said> {
  const said: Said = { code: -1, out: '', err: '', ran: [], warnings: [] }
  const io = {
    env,
    out: (text: string) => void (said.out += text),
    err: (text: string) => void (said.err += text)
  }
  const run = async (config: ShootConfig, warnings: readonly string[]): Promise<void> => {
    said.ran.push(config)
    said.warnings.push(...warnings)
  }
  said.code = await runProgram(createCli({ version: '1.2.3', run, io }), argv, io)
  return said
}

t.test('the help names every command, and shows how to begin', async t => {
  const { code, out } = await say(['--help'])

  t.equal(code, 0)
  for (const command of ['run', 'check-config']) t.match(out, new RegExp(`^  ${command} `, 'm'))
  t.match(out, 'shoot-client run --config shoot.yaml')
})

t.test('main prints the version of the package and never throws', async t => {
  let out = ''
  const io = { env: {}, out: (text: string) => void (out += text), err: () => {} }

  t.equal(await main(['--version'], io), 0)
  t.match(out, /^\d+\.\d+\.\d+\n$/)
  t.equal(await main(['run', '--config', '/does/not/exist'], io), 2)
})

t.test('run gets the configuration: file, variables, flags', async t => {
  const file = await configFile(t, SHOOT)

  const { code, ran } = await say(
    ['run', '-c', file, '--cluster', '7', '--proxy', 'none', '--set', 'servers.0.address=127.0.0.1:1'],
    {
      TENDRIL_CLUSTER: 'other',
      TENDRIL_TARGETS_ALLOW: '[10.0.0.0/8]',
      TENDRIL_UPSTREAM_PROXY: '{ url: "http://g:1", headers: { A: b } }'
    }
  )

  t.equal(code, 0)
  t.match(ran, [
    {
      cluster: '7',
      proxy: 'none',
      servers: [{ address: '127.0.0.1:1' }],
      targets: { allow: ['10.0.0.0/8'] },
      upstreamProxy: { url: 'http://g:1', headers: { A: 'b' } }
    }
  ])
})

t.test('a key given by its old name is a warning for run and in check-config', async t => {
  const file = await configFile(t, `${SHOOT}gateway: { url: http://192.0.2.8:1 }\n`)
  const sentence = `${file}:5:1: gateway: renamed to upstreamProxy; the old name will go`

  const run = await say(['run', '-c', file])
  t.match(run, { code: 0, ran: [{ upstreamProxy: { url: 'http://192.0.2.8:1' } }], warnings: [sentence] })

  const { code, out } = await say(['check-config', '-c', file])
  t.equal(code, 0)
  t.match(out, `# Warning: ${sentence}\n`)
  t.match(parse(out), { upstreamProxy: { url: 'http://192.0.2.8:1' } })
  t.notOk('gateway' in parse(out))
})

t.test('check-config prints all that is in force', async t => {
  const { code, out } = await say(['check-config', '-c', await configFile(t, SHOOT)])

  t.equal(code, 0)
  t.match(parse(out), { cluster: 'demo', reconnect: { maxDelay: '30s' }, session: { windowMax: '32MiB' } })
  t.match(out, /^# Most memory, with every bound used up at once: \d+ MiB/m)
})

t.test('a typo is told with file, line and key, and with exit code 2', async t => {
  const file = await configFile(t, SHOOT.replace('url', 'ulr'))

  for (const command of ['run', 'check-config']) {
    const { code, err, ran } = await say([command, '--config', file])
    t.equal(code, 2)
    t.same(ran, [])
    t.match(err, `shoot-client: ${file}:3:5: servers[0].ulr: unknown key; did you mean url?\n`)
    t.match(err, `shoot-client: ${file}:3:5: servers[0].url: is missing: expected a URL`)
  }
})

t.test(
  'check-config shows the proxy of each server as run would choose it, without its password',
  async t => {
    const file = await configFile(
      t,
      SHOOT.replace('tls:', '  - { url: wss://inside.demo.test, address: 192.0.2.7:8443 }\ntls:')
    )

    const env = {
      HTTPS_PROXY: 'http://user:s3cret@proxy.test:3128',
      ALL_PROXY: 'socks5://u:s3cret@socks.test',
      NO_PROXY: '192.0.2.0/24'
    }
    const { code, out } = await say(['check-config', '-c', file], env)
    const none = await say(['check-config', '-c', file, '--proxy', 'none'], env)
    const upstreamProxy = await say(
      ['check-config', '-c', file, '--set', 'upstreamProxy.url=http://192.0.2.8:1'],
      env
    )

    t.equal(code, 0)
    t.match(out, '#   wss://vpn.demo.test:443  through http://***@proxy.test:3128 (HTTPS_PROXY)\n')
    t.match(out, '#   wss://inside.demo.test  directly (NO_PROXY)\n')
    t.match(out, '#   ALL_PROXY is a SOCKS proxy and is ignored')
    t.notMatch(out, 's3cret')
    t.match(none.out, '#   wss://vpn.demo.test:443  directly (proxy)\n')
    t.notMatch(none.out, 'SOCKS')
    t.match(
      upstreamProxy.out,
      '#   wss://vpn.demo.test:443  directly (NO_PROXY)\n',
      'an upstream proxy is what is connected to'
    )
  }
)

t.test(
  'a proxy of the environment that cannot be used is told by its variable, with exit code 2',
  async t => {
    const file = await configFile(t, SHOOT)
    const table: [NodeJS.ProcessEnv, RegExp][] = [
      [{ HTTPS_PROXY: 'http://u:s3cret@[::1' }, /HTTPS_PROXY is not the URL of a proxy/],
      [{ https_proxy: 'socks5://u:s3cret@proxy.test' }, /https_proxy is a socks5:\/\/ proxy, only http/],
      [{ ALL_PROXY: 'http://u:s3cret%@proxy.test' }, /ALL_PROXY: a % in the user or password/]
    ]
    for (const [env, sentence] of table) {
      for (const command of ['run', 'check-config']) {
        const { code, err, ran } = await say([command, '-c', file], env)
        t.equal(code, 2)
        t.same(ran, [])
        t.match(err, sentence)
        t.notMatch(err, 's3cret')
        t.equal(
          (await say([command, '-c', file], { ...env, NO_PROXY: '*' })).code,
          0,
          'unless it is not asked'
        )
      }
    }
  }
)
