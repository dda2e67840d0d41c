/**
 * kube-apiserver's egress dialer (protocol HTTPConnect), imitated byte for byte: what it sends, what it accepts, and
 * the words in which it refuses. One new connection per dial, never reused. Follows k8s.io/apiserver
 * egressselector and Go's net/http.ReadResponse, which decide what a front must do.
 */
import { request, type IncomingHttpHeaders } from 'node:http'
import { connect as connectTcp, isIP, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { connect as connectTls, type ConnectionOptions } from 'node:tls'

/** Go's bufio.NewReader reads this much at once: what arrives together with the header is seen, and refused. */
const BUFIO_BYTES = 4096
/** http.ReadResponse gives up on a header larger than this (Kubernetes 1.35 and later). */
const HEADER_LIMIT_BYTES = 1024 * 1024

export type Front = { host: string; port: number } | { path: string }

export type ApiserverOptions = {
  front: Front
  /** Absent: plaintext, as over a Unix socket. `servername` is tlsServerName of Kubernetes 1.36. */
  tls?: {
    ca: string | Buffer
    cert?: string | Buffer
    key?: string | Buffer
    servername?: string
    maxVersion?: 'TLSv1.2' | 'TLSv1.3'
  }
  /** In Go's dial form: `10.0.0.5:10250`, `[2001:db8::5]:10250`, `name:port`. */
  addr: string
  /** Unlike the original, which bounds only the connect stage, this ends the CONNECT stage too: the caller leaves. */
  signal?: AbortSignal
}

/** Dials `addr` through the front. Resolves to the tunnelled connection, or rejects with the text kube-apiserver logs. */
export async function apiserverDial(options: ApiserverOptions): Promise<Duplex> {
  const { addr, signal } = options
  const socket = await connectFront(options)
  const proxy = 'path' in options.front ? options.front.path : `${options.front.host}:${options.front.port}`
  return new Promise((resolve, reject) => {
    let head = Buffer.alloc(0)
    const leave = () => {
      fail(new Error('context canceled'))
    }
    const release = () => {
      signal?.removeEventListener('abort', leave)
      socket.off('data', socketOnData).off('end', socketOnEnd).off('error', fail).off('close', socketOnEnd)
    }
    const fail = (error: Error) => {
      release()
      // A late error of a socket that nobody owns any more must not end the process.
      socket.on('error', () => {})
      socket.destroy()
      reject(error)
    }
    const socketOnEnd = () => {
      fail(
        new Error(`reading HTTP response from CONNECT to ${addr} via proxy ${proxy} failed: unexpected EOF`)
      )
    }
    // One `data` event is one TLS record or one read of the kernel: the units in which Go's reader sees them.
    const socketOnData = (chunk: Buffer) => {
      head = Buffer.concat([head, chunk])
      const end = endOfHeader(head)
      if (end === -1) {
        if (head.length > HEADER_LIMIT_BYTES)
          fail(
            new Error(
              `reading HTTP response from CONNECT to ${addr} via proxy ${proxy} failed: unexpected EOF`
            )
          )
        return
      }
      socket.pause()
      const response = parseResponse(head.subarray(0, end).toString('latin1'))
      if (typeof response === 'string') {
        fail(
          new Error(`reading HTTP response from CONNECT to ${addr} via proxy ${proxy} failed: ${response}`)
        )
      } else if (response.code !== 200) {
        fail(
          new Error(
            `proxy error from ${proxy} while dialing ${addr}, code ${response.code}: ${response.status}`
          )
        )
      } else if (head.length > end) {
        // Of a read larger than the buffer, the buffer's size is all that Go has seen by now.
        const buffered = Math.min(head.length - end, BUFIO_BYTES)
        fail(new Error(`unexpected ${buffered} bytes of buffered data from CONNECT proxy "${proxy}"`))
      } else {
        release()
        // A tunnel that breaks while nobody listens must not end the process; who reads or writes next hears of it.
        socket.on('error', () => {})
        // Neither flowing nor paused, as a fresh socket is: whoever listens next starts it.
        Object.assign(socket, { readableFlowing: null })
        resolve(socket)
      }
    }
    socket.on('data', socketOnData).once('end', socketOnEnd).once('error', fail).once('close', socketOnEnd)
    signal?.addEventListener('abort', leave)
    socket.write(`CONNECT ${addr} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`)
    if (signal?.aborted) leave()
  })
}

/** The connect stage: TCP or Unix socket, then a full TLS handshake without ALPN, tickets or session. */
function connectFront({ front, tls, signal }: ApiserverOptions): Promise<Socket> {
  return new Promise((resolve, reject) => {
    let socket: Socket
    if (!tls) {
      socket = connectTcp({ ...front, allowHalfOpen: true })
    } else {
      const host = 'host' in front ? front.host : ''
      // Go sends no SNI for an IP literal, and neither does Node when `servername` is not given.
      const servername = tls.servername ?? (isIP(host) ? undefined : host)
      const { servername: _, ...material } = tls
      const options: ConnectionOptions & { allowHalfOpen: boolean } = {
        ...front,
        ...material,
        ...(servername ? { servername } : {}),
        minVersion: 'TLSv1.2',
        allowHalfOpen: true
      }
      socket = connectTls(options)
    }
    const leave = () => {
      socket.destroy(new Error('context canceled'))
    }
    const release = () => {
      signal?.removeEventListener('abort', leave)
      socket.off('error', onError).off('close', onClose)
    }
    const onError = (error: Error) => {
      release()
      socket.on('error', () => {})
      socket.destroy()
      reject(error)
    }
    const onClose = () => {
      onError(new Error('EOF'))
    }
    socket.once('error', onError).once('close', onClose)
    socket.once(tls ? 'secureConnect' : 'connect', () => {
      release()
      resolve(socket)
    })
    signal?.addEventListener('abort', leave)
    if (signal?.aborted) leave()
  })
}

/** Index behind the empty line, or -1. Go's textproto takes a bare LF for a line end as well. */
function endOfHeader(bytes: Buffer): number {
  for (let at = bytes.indexOf(10); at !== -1; at = bytes.indexOf(10, at + 1)) {
    if (bytes[at + 1] === 10) return at + 2
    if (bytes[at + 1] === 13 && bytes[at + 2] === 10) return at + 3
  }
  return -1
}

/** http.ReadResponse: the status line and the shape of the fields. A string says why the response is malformed. */
function parseResponse(text: string): { code: number; status: string } | string {
  const [statusLine = '', ...fields] = text.split(/\r?\n/)
  const match = /^(HTTP\/\d\.\d) +(\d{3})(?: (.*))?$/.exec(statusLine)
  if (!match) return `malformed HTTP response "${statusLine}"`
  for (const [index, field] of fields.entries()) {
    if (field === '') continue
    const continued = /^[ \t]/.test(field)
    if (continued ? index === 0 : !/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+:/.test(field))
      return `malformed MIME header line: ${field}`
  }
  return { code: Number(match[2]), status: `${match[2]!} ${match[3] ?? ''}` }
}

export type HttpAnswer = { status: number; headers: IncomingHttpHeaders; body: Buffer }

/** One HTTP request over a tunnelled connection, which is used up by it. */
export function httpGet(
  connection: Duplex,
  options: { path?: string; method?: string; headers?: Record<string, string>; body?: string | Buffer } = {}
): Promise<HttpAnswer> {
  return new Promise((resolve, reject) => {
    const call = request({
      createConnection: () => connection,
      method: options.method ?? 'GET',
      path: options.path ?? '/',
      headers: { host: 'pod', connection: 'close', ...options.headers }
    })
    call.once('error', reject)
    call.once('response', response => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.once('error', reject)
      response.once('end', () => {
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) })
      })
    })
    call.end(options.body)
  })
}
