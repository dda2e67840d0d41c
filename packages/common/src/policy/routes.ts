/**
 * Routes: networks, addresses and host names that a client says it serves best, and which of them its cluster may
 * announce. How closely they fit a target is found in route-index.ts. Names are compared as DNS does, without regard to
 * case or a final dot.
 */
import { type Network, isInside, readNetwork } from './networks.js'

/** `name` is a host name; `suffix` is what follows the `*` of a wildcard, so it is empty or begins with a dot. */
export type Route = { network: Network } | { name: string } | { suffix: string }

/** What `readRoute` accepts, in words, for error messages. */
export const ROUTE_FORM =
  'a network (10.0.0.0/8), an address, a host name, *.example.com or * for all names, with no bits set behind a mask'

const NAME = /^(?=.{1,253}$)[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*$/

/** Undefined when the text is none of the forms. */
export function readRoute(text: string): Route | undefined {
  const network = readNetwork(text)
  if (network) return { network }
  if (text === '*') return { suffix: '' }
  const wildcard = text.startsWith('*.')
  const name = plainName(wildcard ? text.slice('*.'.length) : text)
  // What looks like an address but is none (10.0.0.256, 10.1) was meant to be one.
  if (!NAME.test(name) || /^[0-9.]+$/.test(name)) return undefined
  return wildcard ? { suffix: `.${name}` } : { name }
}

/** Splits what a client announces into what its cluster may announce and what it may not, or nobody can read. */
export function sortRoutes(
  announced: readonly string[],
  allowed: readonly Route[]
): { routes: Route[]; refused: string[] } {
  const routes: Route[] = []
  const refused: string[] = []
  for (const text of announced) {
    const route = readRoute(text)
    if (route && allowed.some(outer => covers(outer, route))) routes.push(route)
    else refused.push(text)
  }
  return { routes, refused }
}

function covers(outer: Route, inner: Route): boolean {
  if ('network' in outer) return 'network' in inner && isInside(inner.network, outer.network)
  if ('network' in inner) return false
  if ('name' in outer) return 'name' in inner && inner.name === outer.name
  return ('name' in inner ? inner.name : inner.suffix).endsWith(outer.suffix)
}

/** As names are compared. */
export function plainName(name: string): string {
  return name.toLowerCase().replace(/\.$/, '')
}
