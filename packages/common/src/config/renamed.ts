/**
 * Keys that have a new name. The old one is a key of the schema whose Field says `renamedTo`: it is read, checked and
 * documented like any other, and its value is then found under the new name only. Keys at the top level alone.
 */
import type * as z from 'zod'
import { keysOf, nodeAt } from './tree.js'

/** A key that was given by its old name. */
export type Renamed = { key: string; renamedTo: string }

/** Every old name in `schema` that `given` uses. */
export function renamedKeys(schema: z.core.$ZodType, given: unknown): Renamed[] {
  return keysOf(schema).flatMap(key => {
    const renamedTo = nodeAt(schema, [key])?.field?.renamedTo
    return renamedTo !== undefined && has(given, key) ? [{ key, renamedTo }] : []
  })
}

/** Whether the new name is given as well: then nobody can say which of the two counts. */
export function isGivenTwice(given: unknown, { renamedTo }: Renamed): boolean {
  return has(given, renamedTo)
}

/** A copy of `config` with the values under their new names. */
export function withNewNames<C>(config: C, renamed: readonly Renamed[]): C {
  const names = new Map(renamed.map(({ key, renamedTo }) => [key, renamedTo]))
  return Object.fromEntries(
    Object.entries(config as object).map(([key, value]) => [names.get(key) ?? key, value])
  ) as C
}

function has(given: unknown, key: string): boolean {
  return (
    typeof given === 'object' &&
    given !== null &&
    Object.hasOwn(given, key) &&
    (given as Record<string, unknown>)[key] !== undefined
  )
}
