/**
 * A TCP relay that fails on request: cut (both ends hear RST), freeze (a black hole: nobody hears anything, no FIN, no
 * RST), refuse (nobody listens), and back again. Counts the bytes that went through.
 */
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { Teardown } from './targets.js'

export type Cuttable = {
  host: string
  port: number
  /** Bytes that left towards the target (`up`) and towards those who connected (`down`), all connections. */
  readonly up: number
  readonly down: number
  /** Connections relayed now, and ever. */
  readonly open: number
  readonly accepted: number
  /** Resets every connection, frozen ones too. New ones are relayed as before. */
  cut(): void
  /** Existing connections fall silent for ever, or until `thaw`; new ones too unless `newOnes` is false. */
  freeze(options?: { newOnes?: boolean }): void
  /** What was frozen flows again. */
  thaw(): void
  /** Stops listening: new connects are refused. */
  refuse(): Promise<void>
  /** Listens again, on the same port. */
  listen(): Promise<void>
  /** Resolves at the next new connection. */
  connected(): Promise<void>
  close(): Promise<void>
}

export async function cuttable(t: Teardown, to: { host: string; port: number }): Promise<Cuttable> {
  const host = '127.0.0.1'
  const pairs = new Set<Pair>()
  const counts = { up: 0, down: 0, accepted: 0 }
  let freezeNew = false
  let waiting: (() => void)[] = []

  const onConnection = (near: Socket) => {
    counts.accepted += 1
    const far = connect({ ...to, allowHalfOpen: true, noDelay: true })
    const pair = new Pair(near, far, counts)
    pairs.add(pair)
    pair.onClose = () => pairs.delete(pair)
    if (freezeNew) pair.freeze()
    const called = waiting
    waiting = []
    for (const call of called) call()
  }
  let server = createServer()
  let port = 0
  const listen = async () => {
    if (server.listening) return
    server = createServer({ allowHalfOpen: true, noDelay: true }, onConnection)
    server.listen(port, host)
    await once(server, 'listening')
    port = (server.address() as AddressInfo).port
  }
  const refuse = async () => {
    if (!server.listening) return
    // A server is closed for newcomers at once; its `close` event waits for connections, which live on.
    server.close()
  }
  const cut = () => {
    for (const pair of pairs) pair.reset()
  }
  const close = async () => {
    await refuse()
    cut()
  }
  await listen()
  t.teardown(close)

  return {
    host,
    port,
    get up() {
      return counts.up
    },
    get down() {
      return counts.down
    },
    get open() {
      return pairs.size
    },
    get accepted() {
      return counts.accepted
    },
    cut,
    freeze({ newOnes = true } = {}) {
      freezeNew = newOnes
      for (const pair of pairs) pair.freeze()
    },
    thaw() {
      freezeNew = false
      for (const pair of pairs) pair.thaw()
    },
    refuse,
    listen,
    connected: () => new Promise(resolve => waiting.push(resolve)),
    close
  }
}

/** One relayed connection: two sockets, and whether the line between them is frozen. */
class Pair {
  readonly #near: Socket
  readonly #far: Socket
  #frozen = false
  #over = false
  onClose: () => void = () => {}

  constructor(near: Socket, far: Socket, counts: { up: number; down: number }) {
    this.#near = near
    this.#far = far
    this.#relay(near, far, bytes => (counts.up += bytes))
    this.#relay(far, near, bytes => (counts.down += bytes))
  }

  #relay(from: Socket, to: Socket, count: (bytes: number) => void): void {
    from.on('data', chunk => {
      count(chunk.length)
      if (!to.write(chunk)) {
        from.pause()
        to.once('drain', () => {
          if (!this.#frozen) from.resume()
        })
      }
    })
    from.once('end', () => {
      // A FIN that was read before the line froze must not cross it afterwards.
      if (!this.#frozen) to.end()
      else this.#afterThaw.push(() => to.end())
    })
    from.on('error', () => {
      this.#lose()
    })
    from.once('close', hadError => {
      if (hadError || to.destroyed) this.#lose()
    })
  }

  #afterThaw: (() => void)[] = []

  /** One side is gone. The other hears of it now, or, over a frozen line, after the thaw. */
  #lose(): void {
    if (this.#frozen) this.#afterThaw.push(() => this.reset())
    else this.reset()
  }

  freeze(): void {
    this.#frozen = true
    this.#near.pause()
    this.#far.pause()
  }

  thaw(): void {
    if (!this.#frozen) return
    this.#frozen = false
    const late = this.#afterThaw
    this.#afterThaw = []
    for (const action of late) action()
    this.#near.resume()
    this.#far.resume()
  }

  reset(): void {
    if (this.#over) return
    this.#over = true
    for (const socket of [this.#near, this.#far]) {
      if (socket.destroyed) continue
      // A socket that is still connecting cannot send RST; one whose FIN is on its way may not (libuv answers EINVAL, and
      // Node then never closes it).
      if (socket.connecting || socket.writableEnded) socket.destroy()
      else socket.resetAndDestroy()
    }
    this.onClose()
  }
}
