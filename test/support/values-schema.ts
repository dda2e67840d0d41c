/**
 * The values.schema.json of a Helm chart (JSON Schema draft 7, which Helm knows), made of chart-values.ts: types,
 * bounds and sentences are those of the configuration's own schema, and a key that it does not know is refused.
 */
import { fieldOf } from '@tendril/common/config/fields'
import * as z from 'zod'
import { charts, neededByCharts } from './chart-values.js'

type Json = { [key: string]: unknown }

export type ChartName = keyof typeof charts
export const chartNames = Object.keys(charts) as ChartName[]

/** Forms of text that JSON Schema can check. The rest is checked by the program, which says more. */
const PATTERNS: Record<string, string> = {
  duration: '^[0-9]{1,15}(\\.[0-9]{1,6})? ?(ms|s|m|h|d)$',
  size: '^[0-9]{1,15}(\\.[0-9]{1,6})? ?(B|KiB|MiB|GiB)$',
  address: '(^unix:.+$)|(:[0-9]{1,5}$)'
}

/** The type of file fields while the schema is made; `prune` takes them away. */
const FILE = 'x-file'

export function valuesSchema(chart: ChartName): string {
  const made = z.toJSONSchema(charts[chart].values, {
    io: 'input',
    target: 'draft-7',
    unrepresentable: 'any',
    override: ({ zodSchema, jsonSchema }) => {
      const field = fieldOf(zodSchema)
      if (field?.about) jsonSchema.description = field.about
      const pattern = field && PATTERNS[field.type]
      if (pattern) jsonSchema.pattern = pattern
      if (field?.type === 'file') (jsonSchema as Json)[FILE] = true
    }
  }) as Json
  const config = (made['properties'] as Record<string, Json>)['config']!
  prune(config, '', new Set<string>(charts[chart].filledIn))
  config['required'] = [...(config['required'] as string[]), ...neededByCharts]
  return `${JSON.stringify(made, null, 2)}\n`
}

/** Takes away files (and sections of nothing else), and no longer asks for what the chart fills in. */
function prune(schema: Json, path: string, filledIn: Set<string>): void {
  const items = schema['items'] as Json | undefined
  if (items) prune(items, path, filledIn)
  const properties = schema['properties'] as Record<string, Json> | undefined
  if (!properties) return
  const here = (key: string) => (path === '' ? key : `${path}.${key}`)
  for (const [key, value] of Object.entries(properties)) {
    const hadKeys = value['properties'] !== undefined
    prune(value, here(key), filledIn)
    const isEmpty = hadKeys && Object.keys(value['properties'] as Json).length === 0
    if (value[FILE] || isEmpty) Reflect.deleteProperty(properties, key)
  }
  const required = (schema['required'] as string[] | undefined)?.filter(
    key => Object.hasOwn(properties, key) && !filledIn.has(here(key))
  )
  if (required && required.length > 0) schema['required'] = required
  else delete schema['required']
}
