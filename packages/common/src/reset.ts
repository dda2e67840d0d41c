/** Ends a socket so that nobody takes what came over it for whole: with RST where there is one. */
import type { Socket } from 'node:net'

/** The TCP socket that a TLS socket is made of, which Node does not tell. */
const tcpOf = new WeakMap<Socket, Socket>()

/** From now on `resetSocket(tls)` says RST. A FIN, even without close_notify, is an end to Go and to Node. */
export function carriedBy(tls: Socket, tcp: Socket): void {
  tcpOf.set(tls, tcp)
  // What breaks is said by the TLS socket, too.
  tcp.on('error', () => {})
}

/**
 * RST for TCP, and for TLS if `carriedBy` said over what; a Unix socket has none and is destroyed, with `error`. While
 * libuv is shutting down the writing side (one turn of its loop) it refuses to reset (EINVAL), and Node then forgets
 * the handle unclosed: all bytes and the FIN are with the kernel by then, and closing loses nothing.
 */
export function resetSocket(socket: Socket, error?: Error): void {
  const tcp = 'encrypted' in socket ? tcpOf.get(socket) : socket
  const isTcp = tcp?.remoteFamily !== undefined
  const shuttingDown = socket.writableEnded && socket.writableLength === 0 && !socket.writableFinished
  if (isTcp && !shuttingDown) tcp.resetAndDestroy()
  else socket.destroy(isTcp ? undefined : error)
}
