/**
 * Targets: what a tunnel may find at its far end, friendly and otherwise. Each listens on a free port, counts what
 * it sees, and ends with the test. Nothing here knows of tunnels.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer as createHttpServer, type RequestListener } from 'node:http'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { reservePort } from './ports.js'
import { start } from './child-process.js'

/** What a target needs of a test: a place to leave its clean-up. */
export type Teardown = { teardown(action: () => unknown): void }

export type TargetServer = {
  host: string
  port: number
  /** `host:port`, brackets around IPv6. */
  addr: string
  /** Open connections, and how many there ever were. */
  open(): number
  accepted(): number
  sockets: Set<Socket>
  close(): Promise<void>
}

type Listen = { host?: string; port?: number }

/** Any TCP target: the handler gets each connection, half-open allowed, errors already swallowed. */
export async function tcpTarget(
  t: Teardown,
  handler: (socket: Socket) => void,
  { host = '127.0.0.1', port = 0 }: Listen = {}
): Promise<TargetServer> {
  const server = createServer({ allowHalfOpen: true, noDelay: true })
  return listen(t, server, 'connection', handler, host, port)
}

async function listen(
  t: Teardown,
  server: Server,
  event: string,
  handler: (socket: Socket) => void,
  host: string,
  port: number
): Promise<TargetServer> {
  const sockets = new Set<Socket>()
  let accepted = 0
  server.on(event, (socket: Socket) => {
    accepted += 1
    sockets.add(socket)
    socket.on('error', () => {})
    socket.once('close', () => sockets.delete(socket))
    handler(socket)
  })
  server.listen(port, host)
  await once(server, 'listening')
  const { port: bound } = server.address() as AddressInfo
  const close = async () => {
    for (const socket of sockets) socket.destroy()
    if (!server.listening) return
    server.close()
    await once(server, 'close')
  }
  t.teardown(close)
  return {
    host,
    port: bound,
    addr: host.includes(':') ? `[${host}]:${bound}` : `${host}:${bound}`,
    open: () => sockets.size,
    accepted: () => accepted,
    sockets,
    close
  }
}

/** Gives everything back, FIN included. */
export function echoTarget(t: Teardown, options?: Listen): Promise<TargetServer> {
  return tcpTarget(t, socket => socket.pipe(socket), options)
}

/** A small HTTP server: answers `hello from the pod` unless told otherwise. */
export async function podTarget(
  t: Teardown,
  listener?: RequestListener,
  { host = '127.0.0.1', port = 0 }: Listen = {}
): Promise<TargetServer> {
  const server = createHttpServer(
    listener ??
      ((request, response) => {
        response.setHeader('content-type', 'text/plain')
        response.end(`hello from the pod: ${request.method ?? ''} ${request.url ?? ''}\n`)
      })
  )
  return listen(t, server, 'connection', () => {}, host, port)
}

/** Speaks first, as SSH and MySQL do; then echoes. */
export function bannerTarget(
  t: Teardown,
  banner: string | Buffer = 'SSH-2.0-tendril\r\n',
  options?: Listen
): Promise<TargetServer> {
  return tcpTarget(
    t,
    socket => {
      socket.write(banner)
      socket.pipe(socket)
    },
    options
  )
}

export type Received = { bytes: number; sha256: string }

/** Reads everything and remembers how much and which. `received` resolves with the next connection that ended. */
export async function sinkTarget(
  t: Teardown,
  options?: Listen
): Promise<TargetServer & { received(): Promise<Received> }> {
  const done: Received[] = []
  const waiting: ((received: Received) => void)[] = []
  const target = await tcpTarget(
    t,
    socket => {
      const hash = createHash('sha256')
      let bytes = 0
      socket.on('data', chunk => {
        bytes += chunk.length
        hash.update(chunk)
      })
      socket.once('end', () => {
        socket.end()
        const received = { bytes, sha256: hash.digest('hex') }
        const next = waiting.shift()
        if (next) next(received)
        else done.push(received)
      })
    },
    options
  )
  return {
    ...target,
    received: () =>
      new Promise(resolve => {
        const ready = done.shift()
        if (ready) resolve(ready)
        else waiting.push(resolve)
      })
  }
}

/** Sends `bytes` pseudo-random bytes to everybody who comes, then FIN. `sha256` is what must arrive. */
export async function sourceTarget(
  t: Teardown,
  bytes: number,
  options?: Listen
): Promise<TargetServer & { sha256: string }> {
  const hash = createHash('sha256')
  for (const chunk of pseudoRandom(bytes)) hash.update(chunk)
  const target = await tcpTarget(
    t,
    socket => {
      const chunks = pseudoRandom(bytes)
      const more = () => {
        for (let next = chunks.next(); ; next = chunks.next()) {
          if (next.done) {
            socket.end()
            return
          }
          if (!socket.write(next.value)) {
            socket.once('drain', more)
            return
          }
        }
      }
      socket.resume()
      more()
    },
    options
  )
  return { ...target, sha256: hash.digest('hex') }
}

/** The same bytes every time, in chunks of 64 KiB at most that are never equal to their neighbours. */
export function* pseudoRandom(bytes: number, seed = 1): Generator<Buffer, void> {
  const CHUNK_BYTES = 64 * 1024
  let state = seed >>> 0 || 1
  const block = Buffer.allocUnsafe(CHUNK_BYTES)
  for (let index = 0; index < CHUNK_BYTES; index += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    block.writeUInt32LE(state, index)
  }
  for (let at = 0; at < bytes; at += CHUNK_BYTES) {
    const chunk = Buffer.from(block.subarray(0, Math.min(CHUNK_BYTES, bytes - at)))
    // Each chunk carries its own position, so that a lost or swapped one changes the hash.
    if (chunk.length >= 8) chunk.writeDoubleLE(at, 0)
    yield chunk
  }
}

/** Accepts and never reads: the stalled reader. */
export function stalledTarget(t: Teardown, options?: Listen): Promise<TargetServer> {
  return tcpTarget(t, socket => socket.pause(), options)
}

/** Answers only after it has seen FIN, with what it was sent: the reply that half-close exists for. */
export function replyAfterFinTarget(t: Teardown, options?: Listen): Promise<TargetServer> {
  return tcpTarget(
    t,
    socket => {
      const chunks: Buffer[] = []
      socket.on('data', chunk => chunks.push(chunk))
      socket.once('end', () => socket.end(Buffer.concat([Buffer.from('got '), ...chunks])))
    },
    options
  )
}

/** A port that answers RST: nobody listens there, and nobody will. */
export function refusedPort(host = '127.0.0.1'): Promise<number> {
  return reservePort(host)
}

/**
 * A port that answers nothing at all to a connect: a listener that is stopped in its tracks (SIGSTOP), its backlog
 * filled, so that the kernel drops every further SYN.
 */
export async function blackHole(t: Teardown): Promise<{ host: string; port: number; addr: string }> {
  const source = `require('node:net').createServer().listen({port:0,host:'127.0.0.1',backlog:1},function(){console.log('port '+this.address().port)})`
  const child = start('black hole', process.execPath, ['-e', source])
  const fillers: Socket[] = []
  t.teardown(async () => {
    for (const filler of fillers) filler.destroy()
    child.kill('SIGKILL')
    await child.exited
  })
  const port = Number((await child.logs(/port (\d+)/))[1])
  child.kill('SIGSTOP')
  // The kernel completes connects until the backlog is full; the first that hangs shows that it is.
  for (let full = false; !full;) {
    const filler = connect({ host: '127.0.0.1', port })
    fillers.push(filler)
    filler.on('error', () => {})
    const state = { connected: false }
    filler.once('connect', () => (state.connected = true))
    await Promise.race([once(filler, 'connect'), new Promise(resolve => setTimeout(resolve, 200))])
    // A busy loop of events runs late timers first: what the kernel has completed meanwhile is heard of in this turn.
    await new Promise(resolve => setImmediate(resolve))
    full = !state.connected
  }
  return { host: '127.0.0.1', port, addr: `127.0.0.1:${port}` }
}
