/**
 * A relay that carries so many bytes per second each way, all connections together, and keeps next to nothing of its own:
 * it reads on when what it read is delivered. It adds no latency beyond that, and loses nothing until it is cut.
 */
import { once } from 'node:events'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'
import type { Test } from 'tap'
import type { Address } from '../support/proxies.js'

/** What a timer that rang late may make up for, in milliseconds. */
const LATE_MS = 20
/** Of a socket that is written to: one read is more, so that each waits until the one before is with the kernel. */
const HIGH_WATER_BYTES = 16 << 10

export type SlowPath = Address & {
  /** Bytes delivered towards the target and towards those who connected, all connections. */
  readonly upBytes: number
  readonly downBytes: number
  /** Both ends of every connection hear RST. New ones are relayed as before. */
  cut(): void
}

/** One direction of the path. */
class Lane {
  readonly #bytesPerMs: number
  #freeAtMs = 0
  bytes = 0

  constructor(bytesPerMs: number) {
    this.#bytesPerMs = bytesPerMs
  }

  relay(from: Socket, to: Socket): void {
    const resume = (): void => void from.resume()
    from.on('data', chunk => {
      from.pause()
      const nowMs = performance.now()
      this.#freeAtMs = Math.max(nowMs - LATE_MS, this.#freeAtMs) + chunk.length / this.#bytesPerMs
      setTimeout(
        () => {
          this.bytes += chunk.length
          if (to.write(chunk)) resume()
          else to.once('drain', resume)
        },
        Math.max(0, this.#freeAtMs - nowMs)
      )
    })
    from.once('end', () => to.end())
    from.once('close', () => to.destroy())
  }
}

/** A relay to `to` over which `bytesPerSecond` go each way. */
export async function slowPath(t: Test, to: Address, bytesPerSecond: number): Promise<SlowPath> {
  const up = new Lane(bytesPerSecond / 1_000)
  const down = new Lane(bytesPerSecond / 1_000)
  const sockets = new Set<Socket>()
  const options = { allowHalfOpen: true, noDelay: true, highWaterMark: HIGH_WATER_BYTES }
  const server = createServer(options, near => {
    const far = connect({ ...to, ...options })
    for (const socket of [near, far]) {
      sockets.add(socket)
      socket.on('error', () => {}).once('close', () => sockets.delete(socket))
    }
    up.relay(near, far)
    down.relay(far, near)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const cut = (): void => {
    for (const socket of sockets) socket.resetAndDestroy()
  }
  t.teardown(async () => {
    cut()
    server.close()
    await once(server, 'close')
  })
  return {
    host: '127.0.0.1',
    port: (server.address() as AddressInfo).port,
    get upBytes() {
      return up.bytes
    },
    get downBytes() {
      return down.bytes
    },
    cut
  }
}
