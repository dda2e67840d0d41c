/**
 * Which Host headers the admin listener answers. A page in a browser may make its own name resolve to this address (DNS
 * rebinding) and then read what is served here as its own; the browser tells its name in Host. Addresses, `localhost`
 * and names without a dot belong to no page on the internet; other names have to be in the configuration.
 */
import { isIP } from 'node:net'

/**
 * True when a request with this Host may be answered. One without comes from HTTP/1.0, which no browser speaks.
 * @param allowed names, `*.` in front stands for any name below
 */
export function isHostAllowed(host: string | undefined, allowed: readonly string[]): boolean {
  if (host === undefined) return true
  const name = nameOf(host)
  if (name === undefined) return false
  if (isIP(name) !== 0 || !name.includes('.')) return true
  return allowed.some(pattern => {
    const entry = pattern.toLowerCase()
    return entry.startsWith('*.') ? name.endsWith(entry.slice(1)) && name !== entry.slice(1) : name === entry
  })
}

/** RFC 9110 §7.2: host, or host and port. Brackets and a final dot are dropped; undefined when it is neither. */
function nameOf(host: string): string | undefined {
  const [, bracketed, plain] =
    /^(?:\[([0-9a-fA-F:.]+)\]|([a-zA-Z0-9._-]+?)\.?)(?::\d{1,5})?$/.exec(host) ?? []
  if (bracketed !== undefined) return isIP(bracketed) === 6 ? bracketed : undefined
  return plain?.toLowerCase()
}
