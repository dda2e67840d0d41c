/**
 * The words a configuration schema is written in: one call per key gives its type, default, check and the
 * sentence for the docs. zod validates; what zod cannot carry (how to show a value, what it is expected to
 * look like, whether it is a path) hangs beside each schema in `fieldOf`'s registry.
 */
import { isAbsolute, resolve } from 'node:path'
import * as z from 'zod'
import { formatListen, LISTEN_FORM, parseListen } from '../listen-address.js'
import { DURATION_FORM, formatDuration, formatSize, parseDuration, parseSize, SIZE_FORM } from './units.js'

/** What is known about a key beside its zod type. */
export type Field = {
  /** Name of the type in docs/configuration.md. */
  type: string
  /** What a right value looks like; an error reads "expected …, got …". */
  expected: string
  /** One or more sentences for the docs. Elements of lists have none. */
  about?: string
  /** A variable or flag gives the value as it is; without this it is read as YAML. */
  plainText?: true
  /** Makes a relative file name in the value absolute. */
  place?: (text: string, directory: string) => string
  /** The parsed value as one would write it, secrets masked. */
  show?: (value: unknown) => unknown
  /** The value may hold a secret, so an error never repeats it. */
  secret?: true
  /** This key is the old name of that one. See renamed.ts. */
  renamedTo?: string
}

type Schema = z.core.$ZodType
type Options<T> = { about?: string; default?: T }

export const MASK = '***'

const registry = z.registry<Field>()

/** The Field that was registered with this very schema (not with what it wraps). */
export function fieldOf(schema: Schema): Field | undefined {
  return registry.get(schema)
}

/** Attaches a Field to a schema; the other functions here are made of it. */
export function field<S extends Schema>(schema: S, about: Field): S {
  registry.add(schema, about)
  return schema
}

function about(options: { about?: string }): { about?: string } {
  return options.about === undefined ? {} : { about: options.about }
}

/**
 * A mapping with exactly these keys; `renamedTo` makes it the old name of another key. Add `.optional()`, or
 * `.prefault({})` for one that is all defaults.
 */
export function section<S extends z.core.$ZodShape>(
  sentence: string,
  shape: S,
  { renamedTo }: Pick<Field, 'renamedTo'> = {}
) {
  return field(z.strictObject(shape), {
    type: 'section',
    expected: 'a mapping of keys to values',
    about: sentence,
    ...(renamedTo !== undefined && { renamedTo })
  })
}

/** A list, empty by default unless `min` asks for entries. */
export function list<S extends Schema>(sentence: string, element: S, { min = 0 } = {}) {
  const expected = min > 0 ? `a list of at least ${min}` : 'a list'
  return field(z.array(element).min(min), { type: 'list', expected, about: sentence })
}

/** Any text but an empty one, or what `fits` accepts; `expected` then says what that is. */
export function text(
  options: { about?: string; fits?: (written: string) => boolean; expected?: string } = {}
) {
  const { fits = (written: string) => written !== '', expected = 'text' } = options
  const schema = z.string().superRefine((written, context) => {
    if (!fits(written)) context.issues.push({ code: 'invalid_format', format: 'text', input: written })
  })
  return field(schema, { type: 'text', expected, plainText: true, ...about(options) })
}

export function choice<const V extends readonly [string, ...string[]]>(options: {
  about?: string
  values: V
}) {
  const expected = `one of ${options.values.join(', ')}`
  return field(z.enum(options.values), {
    type: options.values.join(' \\| '),
    expected,
    plainText: true,
    ...about(options)
  })
}

export function yesNo(options: Options<boolean> = {}) {
  return field(z.boolean(), { type: 'true \\| false', expected: 'true or false', ...about(options) })
}

/** A whole number inside [min, max]. */
export function count(options: { about?: string; min: number; max: number }) {
  const expected = `a whole number from ${options.min} to ${options.max}`
  return field(z.number().int().min(options.min).max(options.max), {
    type: 'number',
    expected,
    ...about(options)
  })
}

/** Written with its unit, parsed to milliseconds inside [min, max]. */
export function duration(options: { about?: string; min: string; max: string }) {
  return quantity(options, 'duration', DURATION_FORM, parseDuration, formatDuration)
}

/** Written with its unit, parsed to bytes inside [min, max]. */
export function size(options: { about?: string; min: string; max: string }) {
  return quantity(options, 'size', SIZE_FORM, parseSize, formatSize)
}

function quantity(
  options: { about?: string; min: string; max: string },
  type: string,
  form: string,
  parse: (text: string) => number | undefined,
  format: (amount: number) => string
) {
  const expected = `${form}, from ${options.min} to ${options.max}`
  const min = parse(options.min) ?? 0
  const max = parse(options.max) ?? Number.MAX_SAFE_INTEGER
  const schema = z.string().transform((written, context) => {
    const amount = parse(written)
    if (amount !== undefined && amount >= min && amount <= max) return amount
    context.issues.push({ code: 'invalid_format', format: type, input: written })
    return z.NEVER
  })
  return field(schema, {
    type,
    expected,
    plainText: true,
    show: value => (typeof value === 'number' ? format(value) : value),
    ...about(options)
  })
}

/**
 * A file. A relative name counts from the directory of the configuration file, or from the working directory in
 * variables and flags.
 */
export function filePath(options: { about?: string } = {}) {
  const place = (written: string, directory: string) => (written === '' ? '' : resolve(directory, written))
  return field(z.string().min(1), {
    type: 'file',
    expected: 'the name of a file',
    plainText: true,
    place,
    ...about(options)
  })
}

/** Parsed to a `ListenAddress`. The path of a Unix socket may be relative, like any file. */
export function listen(options: { about?: string } = {}) {
  const schema = z.string().transform((written, context) => {
    try {
      return parseListen(written)
    } catch (error) {
      context.issues.push({ code: 'custom', message: (error as Error).message, input: written })
      return z.NEVER
    }
  })
  return field(schema, {
    type: 'address',
    expected: LISTEN_FORM,
    plainText: true,
    place: (written, directory) => {
      const path = /^unix:(?!\/)(.+)$/.exec(written)?.[1]
      return path === undefined || isAbsolute(path) ? written : `unix:${resolve(directory, path)}`
    },
    show: value => formatListen(value as Parameters<typeof formatListen>[0]),
    ...about(options)
  })
}

/** Like `listen`, for what only TCP makes sense for. */
export function listenTcp(options: { about?: string } = {}) {
  const { place: _, ...rest } = fieldOf(listen(options)) ?? { type: '', expected: '' }
  const schema = z.string().transform((written, context) => {
    try {
      const address = parseListen(written)
      if ('port' in address) return address
      context.issues.push({ code: 'custom', message: `expected host:port, got ${written}`, input: written })
    } catch (error) {
      context.issues.push({ code: 'custom', message: (error as Error).message, input: written })
    }
    return z.NEVER
  })
  return field(schema, { ...rest, expected: 'an address such as 127.0.0.1:9443, [::1]:9443 or :9443' })
}

/**
 * The text of a URL with one of the schemes given, and nothing a host does not have: no path unless `path`, no user
 * unless `credentials`.
 */
export function url(options: {
  about?: string
  schemes: string[]
  credentials?: true
  path?: true
  words?: string[]
}) {
  const forms = [
    ...(options.words ?? []),
    `a URL that begins with ${options.schemes.map(scheme => `${scheme}://`).join(' or ')}`
  ]
  const schema = z.string().superRefine((written, context) => {
    const problem = options.words?.includes(written) ? undefined : urlProblem(written, options)
    if (problem) context.addIssue({ code: 'custom', message: problem })
  })
  return field(schema, {
    type: [...(options.words ?? []), 'URL'].join(' \\| '),
    expected: forms.join(', '),
    plainText: true,
    ...(options.credentials ? { secret: true as const, show: maskUrl } : {}),
    ...about(options)
  })
}

function urlProblem(written: string, options: Parameters<typeof url>[0]): string | undefined {
  const schemes = options.schemes.map(scheme => `${scheme}://`).join(' or ')
  const parsed = URL.canParse(written) ? new URL(written) : undefined
  if (!parsed || !options.schemes.includes(parsed.protocol.slice(0, -1)) || parsed.hostname === '') {
    return `expected ${[...(options.words ?? []), `a URL that begins with ${schemes}`].join(', ')} and names a host`
  }
  if (!options.credentials && (parsed.username || parsed.password))
    return 'a user or password has no place in this URL'
  if (!isPercentEncoded(parsed.username) || !isPercentEncoded(parsed.password)) return PERCENT_RULE
  if (parsed.search || parsed.hash) return 'a query or fragment has no place in this URL'
  if (!options.path && parsed.pathname !== '/' && parsed.pathname !== '')
    return 'a path has no place in this URL'
  return undefined
}

/** The message for a user or password that `isPercentEncoded` refuses. */
export const PERCENT_RULE =
  'a % in the user or password stands for itself only when it is written as %25, and encodes no control character'

/** Whether each % of a user or password begins an encoded byte that is no control character (RFC 7617 section 2). */
export function isPercentEncoded(userinfo: string): boolean {
  return !/%(?![0-9a-f]{2})|%([01][0-9a-f]|7f)/i.test(userinfo)
}

function maskUrl(value: unknown): unknown {
  if (typeof value !== 'string' || !URL.canParse(value)) return value
  const parsed = new URL(value)
  if (parsed.password === '') return value
  parsed.password = MASK
  return parsed.href
}

const SECRET_NAME = /auth|token|secret|key|cookie|password|credential/i
// RFC 9110 section 5.1 and 5.5: a field name is a token, a value has no control characters and is made of bytes.
const HEADER_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
const HEADER_VALUE = /^[\t\x20-\x7e\x80-\xff]*$/

const headerValue = field(z.string(), { type: 'text', expected: 'text', plainText: true, secret: true })

/** HTTP headers by name. Values whose name sounds like a secret are masked when shown. */
export function headers(options: { about?: string } = {}) {
  const schema = z.record(z.string(), headerValue).superRefine((all, context) => {
    for (const [name, value] of Object.entries(all)) {
      const problem = !HEADER_NAME.test(name)
        ? 'is not the name of a header'
        : !HEADER_VALUE.test(value)
          ? 'the value of a header has no line breaks, control characters or characters above U+00FF'
          : undefined
      if (problem) context.addIssue({ code: 'custom', path: [name], message: problem })
    }
  })
  const mask = ([name, value]: [string, unknown]): [string, unknown] => [
    name,
    SECRET_NAME.test(name) ? MASK : value
  ]
  return field(schema, {
    type: 'headers',
    expected: 'header names with text as values',
    secret: true,
    show: value => Object.fromEntries(Object.entries(value as Record<string, unknown>).map(mask)),
    ...about(options)
  })
}
