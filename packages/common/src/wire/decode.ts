/**
 * Bytes to frames. Stateless: a message holds whole frames, so nothing is kept between calls. Every rule of
 * docs/protocol.md §4 that a single frame can break is checked here and named in the error; rules about the
 * order of frames are the session's.
 */
import type { Target } from '../dial.js'
import { type ErrorCode, TunnelError, errorCodeOf } from '../errors.js'
import { HEADER_BYTES, HOST, MAGIC, VERSION, protoNumber } from './frame.js'
import type { Hello } from './frame.js'
import { type DialOrigin, decodeOrigin } from './origin.js'

export type FrameVisitor = (type: number, stream: number, payload: Buffer) => void

/**
 * Calls `visit` for the frame that begins at byte `at`. The payload is a view of the message, not a copy. Returns where the
 * next frame begins.
 * @throws TunnelError PROTOCOL_ERROR naming the rule and the byte where it was broken.
 */
export function frameAt(message: Buffer, at: number, visit: FrameVisitor, frameLimitBytes: number): number {
  if (message.length === 0) throw broken('a message holds at least one frame', 0)
  if (message.length - at < HEADER_BYTES) throw broken('a frame header has 8 bytes', at)
  const type = message[at] as number
  const length = message.readUIntBE(at + 1, 3)
  const stream = message.readUInt32BE(at + 4)
  if (length > frameLimitBytes)
    throw broken(`a payload has at most ${frameLimitBytes} bytes, not ${length}`, at)
  const start = at + HEADER_BYTES
  const end = start + length
  if (end > message.length) throw broken('a frame ends inside its message', at)
  visit(type, stream, message.subarray(start, end))
  return end
}

function broken(rule: string, at: number): TunnelError {
  return new TunnelError('PROTOCOL_ERROR', `${rule} (byte ${at})`)
}

/** @throws TunnelError PROTOCOL_ERROR when a fixed-size payload is too short; longer ones carry newer fields. */
function needBytes(payload: Buffer, bytes: number, name: string): void {
  if (payload.length < bytes) {
    throw new TunnelError(
      'PROTOCOL_ERROR',
      `${name} has at least ${bytes} payload bytes, not ${payload.length}`
    )
  }
}

/** @throws TunnelError VERSION_MISMATCH before anything is read whose place another major version may change. */
function decodeHello(payload: Buffer): Hello {
  needBytes(payload, 6, 'HELLO')
  if (payload.readUInt32BE(0) !== MAGIC) throw new TunnelError('PROTOCOL_ERROR', 'HELLO starts with TNDL')
  const major = payload[4] as number
  if (major !== VERSION.major) {
    throw new TunnelError('VERSION_MISMATCH', `this side speaks ${VERSION.major}, the peer ${major}`)
  }
  needBytes(payload, 20, 'HELLO')
  const hello = {
    major,
    minor: payload[5] as number,
    features: payload.readUInt32BE(8),
    frameLimitBytes: payload.readUInt32BE(12),
    streamLimit: payload.readUInt32BE(16)
  }
  if (hello.frameLimitBytes < 1024)
    throw new TunnelError('PROTOCOL_ERROR', 'HELLO accepts frames of 1024 bytes at least')
  return hello
}

/** `origin` is undefined when the sender speaks version 1.0. */
export type Open = {
  target: Target
  creditBytes: number
  timeoutMs: number
  origin: DialOrigin | undefined
}

const protoByNumber: Record<number, Target['proto']> = {
  [protoNumber.tcp]: 'tcp',
  [protoNumber.udp]: 'udp',
  [protoNumber.icmp]: 'icmp'
}

/** @throws TunnelError BAD_TARGET: a malformed OPEN ends its own stream, not the session. */
function decodeOpen(payload: Buffer): Open {
  const bad = (why: string): TunnelError => new TunnelError('BAD_TARGET', why)
  if (payload.length < 12) throw bad('OPEN is too short')
  const proto = protoByNumber[payload[8] as number]
  const hostBytes = payload[11] as number
  if (!proto) throw bad(`protocol number ${payload.readUInt8(8)} is not known`)
  if (hostBytes === 0) throw bad('the host is empty')
  const hostEnd = 12 + hostBytes
  if (payload.length < hostEnd + 1) throw bad('the host is cut off')
  const clusterEnd = hostEnd + 1 + (payload[hostEnd] as number)
  if (payload.length < clusterEnd) throw bad('the cluster is cut off')
  // Every byte of latin1 is one character: nothing that is not ASCII gets past the test.
  const host = payload.toString('latin1', 12, hostEnd)
  if (!HOST.test(host)) throw bad('the host has a character that no name or address has')
  const cluster = payload.toString('latin1', hostEnd + 1, clusterEnd)
  if (cluster !== '' && !HOST.test(cluster)) throw bad('the cluster has a character that no name has')
  return {
    creditBytes: payload.readUInt32BE(0),
    timeoutMs: payload.readUInt32BE(4),
    target: { proto, port: payload.readUInt16BE(9), host, ...(cluster !== '' && { cluster }) },
    origin: payload.length > clusterEnd ? decodeOrigin(payload.subarray(clusterEnd)) : undefined
  }
}

function decodeU32(payload: Buffer, name: string): number {
  needBytes(payload, 4, name)
  return payload.readUInt32BE(0)
}

export type Reason = { code: ErrorCode; text: string }

function decodeReason(payload: Buffer, name: string): Reason {
  needBytes(payload, 2, name)
  return { code: errorCodeOf(payload.readUInt16BE(0)), text: payload.toString('utf8', 2) }
}

function decodeOpaque(payload: Buffer, name: string): Buffer {
  needBytes(payload, 8, name)
  return payload.subarray(0, 8)
}

/** One function per payload that has fields. All but `open` throw PROTOCOL_ERROR. */
export const decode = {
  hello: decodeHello,
  open: decodeOpen,
  opened: (payload: Buffer) => decodeU32(payload, 'OPENED'),
  credit: (payload: Buffer) => decodeU32(payload, 'CREDIT'),
  reason: decodeReason,
  opaque: decodeOpaque
}
