/**
 * Holds a connection to a server to the certificate that the server has shown: when it expires, or when its authority
 * is no longer in our file, the connection is dropped, and not the link over it. The link goes on over the next
 * connection, for which the server is verified anew: streams to a server whose certificate was renewed survive, and to
 * another one no byte is sent until `link.resumeWindow` ends them. (A server ends the link instead: it cannot dial, and
 * callers would wait for a client that is not let in any more.)
 */
import type { TLSSocket } from 'node:tls'
import type { Carrier } from '../carrier.js'
import { TunnelError } from '../errors.js'
import type { AdmittedCertificates } from './admitted.js'
import { readIdentity } from './identity.js'

/**
 * `socket`: the TLS to the server, verified, under `carrier`. Without one there is nothing to hold to.
 * @returns how long the connection may live, in milliseconds; Infinity without an end.
 */
export function holdToServerCertificate(
  carrier: Carrier,
  socket: TLSSocket | undefined,
  servers: AdmittedCertificates
): number {
  // Read once: on a client's socket Node takes the certificate off the chain, and the next call gives its issuer or
  // none.
  const certificate = socket?.getPeerX509Certificate()
  // A socket that is closed has none.
  if (!certificate) return Infinity
  const identity = readIdentity(certificate, 'SERVER_NOT_IDENTIFIED')
  const drop = ({ detail = '' }: TunnelError): void =>
    carrier.terminate(new TunnelError('LINK_LOST', `the server's ${detail}`))
  const release = servers.add({ getPeerX509Certificate: () => certificate }, identity, drop)
  carrier.on('close', release)
  return servers.leftMs(identity)
}
