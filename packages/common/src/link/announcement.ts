/**
 * Announcements: the state that one side of a link sends to the other beside the session, as JSON (docs/protocol.md
 * §6.4).
 */
import { TunnelError } from '../errors.js'

export type Announcement = {
  /** From a server: ids of all servers of this cluster. */
  members?: string[]
  /** From a client: CIDRs, addresses and host names that it announces. */
  routes?: string[]
}

/** Most entries of a list that are read. */
export const ANNOUNCEMENT_ENTRIES_LIMIT = 1_024

/**
 * Reads an announcement; fields that are not known are ignored. @throws TunnelError PROTOCOL_ERROR when it is not one.
 */
export function readAnnouncement(text: string): Announcement {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new TunnelError('PROTOCOL_ERROR', 'an announcement is JSON', { cause: error })
  }
  if (typeof value !== 'object' || value === null)
    throw new TunnelError('PROTOCOL_ERROR', 'an announcement is an object')
  const { members, routes } = value as Record<string, unknown>
  return {
    ...(members !== undefined && { members: readNames(members, 'members') }),
    ...(routes !== undefined && { routes: readNames(routes, 'routes') })
  }
}

function readNames(value: unknown, field: string): string[] {
  const fits = Array.isArray(value) && value.length <= ANNOUNCEMENT_ENTRIES_LIMIT
  if (fits && value.every((name): name is string => typeof name === 'string' && name.length <= 255))
    return value
  throw new TunnelError(
    'PROTOCOL_ERROR',
    `${field} of an announcement is a list of at most ${ANNOUNCEMENT_ENTRIES_LIMIT} names`
  )
}
