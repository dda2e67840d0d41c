/**
 * The one logger of a program: pino on standard output, as JSON for machines or as short lines for people. Decides
 * how lines look and what they never contain. The callers decide what is logged.
 */
import { isatty } from 'node:tty'
import { inspect } from 'node:util'
import pino, { type DestinationStream, type Logger } from 'pino'
import { TunnelError } from './errors.js'
import { LogOutput } from './log-output.js'
import { cut, cutFields, visible } from './log-text.js'

export type Log = Logger
export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent'
export type LogFormat = 'auto' | 'json' | 'text'

/** Wherever an object with one of these keys is logged, the value is not. */
const NEVER_LOGGED = [
  'key',
  'passphrase',
  'password',
  'token',
  'authorization',
  'proxy-authorization',
  'cookie'
]
const REDACTED = NEVER_LOGGED.flatMap(name => [`["${name}"]`, `*["${name}"]`, `*.*["${name}"]`])

export type LogOptions = {
  /** Default `info`. */
  level?: LogLevel
  /** Default `auto`: text when standard output is a terminal, else JSON. */
  format?: LogFormat
  /** Where lines go, for tests. Default standard output. */
  destination?: DestinationStream
  /** Lines were dropped because standard output was full, broken or not read. */
  onDrop?: (lines: number) => void
}

/**
 * Makes a logger. Lines are written without waiting for the reader of standard output, see log-output.ts. Whoever ends
 * the process calls `log.flush()` on exit: it writes what is left.
 */
export function createLog(options: LogOptions = {}): Log {
  const { level = 'info', format = 'auto', destination, onDrop } = options
  // isatty() and not process.stdout, which would make a pipe non-blocking for all who write to it.
  const asText = format === 'text' || (format === 'auto' && !destination && isatty(STANDARD_OUTPUT))
  const out: DestinationStream & { flush?(): void } =
    destination ??
    new LogOutput({
      fd: STANDARD_OUTPUT,
      onDrop,
      onResume: dropped =>
        log.warn(
          { dropped },
          'log lines were dropped because standard output did not accept them, it accepts lines again'
        )
    })
  const lines: typeof out = {
    write: line => out.write(asText ? textLine(line) : jsonLine(line)),
    flush: () => out.flush?.()
  }
  const log: Log = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: label => ({ level: label }), log: cutFields },
      serializers: { err: describeError },
      redact: { paths: REDACTED, censor: '***' }
    },
    lines
  )
  return log
}

const STANDARD_OUTPUT = 1

/**
 * The outside hears code and sentence; the log gets the cause as well, and a stack only where nobody expected the
 * error.
 */
function describeError(error: unknown): unknown {
  if (!(error instanceof Error)) return error
  if (!(error instanceof TunnelError)) return describeUnexpected(error)
  const { code, cause } = error
  const message = cut(error.message)
  if (cause === undefined) return { code, message }
  return { code, message, cause: cut(cause instanceof Error ? cause.message : inspect(cause)) }
}

/** Most characters of a stack. */
const STACK_LIMIT = 4_096

function describeUnexpected(error: Error): unknown {
  const { stack, ...described } = pino.stdSerializers.err(error)
  return { ...cutFields(described), stack: cut(stack, STACK_LIMIT) }
}

function jsonLine(line: string): string {
  return `${visible(line.trimEnd())}\n`
}

type Line = { level: string; time: string; msg?: string } & Record<string, unknown>

/** `12:00:01 info  link up  cluster=demo server=wss://vpn.demo.test` */
export function textLine(json: string): string {
  const { level, time, msg = '', ...fields } = JSON.parse(json) as Line
  const clock = time.slice('2026-01-01T'.length, '2026-01-01T00:00:00'.length)
  const said = `${clock} ${level.padEnd('info '.length)} ${msg}`
  const shown = Object.entries(fields).map(([name, value]) => `${name}=${textValue(value)}`)
  return `${oneLine(shown.length > 0 ? `${said}  ${shown.join(' ')}` : said)}\n`
}

function textValue(value: unknown): string {
  const isBare = typeof value === 'string' && /^[^\s"=]+$/.test(value)
  return isBare ? value : JSON.stringify(value)
}

/** Whoever chose the text, it stays one line and sends no commands to the terminal. */
function oneLine(text: string): string {
  // eslint-disable-next-line no-control-regex
  return visible(text.replace(/[\u0000-\u001f\u007f-\u009f]/g, ' '))
}
