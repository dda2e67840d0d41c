/**
 * A client that knows the wire and means no good: it comes in with a certificate, greets when it is told to, and says
 * whatever bytes a test gives it. It hears frames, link messages and the reason why it was shown out.
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { Test } from 'tap'
import { WebSocket } from 'ws'
import { decodeAnswer, encodeHello, isLinkMessage, type LinkWelcome } from '@tendril/common/link/link-message'
import { websocketClientOptions } from '@tendril/common/transport/websocket'
import { eachFrame } from '@tendril/common/test/support/each-frame'
import { encode } from '@tendril/common/wire/encode'
import { FRAME_LIMIT_BYTES, frameType, VERSION } from '@tendril/common/wire/frame'
import type { Deployment } from '../support/deployment.js'
import { until } from '../support/child-process.js'

export type Frame = { type: number; stream: number; payload: Buffer }

export type Hostile = {
  /** Everything heard that was a frame. */
  frames: Frame[]
  welcome: LinkWelcome | undefined
  /** Says messages as they are. */
  say(...messages: (Buffer | string)[]): void
  /** Resolves with the next OPEN that is heard. */
  opened(): Promise<Frame>
  /** Resolves with the code and the reason of the close. */
  closed: Promise<{ code: number; reason: string }>
}

export type Greeting = {
  /** Whose certificate. Default: that of this cluster. */
  cluster: string
  /** The link to go on with, instead of a new one. */
  resume?: { id: Buffer; received: number }
  /** How far the greeting goes. Default `session`. */
  upTo?: 'websocket' | 'link' | 'session'
}

export async function hostileClient(
  t: Test,
  { pki, tunnel }: Deployment,
  { cluster, resume, upTo = 'session' }: Greeting
): Promise<Hostile> {
  const websocket = new WebSocket(`wss://127.0.0.1:${tunnel.port}/tunnel`, 'tendril.v1', {
    ...websocketClientOptions,
    // As large as it likes.
    maxPayload: 0,
    ca: readFileSync(pki('ca.crt')),
    cert: readFileSync(pki(`client-${cluster}.crt`)),
    key: readFileSync(pki(`client-${cluster}.key`)),
    headers: { 'Tendril-Cluster': cluster }
  })
  websocket.binaryType = 'nodebuffer'
  t.teardown(async () => {
    if (websocket.readyState === WebSocket.CLOSED) return
    websocket.terminate()
    await once(websocket, 'close')
  })
  websocket.on('error', () => {})
  const closed = new Promise<{ code: number; reason: string }>(resolve => {
    websocket.once('close', (code, reason) => {
      resolve({ code, reason: reason.toString() })
    })
  })
  const hostile: Hostile = {
    frames: [],
    welcome: undefined,
    say(...messages) {
      for (const message of messages) websocket.send(message)
    },
    async opened() {
      const isOpen = ({ type }: Frame) => type === frameType.OPEN
      await until('an OPEN is heard', () => hostile.frames.some(isOpen))
      return hostile.frames.splice(hostile.frames.findIndex(isOpen), 1)[0]!
    },
    closed
  }
  const got: Buffer[] = []
  websocket.on('message', data => {
    const message = data as Buffer
    got.push(message)
    if (isLinkMessage(message)) return
    eachFrame(
      message,
      (type, stream, payload) => hostile.frames.push({ type, stream, payload: Buffer.from(payload) }),
      FRAME_LIMIT_BYTES
    )
  })
  await once(websocket, 'open')
  if (upTo === 'websocket') return hostile

  websocket.send(
    encodeHello({
      ...(resume && { resume }),
      replayLimitBytes: 1 << 20,
      name: `hostile-${randomBytes(4).toString('hex')}`,
      instance: randomBytes(8),
      connectionIndex: 0
    })
  )
  await until('the link is answered', () => got.length > 0 || websocket.readyState === WebSocket.CLOSED)
  const answer = got[0] && decodeAnswer(got[0])
  if (answer && 'refusal' in answer) throw new Error(`${answer.refusal.code}: ${answer.refusal.text}`)
  hostile.welcome = answer?.welcome
  if (upTo === 'link') return hostile

  websocket.send(hello())
  await until('it is greeted', () => hostile.frames.some(({ type }) => type === frameType.HELLO))
  return hostile
}

/** A session HELLO as a client of this version says it. */
export function hello(): Buffer {
  return encode.hello({ ...VERSION, features: 0, frameLimitBytes: FRAME_LIMIT_BYTES, streamLimit: 8192 })
}

/** Any frame at all. */
export function frame(type: number, stream: number, payload: Buffer | string = ''): Buffer {
  const bytes = Buffer.from(payload)
  const header = Buffer.alloc(8)
  header[0] = type
  header.writeUIntBE(bytes.length, 1, 3)
  header.writeUInt32BE(stream, 4)
  return Buffer.concat([header, bytes])
}
