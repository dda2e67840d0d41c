import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import * as z from 'zod'
import { ConfigError, type LoadOptions, loadConfig, parseSet, showConfig } from '../src/config.js'
import { CONFIG_LIMIT_BYTES } from '../src/config/document.js'
import * as fields from '../src/config/fields.js'

const schema = fields.section('', {
  name: fields.text(),
  listen: fields.listen().optional(),
  login: fields
    .section('', { key: fields.filePath(), wait: fields.duration({ min: '10ms', max: '1h' }).prefault('4s') })
    .optional(),
  rooms: fields
    .list(
      '',
      fields.section('', {
        size: fields.size({ min: '1KiB', max: '1MiB' }),
        open: fields.yesNo().default(false)
      })
    )
    .default([]),
  count: fields.count({ min: 1, max: 9 }).default(3),
  colour: fields.choice({ values: ['red', 'blue'] }).default('red'),
  proxy: fields.url({ schemes: ['http'], words: ['none'], credentials: true }).default('none'),
  headers: fields.headers().prefault({})
})

/** Short, because the path of a Unix socket must be. */
async function directory(t: Test): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'config-'))
  t.teardown(() => rm(dir, { recursive: true }))
  return dir
}

async function load(
  t: Test,
  yaml: string,
  options: Partial<LoadOptions> = {}
): Promise<z.output<typeof schema>> {
  const file = join(await directory(t), 'service.yaml')
  await writeFile(file, yaml)
  return loadConfig(schema, { file, ...options })
}

/** The lines of the error, without the directory of the file. */
async function complaints(t: Test, yaml: string, options: Partial<LoadOptions> = {}): Promise<string[]> {
  const error: unknown = await load(t, yaml, options).catch((error: unknown) => error)
  if (!(error instanceof ConfigError)) throw new Error('expected a ConfigError', { cause: error })
  t.equal(error.code, 'BAD_CONFIG')
  return error.lines.map(line => line.replace(/^\/.*\/service/, 'service'))
}

t.test('a file gives values, the schema gives the rest, and nobody may change them', async t => {
  const config = await load(
    t,
    'name: a\nlogin: { key: k.pem, wait: 1.5s }\nrooms: [{ size: 2KiB }]\nlisten: unix:s.sock\n'
  )

  t.same(config, {
    name: 'a',
    listen: { path: join(dirname(config.login?.key ?? ''), 's.sock') },
    login: { key: config.login?.key, wait: 1_500 },
    rooms: [{ size: 2_048, open: false }],
    count: 3,
    colour: 'red',
    proxy: 'none',
    headers: {}
  })
  t.match(config.login?.key, /^\/.*\/config-\w+\/k\.pem$/)
  t.throws(() => Object.assign(config.login ?? {}, { wait: 1 }), TypeError)
  t.throws(() => config.rooms.push({ size: 1, open: true }), TypeError)
})

t.test('everything wrong is listed at once, with line, key, what was expected and what is there', async t => {
  const lines = await complaints(
    t,
    `nmae: a
listen: 9443
login:
  wait: 4
rooms:
  - size: 1MiB
    opn: true
  - size: 2MiB
count: 10
colour: rot
proxy: ftp://u:geheim@h
headers: { X-A: 1 }
`
  )

  t.strictSame(lines, [
    'service.yaml:1:1: name: is missing: expected text',
    'service.yaml:1:1: nmae: unknown key; did you mean name?',
    'service.yaml:2:1: listen: expected an address such as 127.0.0.1:9443, [::1]:9443, :9443 or unix:/path, got the number 9443',
    'service.yaml:3:1: login.key: is missing: expected the name of a file',
    'service.yaml:4:3: login.wait: expected a duration with its unit such as 500ms, 4s, 10m or 1h, from 10ms to 1h, got the number 4',
    'service.yaml:7:5: rooms[0].opn: unknown key; did you mean open?',
    'service.yaml:8:5: rooms[1].size: expected a size with its unit such as 512B, 64KiB or 32MiB, from 1KiB to 1MiB, got "2MiB"',
    'service.yaml:9:1: count: expected a whole number from 1 to 9, got the number 10',
    'service.yaml:10:1: colour: expected one of red, blue, got "rot"',
    'service.yaml:11:1: proxy: expected none, a URL that begins with http:// and names a host',
    'service.yaml:12:12: headers.X-A: expected text, got a number (put text in quotes)'
  ])
})

t.test('every kind of key says what it wants when it gets something of another kind', async t => {
  const wrong = ['7', 'true', '[]', '{}', '', '"\\0"']
  const kinds: [string, string][] = [
    ['name', 'text'],
    ['listen', 'an address'],
    ['login', 'a mapping'],
    ['rooms', 'a list'],
    ['count', 'a whole number'],
    ['colour', 'one of'],
    ['proxy', 'none, a URL'],
    ['headers', 'header names']
  ]
  const fits = ['name "\\0"', 'rooms []', 'count 7', 'headers {}', 'login {}', 'listen "\\0"']
  for (const [key, expected] of kinds) {
    for (const value of wrong.filter(value => !fits.includes(`${key} ${value}`))) {
      const lines = await complaints(
        t,
        `name: a\n${key === 'name' ? '' : `${key}: ${value}\n`}`.replace(
          'name: a',
          key === 'name' ? `name: ${value}` : 'name: a'
        )
      )
      t.match(
        lines[0],
        new RegExp(`service.yaml:${key === 'name' ? 1 : 2}:1: ${key}: expected ${expected}`),
        `${key}: ${value}`
      )
    }
  }
})

t.test('limits hold at their edges', async t => {
  for (const yaml of [
    'count: 1',
    'count: 9',
    'rooms: [{ size: 1KiB }]',
    'rooms: [{ size: 1MiB }]',
    'login: { key: k, wait: 10ms }'
  ]) {
    await t.resolves(load(t, `name: a\n${yaml}`), yaml)
  }
  for (const yaml of [
    'count: 0',
    'count: 10',
    'count: 1.5',
    'rooms: [{ size: 1023B }]',
    'rooms: [{ size: 1048577B }]',
    'login: { key: k, wait: 9ms }'
  ]) {
    t.equal((await complaints(t, `name: a\n${yaml}`)).length, 1, yaml)
  }
})

t.test('text that YAML takes for something else is to be quoted', async t => {
  t.strictSame(await complaints(t, 'name: 123'), [
    'service.yaml:1:1: name: expected text, got the number 123 (put text in quotes: "123")'
  ])
})

t.test('broken YAML is told with its line', async t => {
  const table: [string, RegExp][] = [
    ['name: a\nname: b', /^service.yaml:2:1: not valid YAML: Map keys must be unique/],
    ['name: a\n\tcount: 3', /^service.yaml:2:1: not valid YAML: .*[Tt]ab/],
    ['name: [a', /^service.yaml:1:\d+: not valid YAML/],
    ['name: *nobody', /^service.yaml:1:\d+: not valid YAML/],
    ['name: !secret a', /^service.yaml:1:7: not valid YAML: Unresolved tag/],
    ['name: a\n---\nname: b', /^service.yaml:2:1: not valid YAML/],
    ['- a', /^service.yaml:1:1: expected a mapping of keys to values/],
    ['just text', /^service.yaml:1:1: expected a mapping/],
    ['name: a\n1: a', /^service.yaml:2:1: 1: unknown key/],
    ['name: a\n? [x]\n: a', /^service.yaml:2:3: not valid YAML: .*keys must be strings/],
    ['name: a\n__proto__: { count: 5 }', /^service.yaml:2:1: __proto__: unknown key/],
    ['name: a\n<<: { count: 5 }', /^service.yaml:2:1: <<: unknown key/]
  ]
  for (const [yaml, message] of table) {
    const lines = await complaints(t, yaml)
    t.equal(lines.length, 1, yaml)
    t.match(lines[0], message)
  }
})

t.test('an alias bomb is refused before it unfolds', async t => {
  const levels = Array.from(
    { length: 12 },
    (_, at) => `a${at}: &a${at} [${at === 0 ? 'x' : `${`*a${at - 1},`.repeat(9)}x`}]`
  )

  t.match((await complaints(t, levels.join('\n')))[0], /Excessive alias count/)
})

t.test('an empty file leaves everything to its defaults, and misses what has none', async t => {
  t.strictSame(await complaints(t, ''), ['service.yaml:1:1: name: is missing: expected text'])
  t.strictSame(await complaints(t, '# only words\n'), ['service.yaml:1:1: name: is missing: expected text'])
  t.equal((await load(t, '', { env: { TENDRIL_NAME: 'b' } })).name, 'b')
})

t.test('what cannot be read as a file says so in one line', async t => {
  const dir = t.testdir({
    binary: Buffer.from([0xff, 0xfe, 0x00]),
    large: `name: a # ${'x'.repeat(CONFIG_LIMIT_BYTES)}`
  })
  const failure = async (file: string): Promise<string> =>
    loadConfig(schema, { file }).then(
      () => 'no error',
      (error: unknown) => (error as ConfigError).lines.join('|').replace(`${dir}/`, '')
    )

  t.equal(await failure(join(dir, 'nothing')), 'nothing: no such file')
  t.equal(await failure(dir), `${dir}: is a directory, expected a YAML file`)
  t.equal(await failure(join(dir, 'binary')), 'binary: is not UTF-8 text')
  t.match(await failure(join(dir, 'large')), /^large: is larger than 1048576 bytes/)
  t.match(await failure('/dev/zero'), /is larger than/)
})

t.test('flags beat variables, variables beat the file, the file beats the defaults', async t => {
  const yaml = 'name: file\ncount: 4\nrooms: [{ size: 1KiB }]'
  const env = {
    TENDRIL_NAME: '42',
    TENDRIL_COUNT: '5',
    TENDRIL_LOGIN_WAIT: '7s',
    TENDRIL_LOGIN: '{ key: /k }'
  }

  const config = await load(t, yaml, {
    env,
    overrides: ['count=6', 'rooms.0.open=true', 'rooms[1]={ size: 3KiB }', 'headers.X-A=b: c'].map(parseSet)
  })

  t.match(config, { name: '42', count: 6, colour: 'red', login: { key: '/k', wait: 7_000 } })
  t.same(config.rooms, [
    { size: 1_024, open: true },
    { size: 3_072, open: false }
  ])
  t.same(config.headers, { 'X-A': 'b: c' })
})

t.test('files named by variables and flags count from the working directory', async t => {
  const config = await load(t, 'name: a', {
    env: { TENDRIL_LOGIN_KEY: 'k.pem' },
    overrides: [parseSet('listen=unix:s')]
  })

  t.equal(config.login?.key, join(process.cwd(), 'k.pem'))
  t.same(config.listen, { path: join(process.cwd(), 's') })
})

t.test('a wrong variable or flag is named as it was written', async t => {
  const lines = await complaints(t, 'name: a\nrooms: []', {
    env: {
      TENDRIL_COUNT: '[',
      TENDRIL_COLOUR: 'rot',
      TENDRIL_NAMES: 'x',
      TENDRIL_CONFIG: 'ignored',
      OTHER: 'x'
    },
    overrides: ['rooms.1.open=true', 'lgin.key=x', 'name.first=x', 'count=zehn'].map(parseSet)
  })

  t.strictSame(lines, [
    'TENDRIL_NAMES: no key of the configuration has this variable; did you mean TENDRIL_NAME?',
    'TENDRIL_COUNT: not valid YAML: Flow sequence must end with a ]',
    '--set rooms.1.open: rooms is a list of 0: expected a number from 0 to 0, got 1',
    '--set name.first: name has no keys inside',
    '--set count: count: expected a whole number from 1 to 9, got "zehn"',
    'TENDRIL_COLOUR: colour: expected one of red, blue, got "rot"',
    '--set lgin.key: lgin: unknown key; did you mean login?'
  ])
  t.throws(() => parseSet('no-equals'), /expected path=value/)
  t.throws(() => parseSet('=x'), /expected path=value/)
})

t.test('variables that Kubernetes makes of Services are not ours', async t => {
  const env = {
    TENDRIL_SEED_SERVICE_HOST: '10.0.0.1',
    TENDRIL_SEED_SERVICE_PORT: '443',
    TENDRIL_SEED_SERVICE_PORT_HTTPS: '443',
    TENDRIL_SEED_PORT: 'tcp://10.0.0.1:443',
    TENDRIL_SEED_PORT_443_TCP: 'tcp://10.0.0.1:443',
    TENDRIL_SEED_PORT_443_TCP_PROTO: 'tcp',
    TENDRIL_SEED_PORT_443_TCP_PORT: '443',
    TENDRIL_SEED_PORT_443_TCP_ADDR: '10.0.0.1'
  }

  await t.resolves(load(t, 'name: a', { env }))
})

t.test('what is shown loads to the same, secrets are masked', async t => {
  const yaml = 'name: "7"\nlisten: "[::1]:80"\nlogin: { key: /k, wait: 90s }\nrooms: [{ size: 2KiB }]\n'
  const config = await load(t, yaml)

  t.same(await load(t, showConfig(schema, config)), config)

  const secret = await load(
    t,
    'name: a\nproxy: http://me:geheim@proxy:3128\nheaders: { Authorization: geheim, X-Auth-Token: geheim, X-To: there }'
  )
  const shown = showConfig(schema, secret)
  t.notMatch(shown, /geheim/)
  t.match(shown, /proxy: http:\/\/me:\*\*\*@proxy:3128/)
  t.match(shown, /X-To: there/)
})

t.test('an error repeats no secret', async t => {
  for (const yaml of [
    'proxy: [geheim]',
    'proxy: geheim',
    'proxy: http://a:geheim@h/x',
    'headers: geheim',
    'headers: { "a b": geheim }',
    'headers: { A: "geheim\\n" }'
  ]) {
    const lines = await complaints(t, `name: a\n${yaml}`)
    t.equal(lines.length, 1)
    t.notMatch(lines[0], /geheim/, yaml)
  }
})
