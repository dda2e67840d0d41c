/**
 * The bound on connections of the admin listener: few for each source address and few in all, and at the bound an old
 * one is closed rather than the new one. So a source that opens connections and leaves them idle loses its own, and a
 * kubelet's probe, which sends its request at once, is always answered.
 */
import type { Socket } from 'node:net'

type Connection = { socket: Socket; source: string; requests: number }

export class AdminConnections {
  readonly #perSource: number
  readonly #total: number
  /** By source; in each the oldest first. */
  readonly #sources = new Map<string, Set<Connection>>()
  readonly #bySocket = new Map<Socket, Connection>()

  constructor({ perSource, total }: { perSource: number; total: number }) {
    this.#perSource = perSource
    this.#total = total
  }

  get size(): number {
    return this.#bySocket.size
  }

  /** Counts a connection until it closes; closes an older one where it is one too many. */
  add(socket: Socket): void {
    const source = socket.remoteAddress ?? ''
    const connection: Connection = { socket, source, requests: 0 }
    const own = this.#sources.get(source) ?? new Set()
    this.#sources.set(source, own)
    if (own.size >= this.#perSource) this.#closeOne(own)
    else if (this.size >= this.#total) this.#closeOne(this.#largest())
    own.add(connection)
    this.#bySocket.set(socket, connection)
    socket.once('close', () => this.#remove(connection))
  }

  /** A request has begun. The returned function is to be called when it is answered. */
  begin(socket: Socket): () => void {
    const connection = this.#bySocket.get(socket)
    if (!connection) return () => {}
    connection.requests++
    return () => void connection.requests--
  }

  /** The oldest that is idle; if all are asking for something, the oldest. */
  #closeOne(connections: ReadonlySet<Connection>): void {
    const [oldest] = connections
    let closed = oldest
    for (const one of connections) {
      if (one.requests > 0) continue
      closed = one
      break
    }
    if (!closed) return
    // Removed now and not on 'close': until then it could be selected again in the place of another.
    this.#remove(closed)
    closed.socket.destroy()
  }

  /** The source with most connections loses one: a source with one connection keeps it. */
  #largest(): ReadonlySet<Connection> {
    let largest: ReadonlySet<Connection> = new Set()
    for (const one of this.#sources.values()) if (one.size > largest.size) largest = one
    return largest
  }

  #remove(connection: Connection): void {
    const { socket, source } = connection
    if (!this.#bySocket.delete(socket)) return
    const own = this.#sources.get(source)
    own?.delete(connection)
    if (own?.size === 0) this.#sources.delete(source)
  }
}
