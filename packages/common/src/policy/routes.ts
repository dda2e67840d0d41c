/**
 * Routes: networks, addresses and host names that a client says it serves best, which of them its cluster may announce,
 * and how closely they fit a target. Pure; who is asked first is the registry's matter. Names are compared as DNS does,
 * without regard to case or a final dot.
 */
import { type Network, contains, facesOf, isInside, readAddress, readNetwork } from './networks.js'

/** `name` is a host name; `suffix` is what follows the `*` of a wildcard, so it is empty or begins with a dot. */
export type Route = { network: Network } | { name: string } | { suffix: string }

/** What `readRoute` accepts, in words, for error messages. */
export const ROUTE_FORM =
  'a network (10.0.0.0/8), an address, a host name, *.example.com or * for all names, with no bits set behind a mask'

/** Longer than any suffix: a name that is given in full fits best. */
const EXACT_NAME = 256

const NAME = /^(?=.{1,253}$)[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*$/

/** Undefined when the text is none of the forms. */
export function readRoute(text: string): Route | undefined {
  const network = readNetwork(text)
  if (network) return { network }
  if (text === '*') return { suffix: '' }
  const wildcard = text.startsWith('*.')
  const name = plain(wildcard ? text.slice('*.'.length) : text)
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

/**
 * How closely routes fit a host (an address without brackets, or a name): the longest prefix, suffix or full name
 * among them; 0 for those of a client that announced none; -1 when it announced others.
 */
export function fit(routes: readonly Route[], host: string): number {
  if (routes.length === 0) return 0
  const address = readAddress(host)
  const face = address && facesOf(address)[0]
  const name = plain(host)
  const fits = routes.map(route => {
    if ('network' in route) return face && contains(route.network, face) ? route.network.bits : -1
    if (face) return -1
    if ('name' in route) return route.name === name ? EXACT_NAME : -1
    return name.endsWith(route.suffix) ? route.suffix.length : -1
  })
  return Math.max(...fits)
}

function covers(outer: Route, inner: Route): boolean {
  if ('network' in outer) return 'network' in inner && isInside(inner.network, outer.network)
  if ('network' in inner) return false
  if ('name' in outer) return 'name' in inner && inner.name === outer.name
  return ('name' in inner ? inner.name : inner.suffix).endsWith(outer.suffix)
}

function plain(name: string): string {
  return name.toLowerCase().replace(/\.$/, '')
}
