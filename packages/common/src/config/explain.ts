/**
 * What a person reads when the configuration is wrong: "tunnel.listen: expected …, got …". Turns zod's issues
 * into sentences with the schema's own words, and never repeats a value that may be secret.
 */
import type * as z from 'zod'
import type { Field } from './fields.js'
import { nearest } from './nearest.js'
import { keysOf, nodeAt, type Path } from './tree.js'

/** One sentence about the value at `path`; the caller knows where that is written. */
export type Finding = { path: Path; what: string }

const SHOWN_CHARS = 60

/** The sentences for one issue: one for each unknown key, else a single one. */
export function explain(schema: z.core.$ZodType, value: unknown, issue: z.core.$ZodIssue): Finding[] {
  const path = issue.path as Path
  if (issue.code === 'unrecognized_keys') {
    const known = keysOf(nodeAt(schema, path)?.schema ?? schema)
    return issue.keys.map(key => ({ path: [...path, key], what: unknownKey(key, known) }))
  }
  if (issue.code === 'custom') return [{ path, what: issue.message }]

  const field = nearestField(schema, path)
  const expected = field?.expected ?? 'something else'
  const found = valueAt(value, path)
  if (found === undefined) return [{ path, what: `is missing: expected ${expected}` }]
  return [
    { path, what: `expected ${expected}, got ${describe(found, field?.secret)}${quoteHint(found, field)}` }
  ]
}

/** The Field of the value, or of what it is a part of. */
function nearestField(schema: z.core.$ZodType, path: Path): Field | undefined {
  const field = nodeAt(schema, path)?.field
  return field || path.length === 0 ? field : nearestField(schema, path.slice(0, -1))
}

function unknownKey(key: string, known: string[]): string {
  const meant = nearest(key, known)
  if (meant) return `unknown key; did you mean ${meant}?`
  return known.length > 0 ? `unknown key; the keys here are ${known.join(', ')}` : 'unknown key'
}

function valueAt(value: unknown, path: Path): unknown {
  let here = value
  for (const step of path) {
    if (typeof here !== 'object' || here === null || !Object.hasOwn(here, step)) return undefined
    here = (here as Record<string | number, unknown>)[step]
  }
  return here
}

function describe(found: unknown, secret: true | undefined): string {
  if (found === null) return 'nothing'
  if (Array.isArray(found)) return 'a list'
  if (secret && typeof found !== 'object')
    return typeof found === 'string' ? 'other text' : `a ${typeof found}`
  if (typeof found === 'number') return `the number ${found}`
  if (typeof found === 'boolean') return String(found)
  if (typeof found !== 'string') return 'a mapping'
  return found.length > SHOWN_CHARS ? `"${found.slice(0, SHOWN_CHARS)}…"` : `"${found}"`
}

/** YAML reads 8443 as a number and true as a boolean; quotes make text of them. */
function quoteHint(found: unknown, field: Field | undefined): string {
  const isUnquoted = typeof found === 'number' || typeof found === 'boolean'
  if (!isUnquoted || field?.type !== 'text') return ''
  return field.secret ? ' (put text in quotes)' : ` (put text in quotes: "${found}")`
}
