/**
 * When a seed-server is ready: a client is connected for every cluster marked `required`; where none is, for any
 * cluster at all. Pure: who is connected comes in as a function.
 */
import type { Readiness } from '@tendril/common/admin/admin-listener'

export type ReadinessOptions = {
  clusters: readonly { name: string; required: boolean }[]
  /** How many clients of a cluster take dials now. */
  clientsOf: (cluster: string) => number
}

export function readiness({ clusters, clientsOf }: ReadinessOptions): Readiness {
  const counted = clusters.map(({ name, required }) => ({ name, required, clients: clientsOf(name) }))
  const required = counted.filter(cluster => cluster.required)
  const ok =
    required.length > 0
      ? required.every(({ clients }) => clients > 0)
      : counted.some(({ clients }) => clients > 0)
  return { ok, reasons: counted.map(sentenceOf) }
}

function sentenceOf({
  name,
  required,
  clients
}: {
  name: string
  required: boolean
  clients: number
}): string {
  const connected =
    clients === 0 ? 'no client connected' : `${clients} ${clients === 1 ? 'client' : 'clients'} connected`
  return `cluster ${name}${required ? ' (required)' : ''}: ${connected}`
}
