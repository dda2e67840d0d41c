/**
 * What the tests of fronts and acceptor share: a PKI in memory, Dials that need no tunnel, raw callers that see
 * every read as it came.
 */
import { X509Certificate, type KeyObject } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import { type AddressInfo, type Server, type Socket, connect, createServer } from 'node:net'
import { Duplex } from 'node:stream'
import { type ConnectionOptions, type TLSSocket, connect as connectTls } from 'node:tls'
import type { Dial } from '@tendril/common'
import { type Usage, createAuthority, issueLeaf } from '@tendril/common/identity/certificate'
import { encodePrivateKey, makeKeyPair } from '@tendril/common/identity/keys'
import { type Log, createLog } from '@tendril/common/log'
import type { Certificates } from '@tendril/common/tls'

export const silent: Log = createLog({ level: 'silent' })

export type Pem = { cert: string; key: string }
export type Leaf = {
  commonName?: string
  usages?: Usage[]
  hosts?: string[]
  uris?: string[]
  now?: Date
  validityDays?: number
}

/** An authority and the leaves it signs. */
export class Pki {
  readonly ca: string
  readonly #key: KeyObject

  constructor(commonName = 'test ca') {
    const keys = makeKeyPair()
    this.#key = keys.privateKey
    // Long since valid, so that leaves of yesterday can be made.
    this.ca = createAuthority({ commonName, keys, now: new Date(Date.now() - 365 * 86_400_000) })
  }

  leaf({ commonName = 'leaf', usages = ['clientAuth'], ...options }: Leaf = {}): Pem {
    const { privateKey, publicKey } = makeKeyPair()
    const issuer = { certificate: new X509Certificate(this.ca), key: this.#key }
    return {
      cert: issueLeaf(issuer, { commonName, publicKey, usages, ...options }),
      key: encodePrivateKey(privateKey)
    }
  }

  server(options: Leaf = {}): Pem {
    return this.leaf({
      commonName: 'server',
      usages: ['serverAuth'],
      hosts: ['localhost', '127.0.0.1'],
      ...options
    })
  }
}

/** A bundle whose files are changed by hand. */
export class FakeBundle extends EventEmitter implements Certificates {
  #options: { cert: string; key: string; ca: string[] }

  constructor(server: Pem, ca: string) {
    super()
    this.#options = { ...server, ca: [ca] }
  }

  tlsOptions(): { cert: string; key: string; ca: string[] } {
    return this.#options
  }

  change(server: Pem, ...ca: string[]): void {
    this.#options = { ...server, ca }
    this.emit('change')
  }
}

/** Two ends of one pipe in memory; half-close is kept. */
export function duplexPair(): [Duplex, Duplex] {
  const ends: Duplex[] = []
  const notify: (() => void)[] = [() => {}, () => {}]
  const make = (own: 0 | 1, other: 0 | 1): Duplex =>
    new Duplex({
      allowHalfOpen: true,
      read() {
        const ready = notify[own]!
        notify[own] = () => {}
        ready()
      },
      write(chunk: Buffer, _encoding, callback) {
        notify[other] = callback
        ends[other]!.push(chunk)
      },
      final(callback) {
        ends[other]!.push(null)
        callback()
      },
      destroy(error, callback) {
        const far = ends[other]!
        if (!far.destroyed) process.nextTick(() => far.destroy(error ? new Error(error.message) : undefined))
        callback(error)
      }
    })
  ends.push(make(0, 1), make(1, 0))
  return ends as [Duplex, Duplex]
}

/** A Dial to real TCP, as the far client would. */
export const tcpDial: Dial = ({ host, port }) =>
  new Promise((resolve, reject) => {
    const socket = connect({ host, port, allowHalfOpen: true, noDelay: true })
    socket.once('error', reject)
    socket.once('connect', () => {
      socket.off('error', reject)
      resolve(socket)
    })
  })

type Teardown = { teardown(callback: () => unknown): void }

/** A TCP server on port 0, closed with its sockets at the end of the test. */
export async function listenTcp(t: Teardown, onSocket: (socket: Socket) => void): Promise<number> {
  const sockets = new Set<Socket>()
  const server: Server = createServer({ allowHalfOpen: true }, socket => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
    onSocket(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    return new Promise(resolve => server.close(resolve))
  })
  return (server.address() as AddressInfo).port
}

/** A connection that remembers every read by itself. */
export class Raw {
  readonly socket: Socket
  readonly reads: string[] = []
  #notify = new EventEmitter()
  ended = false
  closed = false

  constructor(socket: Socket) {
    this.socket = socket
    socket.on('data', (chunk: Buffer) => {
      this.reads.push(chunk.toString('latin1'))
      this.#notify.emit('news')
    })
    socket.on('error', () => {})
    socket.on('end', () => {
      this.ended = true
      this.#notify.emit('news')
    })
    socket.on('close', () => {
      this.closed = true
      this.#notify.emit('news')
    })
  }

  get text(): string {
    return this.reads.join('')
  }

  write(text: string | Buffer): this {
    this.socket.write(typeof text === 'string' ? Buffer.from(text, 'latin1') : text)
    return this
  }

  async until(done: () => boolean): Promise<this> {
    while (!done()) {
      if (this.closed) throw new Error(`closed after ${JSON.stringify(this.text)}`)
      await once(this.#notify, 'news')
    }
    return this
  }

  untilText(text: string): Promise<this> {
    return this.until(() => this.text.includes(text))
  }

  async untilClosed(): Promise<this> {
    while (!this.closed) await once(this.#notify, 'news')
    return this
  }
}

export async function rawPlain(
  t: Teardown,
  where: { host: string; port: number } | { path: string }
): Promise<Raw> {
  const socket = connect({ ...where, allowHalfOpen: true })
  t.teardown(() => socket.destroy())
  const raw = new Raw(socket)
  await once(socket, 'connect')
  return raw
}

export async function rawTls(t: Teardown, options: ConnectionOptions): Promise<Raw & { socket: TLSSocket }> {
  const socket = connectTls({ allowHalfOpen: true, ...options } as ConnectionOptions)
  t.teardown(() => socket.destroy())
  const raw = new Raw(socket)
  await once(socket, 'secureConnect')
  return raw as Raw & { socket: TLSSocket }
}

export const connectTo = (port: number | string, host = '127.0.0.1'): string =>
  `CONNECT ${host}:${port} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`
