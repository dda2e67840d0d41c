/**
 * Who asks for a dial, as it travels with the dial from the front to the target. A Principal is made where an identity
 * is verified (identity/principal-of.ts, the fronts), and whoever passes the dial on passes it on unchanged. What a
 * principal may do is for policies to decide.
 */

export type Principal =
  /** Somebody with a certificate that a front accepts: kube-apiserver, Prometheus, a person. */
  | { kind: 'caller'; name: string }
  /** A shoot-client. `cluster` is the one that its certificate is for. */
  | { kind: 'client'; name: string; cluster: string }
  /** A seed-server that asks for itself. */
  | { kind: 'server'; name: string }
  /**
   * Somebody without a certificate, let in by a front on a Unix socket or on loopback. The name is the front's,
   * `unix:NAME` or `loopback:NAME`: Node has no SO_PEERCRED, so which user or process it is cannot be known. A kind of
   * its own, because a certificate may carry any name: no caller can have the same kind and name as a front.
   */
  | { kind: 'local'; name: string }

/** Who may be at the other end of a link. */
export type LinkPrincipal = Extract<Principal, { kind: 'client' | 'server' }>

/** Most bytes of a principal's name, after escaping. */
export const PRINCIPAL_NAME_LIMIT = 255

/**
 * A name of any text: bytes that are not visible ASCII, and `%`, are written as in a URL (RFC 3986 §2.1), so that
 * different texts have different names and no name breaks a log line. What exceeds the limit is cut, and ends with a
 * `%` that no other name ends with.
 */
export function principalName(text: string): string {
  const name = Buffer.from(text)
    .toString('latin1')
    .replace(/[^\x21-\x7e]|%/g, byte => `%${byte.charCodeAt(0).toString(16).padStart(2, '0')}`)
  if (name.length <= PRINCIPAL_NAME_LIMIT) return name
  return `${name.slice(0, PRINCIPAL_NAME_LIMIT - 3).replace(/%.?$/, '')}%`
}

/** As log lines have it: `caller/kube-apiserver`, `client/demo/node-1`, `server/seed-1`, `local/unix:demo`. */
export function formatPrincipal(principal: Principal): string {
  const { kind, name } = principal
  return principal.kind === 'client' ? `client/${principal.cluster}/${name}` : `${kind}/${name}`
}
