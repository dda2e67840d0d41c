/**
 * The connection between workers of one seed-server: a WebSocket over a Unix socket, as between replicas but without
 * TLS. Who may open the socket is decided by its directory (mode 0700, made by the primary), so nobody is asked for a
 * certificate.
 */
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { type Server, type Socket, connect as connectSocket, createServer } from 'node:net'
import { type Clock, TunnelError, systemClock } from '@tendril/common'
import { listenAt, listenOptions } from '@tendril/common/listen-address'
import { connect } from '@tendril/common/transport/connect'
import type { Upgraded } from '@tendril/common/transport/upgrade'
import { websocketOptions } from '@tendril/common/transport/websocket'
import type { WebSocket } from 'ws'
import { SERVERS, formatParty } from '../party.js'
import { HEADER_LIMIT_BYTES } from './acceptor.js'
import { CLUSTER_HEADER, Upgrader } from './upgrader.js'

export type SiblingListenerOptions = {
  path: string
  /** Headers of the answer to an upgrade. */
  answerHeaders: Readonly<Record<string, string>>
  /** Listeners on `websocket` are to be attached before returning. */
  onConnection: (websocket: WebSocket, socket: Socket) => void
  clock?: Clock
}

export type SiblingListener = {
  /** Ends every connection as well. Safe to call twice. */
  close(): Promise<void>
}

/** @throws TunnelError LISTEN_FAILED when the path cannot be had. */
export async function listenSiblings(options: SiblingListenerOptions): Promise<SiblingListener> {
  const { path, answerHeaders, onConnection, clock = systemClock } = options
  const upgrader = new Upgrader({
    headerLimitBytes: HEADER_LIMIT_BYTES,
    websocketOptions,
    answerHeaders,
    clock
  })
  const sockets = new Set<Socket>()
  const server: Server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
    upgrader.serve(socket, {
      cluster: formatParty(SERVERS),
      objection: () => undefined,
      onRefused: () => {},
      onUpgraded: websocket => onConnection(websocket, socket)
    })
  })
  // This worker's alone, where the other listeners of a worker are shared.
  await listenAt(server, 'workers', { path }, () => {
    // What a worker that was killed left here, in whose place this one is.
    rmSync(path, { force: true })
    server.listen({ ...listenOptions({ path }), exclusive: true })
  })
  return {
    async close() {
      const closed = server.listening ? once(server, 'close') : undefined
      server.close()
      for (const socket of sockets) socket.destroy()
      await closed
    }
  }
}

/** One attempt to reach the sibling that listens at `path`. Rejects as `connect` does. */
export function connectSibling(
  path: string,
  { signal, timeoutMs }: { signal: AbortSignal; timeoutMs?: number }
): Promise<Upgraded> {
  return connect(
    { url: 'ws://sibling' },
    {
      connector: (_, attempt) => openSocket(path, attempt.signal),
      headers: { [CLUSTER_HEADER]: formatParty(SERVERS) },
      ...(timeoutMs !== undefined && { timeoutMs }),
      signal
    }
  )
}

function openSocket(path: string, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connectSocket({ path })
    const onAbort = (): void => void socket.destroy(signal.reason as Error)
    signal.addEventListener('abort', onAbort, { once: true })
    // Stays: a connection broken before its new owner listens must not end the process.
    socket.on('error', error => {
      signal.removeEventListener('abort', onAbort)
      reject(
        signal.aborted
          ? signal.reason
          : new TunnelError('SERVER_UNREACHABLE', `unix:${path}: ${error.message}`, { cause: error })
      )
    })
    socket.once('connect', () => {
      signal.removeEventListener('abort', onAbort)
      resolve(socket)
    })
    if (signal.aborted) onAbort()
  })
}
