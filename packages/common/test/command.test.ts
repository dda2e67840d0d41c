import { EventEmitter } from 'node:events'
import t from 'tap'
import {
  configSource,
  createProgram,
  EXIT,
  type Service,
  type KeyFlag,
  runService,
  runProgram,
  withConfigOptions
} from '../src/command.js'
import { ConfigError } from '../src/config.js'
import { TunnelError } from '../src/errors.js'
import { createLog } from '../src/log.js'

const FLAGS: KeyFlag[] = [{ flag: 'log-level', value: 'level', path: ['log', 'level'], about: 'how much' }]
const log = createLog({ level: 'silent' })

type Said = { code: number; out: string; err: string; seen: unknown }

/** One command line against a program with the command `go`, which does `act`. */
async function say(argv: string[], act: () => void = () => {}): Promise<Said> {
  const said: Said = { code: -1, out: '', err: '', seen: undefined }
  const io = {
    env: {},
    out: (text: string) => void (said.out += text),
    err: (text: string) => void (said.err += text)
  }
  const program = createProgram({ name: 'prog', description: 'A program.', version: '1.2.3' }, io)
  withConfigOptions(program.command('go'), 'x.yaml', FLAGS).action((_, command) => {
    said.seen = configSource(command, FLAGS, {})
    act()
  })
  said.code = await runProgram(program, argv, io)
  return said
}

t.test('flags become overrides of keys, --set last, because it is the most precise', async t => {
  const { code, seen } = await say([
    'go',
    '-c',
    'a.yaml',
    '--set',
    'a.b=1',
    '--log-level',
    'debug',
    '--set',
    'c=d=e'
  ])

  t.equal(code, EXIT.ok)
  t.same(seen, {
    file: 'a.yaml',
    overrides: [
      { source: '--log-level', path: ['log', 'level'], text: 'debug' },
      { source: '--set a.b', path: ['a', 'b'], text: '1' },
      { source: '--set c', path: ['c'], text: 'd=e' }
    ]
  })
})

t.test('help and version are no mistakes', async t => {
  t.match(await say(['--version']), { code: 0, out: '1.2.3\n', err: '' })
  t.match(await say(['--help']), { code: 0, out: /Usage: prog/, err: '' })
  t.match(await say(['go', '--help']), { code: 0, out: /--config <file>/, err: '' })
})

t.test('a wrong command line is answered with what was meant, and with 2', async t => {
  t.match(await say([]), { code: 2, out: '', err: /Usage: prog/ })
  t.match(await say(['goo']), { code: 2, err: /^prog: unknown command 'goo'\n\(Did you mean go\?\)/ })
  t.match(await say(['go']), {
    code: 2,
    err: /no configuration file: name one with --config FILE or TENDRIL_CONFIG/
  })
  t.match(await say(['go', '--confg', 'x']), {
    code: 2,
    err: /unknown option '--confg'\n\(Did you mean --config\?\)/
  })
  t.match(await say(['go', '-c', 'x', '--set', 'ab']), { code: 2, err: /expected path=value/ })
  t.match(await say(['go', '-c', 'x', 'more']), { code: 2, err: /too many arguments/ })
})

t.test('what goes wrong is said in plain sentences, one per line, never with a stack', async t => {
  const failing = (error: unknown) =>
    say(['go', '-c', 'x'], () => {
      throw error
    })

  t.match(await failing(new ConfigError(['x:1:1: a', 'x:2:1: b'])), {
    code: 2,
    err: 'prog: x:1:1: a\nprog: x:2:1: b\n'
  })
  t.match(await failing(new TunnelError('BAD_CONFIG', 'no')), {
    code: 2,
    err: 'prog: bad configuration: no\n'
  })
  t.match(await failing(new TunnelError('LISTEN_FAILED', 'on :1')), {
    code: 1,
    err: 'prog: cannot listen on :1\n'
  })
  t.match(await failing(new Error('odd')), { code: 1, err: 'prog: odd\n' })
  t.match(await failing('text'), { code: 1, err: 'prog: text\n' })
})

class FakeService implements Service {
  readonly calls: string[] = []
  readonly started: Promise<void>
  readonly closed: Promise<void>
  close: (error?: Error) => void = () => {}
  startFails?: Error
  #onStart: () => void = () => {}

  constructor() {
    this.started = new Promise(resolve => (this.#onStart = resolve))
    this.closed = new Promise(
      (resolve, reject) => (this.close = error => (error ? reject(error) : resolve()))
    )
  }

  async start(): Promise<void> {
    this.calls.push('start')
    this.#onStart()
    if (this.startFails) throw this.startFails
  }

  async stop(): Promise<void> {
    this.calls.push('stop')
    this.close()
  }
}

t.test('the first signal stops gracefully', async t => {
  for (const signal of ['SIGTERM', 'SIGINT']) {
    const service = new FakeService()
    const signals = new EventEmitter()
    const run = runService(service, { log, signals, abandon: () => t.fail('abandoned') })

    await service.started
    signals.emit(signal, signal)
    await run

    t.same(service.calls, ['start', 'stop'])
    t.equal(signals.listenerCount(signal), 0)
  }
})

t.test('the second signal leaves at once', async t => {
  const service = new FakeService()
  const signals = new EventEmitter()
  let letGo = () => {}
  const asked = new Promise<void>(resolve => {
    service.stop = () => {
      resolve()
      return new Promise(done => (letGo = done))
    }
  })
  let abandoned = 0
  const run = runService(service, { log, signals, abandon: () => (abandoned += 1) })
  await service.started

  signals.emit('SIGTERM', 'SIGTERM')
  await asked
  t.equal(abandoned, 0)
  signals.emit('SIGINT', 'SIGINT')

  t.equal(abandoned, 1)
  letGo()
  service.close()
  await run
})

t.test('a service that cannot start is torn down, and its error is the answer', async t => {
  const service = new FakeService()
  service.startFails = new TunnelError('LISTEN_FAILED', 'on :1')

  await t.rejects(runService(service, { log, signals: new EventEmitter() }), { code: 'LISTEN_FAILED' })

  t.same(service.calls, ['start', 'stop'])
})

t.test(
  'a signal while the service starts waits until it has, so that nothing opens after the stop',
  async t => {
    const service = new FakeService()
    const signals = new EventEmitter()
    let finishStart = () => {}
    service.start = () => new Promise(resolve => (finishStart = resolve))
    const run = runService(service, { log, signals })

    signals.emit('SIGTERM', 'SIGTERM')
    await new Promise(resolve => setImmediate(resolve))
    t.same(service.calls, [])
    finishStart()
    await run

    t.same(service.calls, ['stop'])
  }
)

t.test('a start that fails is a failure, even with a signal waiting', async t => {
  const service = new FakeService()
  const signals = new EventEmitter()
  let failStart: (error: Error) => void = () => {}
  service.start = () => new Promise((_, reject) => (failStart = reject))
  const run = runService(service, { log, signals })

  signals.emit('SIGTERM', 'SIGTERM')
  failStart(new TunnelError('LISTEN_FAILED', 'on :1'))

  await t.rejects(run, { code: 'LISTEN_FAILED' })
  t.same(service.calls, ['stop'])
})

t.test('a service that ends by itself ends the command: well, or with its error', async t => {
  const well = new FakeService()
  const ended = runService(well, { log, signals: new EventEmitter() })
  well.close()
  await ended

  const badly = new FakeService()
  const failed = runService(badly, { log, signals: new EventEmitter() })
  badly.close(new Error('fell over'))
  await t.rejects(failed, /fell over/)
  t.same(badly.calls, ['start', 'stop'])
})
