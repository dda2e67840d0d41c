/**
 * Loads a configuration: file, then `TENDRIL_*` variables, then flags, each over the one before, checked against
 * one schema that also gives the defaults and the docs. Finds everything that is wrong before it complains.
 */
import { dirname, resolve } from 'node:path'
import { stringify } from 'yaml'
import * as z from 'zod'
import { type Problem, readDocument } from './config/document.js'
import { explain } from './config/explain.js'
import { type Override, overridesFromEnv, valueOf, withValue } from './config/overrides.js'
import { isGivenTwice, renamedKeys, withNewNames } from './config/renamed.js'
import { mapFields, nodeAt, type Path } from './config/tree.js'
import { TunnelError } from './errors.js'

export { parseSet, type Override } from './config/overrides.js'

/** Prefix of the environment variables that override keys. */
export const ENV_PREFIX = 'TENDRIL'

/** Everything wrong with a configuration: `lines` has one sentence each, which begins with its place. */
export class ConfigError extends TunnelError {
  readonly lines: readonly string[]

  constructor(lines: readonly string[]) {
    super('BAD_CONFIG', lines.join('; '))
    this.lines = lines
  }
}

export type LoadOptions = {
  /** The YAML file. Relative file names inside count from its directory. */
  file: string
  /** Where `TENDRIL_*` variables are looked up. Default: none are. */
  env?: NodeJS.ProcessEnv
  /** From flags: the strongest. Relative file names in them, as in variables, count from the working directory. */
  overrides?: readonly Override[]
  /** Prefix of the variables, without the underscore. Default `TENDRIL`. */
  prefix?: string
  /** One sentence for each key that is given by an old name. */
  onWarning?: (sentence: string) => void
}

type Source = { path: Path; name: string }

/**
 * The checked configuration with all defaults filled in, deeply frozen.
 *
 * @throws ConfigError (BAD_CONFIG) with one line for every problem: place, key, what was expected, what is there
 */
export async function loadConfig<S extends z.ZodType>(schema: S, options: LoadOptions): Promise<z.output<S>> {
  const document = await readDocument(options.file)
  const problems: Problem[] = [...document.problems]
  const sources: Source[] = []
  let value: unknown = placeFiles(schema, document.value, dirname(resolve(options.file)))

  const fromEnv = overridesFromEnv(schema, options.env ?? {}, options.prefix ?? ENV_PREFIX)
  for (const { source, what } of fromEnv.unknown) problems.push({ where: source, line: 0, what })
  for (const override of [...fromEnv.overrides, ...(options.overrides ?? [])]) {
    try {
      const node = nodeAt(schema, override.path)
      const written = valueOf(schema, override)
      value = withValue(
        value,
        override.path,
        node ? placeFiles(node.schema, written, process.cwd(), node.field) : written
      )
      sources.unshift({ path: override.path, name: override.source })
    } catch (error) {
      problems.push({ where: override.source, line: 0, what: (error as Error).message })
    }
  }

  // What is missing in a file that could not be read is not worth a line.
  const parsed = document.problems.length > 0 ? undefined : schema.safeParse(value)
  const placeOf = (path: Path): Omit<Problem, 'what'> => {
    const source = sources.find(candidate => overlap(candidate.path, path))
    return source ? { where: source.name, line: 0 } : document.locate(path)
  }
  for (const issue of parsed?.error?.issues ?? []) {
    for (const { path, what } of explain(schema, value, issue)) {
      problems.push({ ...placeOf(path), what: path.length > 0 ? `${pathText(path)}: ${what}` : what })
    }
  }
  const renamed = renamedKeys(schema, value)
  for (const { key, renamedTo } of renamed.filter(one => isGivenTwice(value, one))) {
    problems.push({ ...placeOf([key]), what: `${key}: renamed to ${renamedTo}, which is given as well` })
  }
  if (!parsed?.success || problems.length > 0) {
    problems.sort((a, b) => a.line - b.line)
    throw new ConfigError(problems.map(({ where, what }) => `${where}: ${what}`))
  }
  for (const { key, renamedTo } of renamed) {
    options.onWarning?.(`${placeOf([key]).where}: ${key}: renamed to ${renamedTo}; the old name will go`)
  }
  return deepFreeze(withNewNames(parsed.data, renamed))
}

/** The configuration as YAML that loads to the same again, but for the secrets, which are masked. */
export function showConfig(schema: z.ZodType, config: unknown): string {
  const shown = mapFields(schema, config, (field, value) => (field.show ? field.show(value) : value))
  return stringify(shown, { lineWidth: 0, aliasDuplicateObjects: false })
}

/** Whether one path leads through the other: `--set a.b=…` is to blame for a.b.c, and for an unknown a. */
function overlap(one: Path, other: Path): boolean {
  const length = Math.min(one.length, other.length)
  return length > 0 && one.slice(0, length).every((step, at) => String(step) === String(other[at]))
}

/** fronts, 0, name → fronts[0].name */
function pathText(path: Path): string {
  return path
    .map((step, at) => (typeof step === 'number' ? `[${step}]` : `${at > 0 ? '.' : ''}${step}`))
    .join('')
}

function placeFiles(
  schema: z.core.$ZodType,
  value: unknown,
  directory: string,
  own = nodeAt(schema, [])?.field
): unknown {
  if (own?.place && typeof value === 'string') return own.place(value, directory)
  return mapFields(schema, value, (field, written) =>
    field.place && typeof written === 'string' ? field.place(written, directory) : written
  )
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value)
    Object.values(value).forEach(deepFreeze)
  }
  return value
}
