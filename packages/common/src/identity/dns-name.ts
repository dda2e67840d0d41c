/**
 * DNS names as they are compared: in any case, and without the final dot, which says "from the root" to a resolver and
 * has no place in certificates and in SNI (RFC 6066 §3). Not for what is looked up: there the dot has its meaning.
 */

/** `Vpn.Example.org.` → `vpn.example.org` */
export function foldDnsName(name: string): string {
  return withoutFinalDot(name).toLowerCase()
}

/** `vpn.example.org.` → `vpn.example.org`. The root itself is left as it is. */
export function withoutFinalDot(name: string): string {
  return name.length > 1 && name.endsWith('.') ? name.slice(0, -1) : name
}
