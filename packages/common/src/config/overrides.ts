/**
 * What variables and flags put over the configuration file. A variable is the path of a key in capitals
 * (`tunnel.tls.clientCa` is TENDRIL_TUNNEL_TLS_CLIENT_CA); `--set fronts.0.listen=…` reaches inside lists as well.
 */
import { parseDocument } from 'yaml'
import { nearest } from './nearest.js'
import { listKeys, nodeAt, type Path } from './tree.js'
import type * as z from 'zod'

/** One value for one key. `source` is how errors call it: the variable or the flag as it was written. */
export type Override = { source: string; path: Path; text: string }

type Schema = z.core.$ZodType

/** Names with the prefix that are not keys of the configuration. */
const RESERVED = ['CONFIG']
/**
 * Kubernetes describes every Service of the namespace in variables. A Service whose name begins with "tendril"
 * makes TENDRIL_…_SERVICE_HOST and the like, which are no typing errors of ours.
 */
const SERVICE_LINK =
  /_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$|_PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$/

/** The overrides in `env`, and one sentence for each variable with the prefix that names no key. */
export function overridesFromEnv(
  schema: Schema,
  env: NodeJS.ProcessEnv,
  prefix: string
): { overrides: Override[]; unknown: { source: string; what: string }[] } {
  const known = new Map(
    listKeys(schema, prefix).flatMap(({ env: name, path }) => (name ? [[name, path.split('.')]] : []))
  )
  const overrides: Override[] = []
  const unknown: { source: string; what: string }[] = []
  for (const [name, text] of Object.entries(env)) {
    if (!name.startsWith(`${prefix}_`) || text === undefined) continue
    const path = known.get(name)
    const rest = name.slice(prefix.length + 1)
    if (path) overrides.push({ source: name, path, text })
    else if (!RESERVED.includes(rest) && !SERVICE_LINK.test(name)) {
      const meant = nearest(
        rest,
        [...known.keys()].map(key => key.slice(prefix.length + 1))
      )
      unknown.push({
        source: name,
        what: `no key of the configuration has this variable${meant ? `; did you mean ${prefix}_${meant}?` : ''}`
      })
    }
  }
  // A whole section first, then the keys inside it.
  overrides.sort((a, b) => a.path.length - b.path.length)
  return { overrides, unknown }
}

/**
 * Reads `path=value` as `--set` takes it.
 *
 * @throws Error when there is no `=` or no path
 */
export function parseSet(text: string): Override {
  const equals = text.indexOf('=')
  if (equals < 1) throw new Error(`expected path=value, such as log.level=debug, got "${text}"`)
  const path = text
    .slice(0, equals)
    .replace(/\[([0-9]+)\]/g, '.$1')
    .split('.')
  return { source: `--set ${path.join('.')}`, path, text: text.slice(equals + 1) }
}

/** The value of an override: text as it is where the key is text, else YAML. */
export function valueOf(schema: Schema, { path, text }: Override): unknown {
  if (nodeAt(schema, path)?.field?.plainText) return text
  const document = parseDocument(text, { prettyErrors: false, stringKeys: true })
  const [problem] = [...document.errors, ...document.warnings]
  if (problem) throw new Error(`not valid YAML: ${problem.message}`)
  return document.toJS()
}

/**
 * A copy of `root` with `value` at `path`; mappings that are missing on the way are made, lists grow by one at most.
 *
 * @throws Error when something on the way can hold no key of that name
 */
export function withValue(root: unknown, path: Path, value: unknown, walked: Path = []): unknown {
  const [head, ...rest] = path
  if (head === undefined) return value
  const key = String(head)
  const here = [...walked, head]
  if (Array.isArray(root)) {
    const index = Number(key)
    if (!/^[0-9]+$/.test(key) || index > root.length) {
      throw new Error(
        `${walked.join('.')} is a list of ${root.length}: expected a number from 0 to ${root.length}, got ${key}`
      )
    }
    return Object.assign([...(root as unknown[])], { [index]: withValue(root[index], rest, value, here) })
  }
  if (typeof root !== 'object' && root !== undefined)
    throw new Error(`${walked.join('.')} has no keys inside`)
  const inner = root && Object.hasOwn(root, key) ? (root as Record<string, unknown>)[key] : undefined
  const changed = withValue(inner, rest, value, here)
  // fromEntries defines own properties, so that a key called __proto__ is only an unknown key.
  return Object.fromEntries([...Object.entries(root ?? {}), [key, changed]])
}
