/**
 * What both programs' command lines share: how a mistake is answered, the exit codes, and running until a signal
 * says stop. The commands themselves are in each program's cli.ts.
 */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { ConfigError, ENV_PREFIX, type Override, parseSet } from './config.js'
import { TunnelError } from './errors.js'
import type { Log } from './log.js'
import { writeFully } from './log-output.js'

export { Command, InvalidArgumentError, Option }

/** 0: success. 1: failure. 2: wrong command line or configuration. */
export const EXIT = { ok: 0, failed: 1, usage: 2 } as const

/** The outside of a command, so that tests can be it. */
export type Io = {
  env: NodeJS.ProcessEnv
  out: (text: string) => void
  err: (text: string) => void
}

export const processIo: Io = {
  env: process.env,
  out: text => writeOut(text),
  err: text => {
    try {
      writeFully(STANDARD_ERROR, Buffer.from(text))
    } catch {
      // There is no other output; the exit code reports the failure.
    }
  }
}

const STANDARD_OUTPUT = 1
const STANDARD_ERROR = 2

function writeOut(text: string): void {
  try {
    writeFully(STANDARD_OUTPUT, Buffer.from(text))
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    // A reader such as `head` has read what it wanted.
    if (code !== 'EPIPE') throw new Error(`cannot write to standard output: ${message}`, { cause: error })
  }
}

/** A program without commands yet: help, version, and suggestions for what was mistyped. */
export function createProgram(
  options: { name: string; description: string; version: string },
  io: Io
): Command {
  return new Command(options.name)
    .description(options.description)
    .version(options.version, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand(false)
    .exitOverride()
    .showSuggestionAfterError()
    .showHelpAfterError(`Try ${options.name} --help`)
    .configureOutput({
      writeOut: io.out,
      writeErr: io.err,
      outputError: (text, write) => write(text.replace(/^error: /, `${options.name}: `))
    })
}

/** Flags that stand for one key of the configuration: `--admin-listen` for `admin.listen`. */
export type KeyFlag = { flag: string; value: string; path: string[]; about: string }

/** Stands for `--config`. */
const CONFIG_VARIABLE = `${ENV_PREFIX}_CONFIG`

/** `--config`, `--set` and the flags given, on a command that reads the configuration. */
export function withConfigOptions(command: Command, example: string, flags: readonly KeyFlag[]): Command {
  command.option('-c, --config <file>', `the configuration, such as ${example} (or ${CONFIG_VARIABLE})`)
  for (const { flag, value, about } of flags) command.option(`--${flag} <${value}>`, about)
  return command.option(
    '--set <path=value>',
    'override any key, such as log.level=debug (repeatable)',
    collectSet,
    []
  )
}

function collectSet(text: string, before: Override[]): Override[] {
  try {
    return [...before, parseSet(text)]
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

/** What the options that `withConfigOptions` added were given: the file, and the overrides with `--set` last. */
export function configSource(
  command: Command,
  flags: readonly KeyFlag[],
  env: NodeJS.ProcessEnv
): { file: string; overrides: Override[] } {
  const given = command.opts<{ config?: string; set: Override[] } & Record<string, unknown>>()
  const file = given.config ?? env[CONFIG_VARIABLE]
  if (file === undefined)
    command.error(`error: no configuration file: name one with --config FILE or TENDRIL_CONFIG`)
  const fromFlags = flags.flatMap(({ flag, path }) => {
    const text = given[new Option(`--${flag}`).attributeName()]
    return typeof text === 'string' ? [{ source: `--${flag}`, path, text }] : []
  })
  return { file, overrides: [...fromFlags, ...given.set] }
}

/** Runs one command line. Never throws: prints errors as sentences, and returns the exit code. */
export async function runProgram(program: Command, argv: readonly string[], io: Io): Promise<number> {
  try {
    if (argv.length === 0) {
      program.outputHelp({ error: true })
      return EXIT.usage
    }
    await program.parseAsync([...argv], { from: 'user' })
    return EXIT.ok
  } catch (error) {
    // commander has printed its sentence already; it ends with 0 after --help and --version.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage
    const lines = error instanceof ConfigError ? error.lines : [sentenceOf(error)]
    for (const line of lines) io.err(`${program.name()}: ${line}\n`)
    return error instanceof TunnelError && error.code === 'BAD_CONFIG' ? EXIT.usage : EXIT.failed
  }
}

function sentenceOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/**
 * A server or client as a whole. `closed` settles when it has ended, for whatever reason, and rejects if that was a
 * failure.
 */
export interface Service {
  start(): Promise<void>
  /** Ends gracefully. Called after `start` has settled, well or not, and perhaps more than once. */
  stop(): Promise<void>
  readonly closed: Promise<void>
}

/** The part of `process` that is listened to. */
export type Signals = Pick<NodeJS.EventEmitter, 'on' | 'off'>

const STOP_SIGNALS = ['SIGTERM', 'SIGINT']

/**
 * Starts `service` and returns when it has ended. The first SIGTERM or SIGINT stops it gracefully, the second calls
 * `abandon` at once, for whoever has waited long enough; a start under way is let finish first. Rejects with what
 * `start` or `closed` rejected with.
 */
export async function runService(
  service: Service,
  {
    log,
    signals = process,
    abandon = () => process.exit(EXIT.failed)
  }: { log: Log; signals?: Signals; abandon?: () => void }
): Promise<void> {
  let stopping: Promise<void> | undefined
  const stop = (signal: NodeJS.Signals) => {
    if (stopping) {
      log.warn({ signal }, 'second signal, leaving at once')
      abandon()
      return
    }
    log.info({ signal }, 'stopping')
    // Not while it starts: what opens after the stop would stay open, and keep the process.
    stopping = starting.catch(() => {}).then(() => service.stop())
    // Awaited below; until then a failure must not count as unhandled.
    stopping.catch(() => {})
  }

  for (const signal of STOP_SIGNALS) signals.on(signal, stop)
  const starting = service.start()
  try {
    await starting
    await service.closed
  } finally {
    await (stopping ?? service.stop())
    for (const signal of STOP_SIGNALS) signals.off(signal, stop)
  }
}
