/** Listeners on loopback whose sockets are counted and closed with the test: servers, proxies, and hostile ones. */
import { EventEmitter, once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Server, Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import type { TlsOptions } from 'node:tls'
import type { Test } from 'tap'
import { WebSocketServer } from 'ws'
import type { WebSocket } from 'ws'

export type Listener = {
  port: number
  host: string
  sockets: Set<Socket>
  /** `heard`: bytes came. */
  events: EventEmitter
  /** Resolves when nobody is connected any more: the other side left no socket open. */
  deserted(): Promise<void>
}

export async function listen(
  t: Test,
  onSocket: (socket: Socket) => void,
  { tls, host = '127.0.0.1' }: { tls?: TlsOptions; host?: string } = {}
): Promise<Listener> {
  const sockets = new Set<Socket>()
  const events = new EventEmitter()
  const accept = (socket: Socket): void => {
    socket.on('error', () => {})
    onSocket(socket)
    // Does not make it flow: that is up to who accepts it.
    if (socket.readableFlowing) socket.on('data', () => events.emit('heard'))
  }
  const server: Server = tls ? createTlsServer(tls, accept) : createServer(accept)
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.once('close', () => {
      sockets.delete(socket)
      server.emit('left')
    })
  })
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  server.listen(0, host)
  await once(server, 'listening')
  const deserted = async (): Promise<void> => {
    while (sockets.size > 0) await once(server, 'left')
  }
  return { port: (server.address() as AddressInfo).port, host, sockets, events, deserted }
}

export type TunnelServer = Listener & {
  /** What clients asked for, in order. */
  requests: { path: string; headers: IncomingHttpHeaders; serverName: unknown }[]
}

/** A server that upgrades to WebSocket, or answers what `refuse` says. Says `hello` with the answer to the upgrade. */
export async function tunnelServer(
  t: Test,
  tls: TlsOptions | undefined,
  { refuse, host }: { refuse?: string; host?: string } = {}
): Promise<TunnelServer> {
  const requests: TunnelServer['requests'] = []
  const upgrades = new WebSocketServer({ noServer: true })
  const http = createHttpServer()
  http.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
    requests.push({
      path: request.url ?? '',
      headers: request.headers,
      serverName: 'servername' in socket && socket.servername
    })
    if (refuse !== undefined) return void socket.end(refuse)
    // Corked: the first message shares a segment with the header.
    socket.cork()
    upgrades.handleUpgrade(request, socket, head, (websocket: WebSocket) => {
      websocket.send('hello')
      websocket.on('message', data => websocket.send(data))
    })
    socket.uncork()
  })
  const listener = await listen(t, socket => http.emit('connection', socket), {
    ...(tls && { tls }),
    ...(host && { host })
  })
  return { ...listener, requests }
}

export type ProxyServer = Listener & {
  /** Heads of the CONNECTs, as they came. */
  heads: string[]
}

/** A CONNECT proxy that lets everybody through to `to`, or only those whose head `refuse` answers undefined to. */
export async function proxyServer(
  t: Test,
  {
    tls,
    to,
    refuse = () => undefined,
    accept = 'HTTP/1.1 200 Connection established\r\n\r\n'
  }: {
    tls?: TlsOptions
    to?: { host: string; port: number }
    refuse?: (head: string) => string | undefined
    /** What is answered to whom it lets through. */
    accept?: string
  } = {}
): Promise<ProxyServer> {
  const heads: string[] = []
  const listener = await listen(
    t,
    socket => {
      let received = ''
      const onData = (chunk: Buffer): void => {
        received += chunk.toString('latin1')
        if (!received.includes('\r\n\r\n')) return
        socket.off('data', onData)
        heads.push(received)
        const answer = refuse(received)
        if (answer !== undefined) return void socket.end(answer)
        const [, host = '', port = ''] = /^CONNECT (?:\[(.*)\]|[^:]*):(\d+) /.exec(received) ?? []
        const far = connect(to ?? { host: host || '127.0.0.1', port: Number(port) })
        far.on('error', () => socket.destroy())
        far.once('connect', () => {
          socket.write(accept)
          socket.pipe(far).pipe(socket)
        })
        far.once('close', () => socket.destroy())
        socket.once('close', () => far.destroy())
      }
      socket.on('data', onData)
    },
    tls ? { tls } : {}
  )
  return { ...listener, heads }
}
