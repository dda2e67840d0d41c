/**
 * One HTTP CONNECT over a socket that is open already: how a proxy is asked for the way on. Written here
 * rather than left to Node's HTTP client, which takes an interim answer for the final one and refuses for fields that a
 * CONNECT is to ignore. RFC 9110 section 9.3.6; what is read of the answer is in connect-answer.ts.
 */
import type { Socket } from 'node:net'
import { TunnelError } from '@tendril/common'
import type { Destination } from '@tendril/common/transport/destination'
import { formatHostPort } from '@tendril/common/wire/host-port'
import { AnswerError, type ConnectAnswer, ConnectAnswerParser } from './connect-answer.js'

export type HopOptions = {
  /** For sentences: `proxy http://proxy:3128`, without credentials. */
  name: string
  destination: Destination
  headers?: Readonly<Record<string, string>>
  signal: AbortSignal
}

/** Most bytes of an answer's header, interim answers included. Proxies send a few hundred. */
export const HOP_HEADER_LIMIT_BYTES = 16 * 1024

/**
 * Resolves with the same socket, leading to `destination` now and with nothing read. Rejects with `PROXY_REFUSED`,
 * carrying the status line, with `BAD_CONFIG` for headers that cannot be sent, or with the signal's reason; the socket
 * is the caller's to destroy then.
 */
export function requestHop(
  socket: Socket,
  { name, destination, headers = {}, signal }: HopOptions
): Promise<Socket> {
  const head = headOf(formatHostPort(destination), headers)
  return new Promise((resolve, reject) => {
    const parser = new ConnectAnswerParser(HOP_HEADER_LIMIT_BYTES)
    const refused = (why: string, cause?: unknown): TunnelError =>
      new TunnelError('PROXY_REFUSED', `${name} ${why}`, { cause })

    const settle = (act: () => void): void => {
      signal.removeEventListener('abort', onAbort)
      socket.off('data', onData).off('end', onEnd).off('close', onEnd).off('error', onError)
      socket.pause()
      // As Node's HTTP client hands a socket over: it flows when the next one listens, as a fresh one does.
      Object.assign(socket, { readableFlowing: null })
      act()
    }
    const fail = (error: unknown): void => settle(() => reject(signal.aborted ? signal.reason : error))
    const onAbort = (): void => fail(signal.reason)
    const onEnd = (): void => fail(refused('closed the connection without an answer'))
    const onError = (error: NodeJS.ErrnoException): void =>
      error.code === 'ECONNRESET' || error.code === 'EPIPE' ? onEnd() : fail(refused(error.message, error))
    const onData = (chunk: Buffer): void => {
      let answer: ConnectAnswer | undefined
      try {
        answer = parser.feed(chunk)
      } catch (error) {
        const overflow = error instanceof AnswerError && error.kind === 'overflow'
        return fail(
          refused(
            overflow
              ? `answered with more than ${HOP_HEADER_LIMIT_BYTES} bytes of header`
              : 'did not answer in HTTP',
            error
          )
        )
      }
      if (!answer) return
      const { status, reason, rest } = answer
      if (status < 200 || status > 299) return fail(refused(`answered ${explain(status, reason)}`))
      settle(() => {
        if (rest.length > 0) socket.unshift(rest)
        resolve(socket)
      })
    }
    if (signal.aborted) return reject(signal.reason)
    if (socket.destroyed) return reject(refused('closed the connection without an answer'))
    signal.addEventListener('abort', onAbort)
    socket.on('data', onData).on('end', onEnd).on('close', onEnd).on('error', onError)
    socket.write(head, 'latin1')
  })
}

/** RFC 9110 section 5.5: a value has no control characters but HTAB, and no characters beyond one byte. */
const FIELD_VALUE = /^[\t\x20-\x7e\x80-\xff]*$/
const FIELD_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/

function headOf(authority: string, headers: Readonly<Record<string, string>>): string {
  const lines = Object.entries({ Host: authority, ...headers }).map(([name, value]) => {
    if (!FIELD_NAME.test(name) || !FIELD_VALUE.test(value))
      throw new TunnelError('BAD_CONFIG', `the header ${name.slice(0, 60)} of a CONNECT cannot be sent`)
    return `${name}: ${value}\r\n`
  })
  return `CONNECT ${authority} HTTP/1.1\r\n${lines.join('')}\r\n`
}

function explain(status: number, reason: string): string {
  const hint = status === 407 ? ', which asks for credentials: put user and password into the proxy URL' : ''
  return `${status} ${reason.slice(0, 200)}`.trimEnd() + hint
}
