/** Refuses a connection: a small HTTP answer with the code of the error, then an orderly end. */
import type { Duplex } from 'node:stream'
import type { Clock, TunnelError } from '@tendril/common'

/** The code by name, so that the client need not guess it from the status. */
export const ERROR_HEADER = 'Tendril-Error'

/** How long a refused peer may take to read the answer, in milliseconds. */
export const LINGER_MS = 1_000

/** Most characters of a reason phrase. */
const REASON_LIMIT = 200

/** Answers, ends, and reads what still comes for a short while: a close with unread input would eat the answer. */
export function refuse(
  socket: Duplex,
  error: TunnelError,
  clock: Clock,
  httpStatus = error.httpStatus
): void {
  if (socket.destroyed) return
  const timer = clock.after(LINGER_MS, () => socket.destroy())
  socket.once('close', () => timer.cancel())
  socket.on('error', () => {})
  socket.resume()
  socket.end(answer(error, httpStatus))
}

function answer(error: TunnelError, httpStatus: number): string {
  // A detail may quote the peer: visible ASCII only, or it could write header lines.
  const sentence = error.message.replace(/[^\x20-\x7e]/g, '?')
  const extra: Partial<Record<number, string>> = {
    // RFC 9110 §15.5.2 and §15.5.22 ask for these. No authentication scheme is registered for mutual TLS.
    401: 'WWW-Authenticate: TLS-Client-Certificate realm="tendril"\r\n',
    426: 'Upgrade: websocket\r\n'
  }
  return (
    `HTTP/1.1 ${httpStatus} ${sentence.slice(0, REASON_LIMIT)}\r\n` +
    'Content-Type: text/plain\r\n' +
    `Content-Length: ${sentence.length + 1}\r\n` +
    'Connection: close\r\n' +
    `${ERROR_HEADER}: ${error.code}\r\n` +
    (extra[httpStatus] ?? '') +
    `\r\n${sentence}\n`
  )
}
