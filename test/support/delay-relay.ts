/**
 * A TCP relay that adds latency in user space: every byte, and every FIN, leaves `delayMs` after it came, in order,
 * in each direction. Memory is bounded: when as much is under way as the limit says, reading stops. It adds delay
 * only, no loss and no rate limit.
 */
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { Teardown } from './targets.js'

/** Most bytes under way per direction and connection. 64 MiB at 50 ms allow 1.2 GiB/s. */
const LIMIT_BYTES = 64 * 1024 * 1024
/** A resolution that setTimeout keeps. */
const MINIMUM_MS = 1

export type DelayRelay = {
  host: string
  port: number
  connections(): number
  /** Bytes that have come and not left, in all directions of all connections that are open. */
  bytesHeld(): number
  close(): Promise<void>
}

export async function delayRelay(
  t: Teardown,
  options: {
    to: { host: string; port: number }
    delayMs: number
    limitBytes?: number
    host?: string
    port?: number
  }
): Promise<DelayRelay> {
  const { to, delayMs, limitBytes = LIMIT_BYTES, host = '127.0.0.1', port = 0 } = options
  const sockets = new Set<Socket>()
  const directions = new Set<Direction>()
  const server = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, near => {
    const far = connect({ ...to, allowHalfOpen: true, noDelay: true })
    for (const socket of [near, far]) {
      sockets.add(socket)
      socket.once('close', () => sockets.delete(socket))
    }
    for (const [from, to] of [
      [near, far],
      [far, near]
    ] as const) {
      const direction = delayed(from, to, delayMs, limitBytes)
      directions.add(direction)
      to.once('close', () => directions.delete(direction))
    }
  })
  server.listen(port, host)
  await once(server, 'listening')
  const close = async () => {
    for (const socket of sockets) socket.destroy()
    if (!server.listening) return
    server.close()
    await once(server, 'close')
  }
  t.teardown(close)
  return {
    host,
    port: (server.address() as AddressInfo).port,
    connections: () => sockets.size / 2,
    bytesHeld: () => [...directions].reduce((sum, { bytesHeld }) => sum + bytesHeld(), 0),
    close
  }
}

type Direction = { bytesHeld(): number }

/** One direction. The end and the loss of the source travel in the same queue as its bytes. */
function delayed(from: Socket, to: Socket, delayMs: number, limitBytes: number): Direction {
  type Parcel = { dueMs: number; deliver: () => void; bytes: number }
  let parcels: Parcel[] = []
  let next = 0
  let underWay = 0
  let timer: NodeJS.Timeout | undefined
  let blocked = false

  const put = (bytes: number, deliver: () => void) => {
    parcels.push({ dueMs: performance.now() + delayMs, deliver, bytes })
    underWay += bytes
    if (underWay >= limitBytes) from.pause()
    schedule()
  }
  const schedule = () => {
    const first = parcels[next]
    if (timer || blocked || !first) return
    timer = setTimeout(deliverDue, Math.max(MINIMUM_MS, Math.ceil(first.dueMs - performance.now())))
  }
  const deliverDue = () => {
    timer = undefined
    const nowMs = performance.now()
    for (let parcel = parcels[next]; parcel && parcel.dueMs <= nowMs && !blocked; parcel = parcels[next]) {
      next += 1
      underWay -= parcel.bytes
      parcel.deliver()
    }
    if (next > 1024) {
      parcels = parcels.slice(next)
      next = 0
    }
    if (underWay < limitBytes) from.resume()
    schedule()
  }

  from.on('data', chunk => {
    put(chunk.length, () => {
      if (to.destroyed || to.write(chunk)) return
      blocked = true
      to.once('drain', () => {
        blocked = false
        deliverDue()
      })
    })
  })
  from.once('end', () => {
    put(0, () => to.end())
  })
  from.on('error', () => {
    put(0, () => to.resetAndDestroy())
  })
  to.once('close', () => {
    clearTimeout(timer)
    parcels = []
    next = 0
    blocked = true
  })
  from.resume()
  return { bytesHeld: () => underWay }
}
