/**
 * Tiny messages by the ten thousand, as bytes on the line, and a program that sends nothing else: the peer that means to
 * take a server down with what little it may send. `node flood.js <settings as JSON>` prints `connected` once all its
 * connections are, and `sent` when all bytes have left or the server has hung up.
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { Duplex } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { WebSocket } from 'ws'
import { encodeHello, encodeAnnouncement, encodeNumber, linkType } from '@tendril/common/link/link-message'
import { websocketClientOptions } from '@tendril/common/transport/websocket'
import { encode } from '@tendril/common/wire/encode'
import { FRAME_LIMIT_BYTES, VERSION } from '@tendril/common/wire/frame'

/** One message as one WebSocket frame. */
export function webSocketFrame(message: Buffer, masked: boolean, opcode = 2): Buffer {
  const [short, long] = [message.length < 126, message.length >= 65_536]
  const lengthBytes = Buffer.alloc(short ? 0 : long ? 8 : 2)
  if (long) lengthBytes.writeUInt32BE(message.length, 4)
  else if (!short) lengthBytes.writeUInt16BE(message.length)
  const head = [0x80 | opcode, (masked ? 0x80 : 0) | (short ? message.length : long ? 127 : 126)]
  return Buffer.concat([Buffer.from(head), lengthBytes, Buffer.alloc(masked ? 4 : 0), message])
}

const NUMBER = 7

/** What an honest peer says now and then, and what each of them makes the other side do. */
export const floods = {
  'link PINGs': () => [2, encodeNumber(linkType.PING, NUMBER)],
  'link ACKs': () => [2, encodeNumber(linkType.ACK, 0)],
  announcements: () => [2, encodeAnnouncement('{"routes":["10.0.0.0/8"]}')],
  'session PINGs': () => [2, encode.ping(Buffer.alloc(8, 1))],
  'messages that draw ACKs': () => [2, encode.goAway('DRAINING')],
  'messages of a thousand PINGs': () => [
    2,
    Buffer.concat(Array.from({ length: 1_000 }, () => encode.ping(Buffer.alloc(8, 1))))
  ],
  'WebSocket pings': () => [9, Buffer.from('ping')],
  'resumes of no link': () => [2, linkHello({ id: Buffer.alloc(16, 7), received: 0 })]
} satisfies Record<string, () => [number, Buffer]>

export type Flood = keyof typeof floods

export type FloodSettings = {
  port: number
  /** Directory of the PKI. */
  pki: string
  cluster: string
  connections: number
  /** What is sent, one after the other. */
  kinds: Flood[]
  /** Per connection; absent: until it is killed. */
  bytes?: number
  /** Reads nothing from then on. Default true. */
  deaf?: boolean
}

/** About `bytes` of messages of these kinds. */
export function floodBytes(kinds: readonly Flood[], masked: boolean, bytes = 64 << 10): Buffer {
  const round = Buffer.concat(
    kinds.map(kind => {
      const [opcode, message] = floods[kind]()
      return webSocketFrame(message, masked, opcode)
    })
  )
  return Buffer.concat(Array.from({ length: Math.max(1, Math.floor(bytes / round.length)) }, () => round))
}

/** Writes `chunk` until `bytes` have left, or the other side hangs up. */
export async function pour(socket: Duplex, chunk: Buffer, bytes = Infinity): Promise<void> {
  const closed = new Promise<void>(resolve => socket.once('close', resolve))
  for (let sent = 0; sent < bytes && !socket.destroyed; sent += chunk.length) {
    await Promise.race([new Promise<void>(resolve => socket.write(chunk, () => resolve())), closed])
  }
}

function linkHello(resume?: { id: Buffer; received: number }): Buffer {
  return encodeHello({
    ...(resume && { resume }),
    // The smallest there is: whoever believes it acknowledges every message.
    replayLimitBytes: 0,
    name: `flood-${randomBytes(4).toString('hex')}`,
    instance: randomBytes(8),
    connectionIndex: 0
  })
}

async function connect({ port, pki, cluster, kinds }: FloodSettings): Promise<Duplex> {
  const websocket = new WebSocket(`wss://127.0.0.1:${port}/tunnel`, 'tendril.v1', {
    ...websocketClientOptions,
    ca: readFileSync(`${pki}/ca.crt`),
    cert: readFileSync(`${pki}/client-${cluster}.crt`),
    key: readFileSync(`${pki}/client-${cluster}.key`),
    headers: { 'Tendril-Cluster': cluster }
  })
  websocket.on('error', () => {})
  const upgraded = once(websocket, 'upgrade') as Promise<[{ socket: Duplex }]>
  await once(websocket, 'open')
  if (kinds.includes('resumes of no link')) return (await upgraded)[0].socket
  const answered = once(websocket, 'message')
  websocket.send(linkHello())
  await answered
  websocket.send(
    encode.hello({ ...VERSION, features: 0, frameLimitBytes: FRAME_LIMIT_BYTES, streamLimit: 1 })
  )
  return (await upgraded)[0].socket
}

async function main(settings: FloodSettings): Promise<void> {
  const { connections, kinds, bytes, deaf = true } = settings
  const sockets = await Promise.all(Array.from({ length: connections }, () => connect(settings)))
  console.log('connected')
  if (deaf) for (const socket of sockets) socket.pause()
  const chunk = floodBytes(kinds, true)
  await Promise.all(sockets.map(socket => pour(socket, chunk, bytes)))
  console.log('sent')
  // The connections stay, unread, until the test ends this.
  setInterval(() => {}, 60_000)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(JSON.parse(process.argv[2]!) as FloodSettings)
}
