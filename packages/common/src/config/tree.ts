/**
 * A configuration schema seen as a tree of keys: what stands at a path, which keys there are, and a walk over a
 * value with the schema beside it. Everything that is not validation (docs, variables, masks, paths) is made of it.
 */
import * as z from 'zod'
import { type Field, fieldOf } from './fields.js'

export type Path = readonly (string | number)[]
type Schema = z.core.$ZodType

/** A schema without its wrappers, and what the wrappers said. */
export type Node = { schema: Schema; field: Field | undefined; optional: boolean; preset: unknown }

/** One line of docs/configuration.md. */
export type Key = { path: string; env: string | undefined; field: Field; required: boolean; preset: unknown }

export function unwrap(schema: Schema): Node {
  const node: Node = { schema, field: fieldOf(schema), optional: false, preset: undefined }
  for (;;) {
    const { schema: outer } = node
    if (outer instanceof z.ZodOptional) node.optional = true
    else if (outer instanceof z.ZodDefault || outer instanceof z.ZodPrefault) {
      node.optional = true
      node.preset = outer.def.defaultValue
    } else return node
    node.schema = outer.def.innerType
    node.field ??= fieldOf(node.schema)
  }
}

/** What the schema says about the value at `path`; undefined where it knows no such key. */
export function nodeAt(schema: Schema, path: Path): Node | undefined {
  const node = unwrap(schema)
  const [head, ...rest] = path
  if (head === undefined) return node
  const inner = childOf(node.schema, head)
  return inner && nodeAt(inner, rest)
}

function childOf(schema: Schema, key: string | number): Schema | undefined {
  if (schema instanceof z.ZodObject)
    return Object.hasOwn(schema.shape, key) ? shapeOf(schema)[key] : undefined
  if (schema instanceof z.ZodArray) return schema.def.element
  if (schema instanceof z.ZodRecord) return schema.def.valueType
  return undefined
}

function shapeOf(schema: z.ZodObject): Record<string, Schema> {
  return schema.shape
}

/** The names of the keys a mapping may have; none for anything that is not a mapping. */
export function keysOf(schema: Schema): string[] {
  return schema instanceof z.ZodObject ? Object.keys(schema.shape) : []
}

/** Copies `value`, each part that has a Field and no keys of its own replaced by what `visit` makes of it. */
export function mapFields(
  schema: Schema,
  value: unknown,
  visit: (field: Field, value: unknown) => unknown
): unknown {
  const node = unwrap(schema)
  if (value === undefined || value === null) return value
  if (node.schema instanceof z.ZodArray && Array.isArray(value)) {
    const { element } = node.schema.def
    return value.map(item => mapFields(element, item, visit))
  }
  if (node.schema instanceof z.ZodObject && typeof value === 'object' && !Array.isArray(value)) {
    const shape = shapeOf(node.schema)
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [
        key,
        Object.hasOwn(shape, key) && shape[key] ? mapFields(shape[key], item, visit) : item
      ])
    )
  }
  return node.field ? visit(node.field, value) : value
}

/**
 * Every key below `schema`, in the order it was written. Keys inside lists read `fronts[].name` and have no variable.
 */
export function listKeys(schema: Schema, prefix: string, path = '', env = prefix): Key[] {
  const node = unwrap(schema)
  const { field, preset } = node
  const own: Key[] =
    path !== '' && !path.endsWith('[]') && field
      ? [{ path, env: env || undefined, field, required: !node.optional, preset }]
      : []
  if (node.schema instanceof z.ZodArray)
    return [...own, ...listKeys(node.schema.def.element, prefix, `${path}[]`, '')]
  if (!(node.schema instanceof z.ZodObject)) return own
  const inner = Object.entries(shapeOf(node.schema)).flatMap(([key, child]) =>
    listKeys(child, prefix, path === '' ? key : `${path}.${key}`, env ? env + variablePart(key) : '')
  )
  return [...own, ...inner]
}

/** clientCa → _CLIENT_CA */
function variablePart(key: string): string {
  return `_${key.replace(/([a-z0-9])([A-Z])/g, '$1_$2').toUpperCase()}`
}
