/**
 * The target of every benchmark, a process of its own: one listener whose streams are a source, a sink or an
 * echo, by their first byte (protocol.ts). Not a realistic pod: it must cost as little as Node can.
 */
import type { AddressInfo, Socket } from 'node:net'
import { acceptServer } from './accept.js'
import { ROLE, type Listening, type TargetReply, type TargetRequest } from './protocol.js'

/**
 * libuv fills the buffer up to 32 times before it turns to the next socket: larger ones are a little faster and make an
 * upload delay the echoes beside it.
 */
const BUFFER_BYTES = 128 * 1024
const BACKLOG = 4096

const host = process.argv[2] ?? '127.0.0.1'
/** Shared by all sockets: `onread` hands each read over before the next one begins. */
const buffer = Buffer.allocUnsafe(BUFFER_BYTES)
const payload = Buffer.alloc(BUFFER_BYTES, 'tendril-bench-')
let upBytes = 0

const server = acceptServer(() => {
  let socket: Socket | undefined
  let role: number | undefined

  const read = (length: number): boolean => {
    const first = role === undefined
    role ??= buffer[0]
    if (role === ROLE.up) upBytes += length
    else if (role === ROLE.echo) return echo(first ? 1 : 0, length)
    else if (first) pour()
    return true
  }
  const echo = (from: number, to: number): boolean => {
    if (from === to) return true
    return socket?.write(Buffer.from(buffer.subarray(from, to))) ?? false
  }
  const pour = (): void => {
    while (socket?.writable && socket.write(payload));
  }

  return {
    onread: { buffer, callback: read },
    begin(accepted: Socket) {
      socket = accepted
      socket.on('drain', () => (role === ROLE.down ? pour() : socket?.resume()))
      socket.on('end', () => (role === ROLE.down ? socket?.destroy() : socket?.end()))
      socket.on('error', () => socket?.destroy())
    }
  }
})

process.on('message', (request: TargetRequest) => {
  const reply: TargetReply = { id: request.id, atMs: performance.now(), upBytes }
  process.send?.(reply)
})
process.on('disconnect', () => process.exit())

server.listen({ host, port: 0, backlog: BACKLOG }, () => {
  const { address, port } = server.address() as AddressInfo
  const ready: Listening = { listening: { host: address, port } }
  process.send?.(ready)
})
