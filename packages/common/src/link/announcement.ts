/** What two sides of a link tell each other beside the session (docs/protocol.md §6.4): state, said as JSON. */
import { TunnelError } from '../errors.js'

export type Note = {
  /** From a server: ids of all servers of this cluster. */
  members?: string[]
  /** From a client: CIDRs, addresses and host names that it serves best. */
  routes?: string[]
}

/** Most entries of a list that are read. */
export const NOTE_ENTRIES_LIMIT = 1_024

/** Reads a note; fields that are not known are ignored. @throws TunnelError PROTOCOL_ERROR when it is no note. */
export function readNote(text: string): Note {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new TunnelError('PROTOCOL_ERROR', 'a note is JSON', { cause: error })
  }
  if (typeof value !== 'object' || value === null)
    throw new TunnelError('PROTOCOL_ERROR', 'a note is an object')
  const { members, routes } = value as Record<string, unknown>
  return {
    ...(members !== undefined && { members: readNames(members, 'members') }),
    ...(routes !== undefined && { routes: readNames(routes, 'routes') })
  }
}

function readNames(value: unknown, field: string): string[] {
  const fits = Array.isArray(value) && value.length <= NOTE_ENTRIES_LIMIT
  if (fits && value.every((name): name is string => typeof name === 'string' && name.length <= 255))
    return value
  throw new TunnelError(
    'PROTOCOL_ERROR',
    `${field} of a note is a list of at most ${NOTE_ENTRIES_LIMIT} names`
  )
}
