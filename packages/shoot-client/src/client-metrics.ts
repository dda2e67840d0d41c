/**
 * What shoot-client counts, made once with a prom-client Registry. Label values come from closed sets (codes of the
 * error table, directions), never from targets. Bytes are read off the sockets when somebody scrapes, so that
 * counting costs nothing on the way of a byte.
 */
import type { Socket } from 'node:net'
import type { ErrorCode } from '@tendril/common'
import { Counter, Gauge, Histogram } from 'prom-client'
import type { Registry } from 'prom-client'

export interface ClientMetrics {
  /** A dial to a target ended. */
  dialEnded(code: ErrorCode | 'OK', durationMs: number): void
  /** A connection to a target is open until it closes. */
  connectionOpened(socket: Socket): void
  /** A link came up; call the result when it went down. Calling it twice is harmless. */
  linkUp(): () => void
  /** An attempt or a link to a server ended with this code. */
  linkEnded(code: ErrorCode): void
}

/** The same steps as kube-apiserver's dial histogram, so that both can be laid over each other. */
const DIAL_SECONDS = [0.005, 0.025, 0.1, 0.5, 2.5, 12.5]

export function createClientMetrics(registry: Registry): ClientMetrics {
  const registers = [registry]
  const dials = new Counter({
    name: 'tendril_client_dials_total',
    help: 'Dials to targets by result: OK or the code of the error table.',
    labelNames: ['code'],
    registers
  })
  const dialSeconds = new Histogram({
    name: 'tendril_client_dial_seconds',
    help: 'Duration of dials to targets, names included, whatever their result.',
    buckets: DIAL_SECONDS,
    registers
  })
  const linksUp = new Gauge({
    name: 'tendril_client_links_up',
    help: 'Links to servers that are up.',
    registers
  })
  const linkEnds = new Counter({
    name: 'tendril_client_link_ends_total',
    help: 'Attempts to reach a server that failed, and links that ended, by code.',
    labelNames: ['code'],
    registers
  })

  /** Open connections with what was counted of each so far. */
  const open = new Map<Socket, { read: number; written: number }>()
  const settle = (socket: Socket, counted: { read: number; written: number }): void => {
    const bytesRead = Math.max(counted.read, socket.bytesRead)
    // It includes what waits to be sent, and is smaller again when the target resets and that is dropped.
    const bytesWritten = Math.max(counted.written, socket.bytesWritten)
    bytes.inc({ direction: 'from_target' }, bytesRead - counted.read)
    bytes.inc({ direction: 'to_target' }, bytesWritten - counted.written)
    counted.read = bytesRead
    counted.written = bytesWritten
  }
  const bytes = new Counter({
    name: 'tendril_client_bytes_total',
    help: 'Bytes exchanged with targets.',
    labelNames: ['direction'],
    registers,
    collect: () => open.forEach((counted, socket) => settle(socket, counted))
  })
  new Gauge({
    name: 'tendril_client_connections',
    help: 'Open connections to targets.',
    registers,
    collect() {
      this.set(open.size)
    }
  })

  return {
    dialEnded(code, durationMs) {
      dials.inc({ code })
      dialSeconds.observe(durationMs / 1000)
    },
    connectionOpened(socket) {
      const counted = { read: 0, written: 0 }
      open.set(socket, counted)
      socket.once('close', () => {
        settle(socket, counted)
        open.delete(socket)
      })
    },
    linkUp() {
      linksUp.inc()
      let up = true
      return () => {
        if (up) linksUp.dec()
        up = false
      }
    },
    linkEnded: code => linkEnds.inc({ code })
  }
}
