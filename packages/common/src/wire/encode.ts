/**
 * Frames to bytes. Pure: every function returns a whole frame, or writes one header in place for DATA, whose
 * payload the multiplexer copies right behind it.
 */
import type { Target } from '../dial.js'
import { type ErrorCode, TunnelError, errors } from '../errors.js'
import {
  HEADER_BYTES,
  HOST,
  HOST_LIMIT_BYTES,
  MAGIC,
  TEXT_LIMIT_BYTES,
  frameType,
  protoNumber
} from './frame.js'
import type { Hello } from './frame.js'
import { type DialOrigin, encodeOrigin } from './origin.js'

/** Writes a frame header at `offset`; the caller has made room for `HEADER_BYTES + length`. */
export function writeHeader(
  into: Buffer,
  offset: number,
  type: number,
  stream: number,
  length: number
): void {
  into[offset] = type
  into[offset + 1] = length >>> 16
  into[offset + 2] = length >>> 8
  into[offset + 3] = length
  into[offset + 4] = stream >>> 24
  into[offset + 5] = stream >>> 16
  into[offset + 6] = stream >>> 8
  into[offset + 7] = stream
}

function frame(type: number, stream: number, payloadBytes: number): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + payloadBytes)
  writeHeader(bytes, 0, type, stream, payloadBytes)
  return bytes
}

function encodeHello(hello: Hello): Buffer {
  const bytes = frame(frameType.HELLO, 0, 20)
  bytes.writeUInt32BE(MAGIC, 8)
  bytes[12] = hello.major
  bytes[13] = hello.minor
  bytes.writeUInt16BE(0, 14)
  bytes.writeUInt32BE(hello.features, 16)
  bytes.writeUInt32BE(hello.frameLimitBytes, 20)
  bytes.writeUInt32BE(hello.streamLimit, 24)
  return bytes
}

/** @throws TunnelError BAD_TARGET when the frame has no room for the target or the origin. */
function encodeOpen(
  stream: number,
  target: Target,
  creditBytes: number,
  timeoutMs: number,
  origin?: DialOrigin
): Buffer {
  const host = nameBytes('host', target.host)
  const cluster = target.cluster ? nameBytes('cluster', target.cluster) : Buffer.alloc(0)
  if (!Number.isInteger(target.port) || target.port < 0 || target.port > 0xffff) {
    throw new TunnelError('BAD_TARGET', `there is no port ${target.port}`)
  }
  const tail = origin ? encodeOrigin(origin) : Buffer.alloc(0)
  const bytes = frame(frameType.OPEN, stream, 13 + host.length + cluster.length + tail.length)
  bytes.writeUInt32BE(creditBytes, 8)
  bytes.writeUInt32BE(Math.min(Math.max(0, Math.ceil(timeoutMs)), 0xffff_ffff), 12)
  bytes[16] = protoNumber[target.proto]
  bytes.writeUInt16BE(target.port, 17)
  bytes[19] = host.length
  host.copy(bytes, 20)
  bytes[20 + host.length] = cluster.length
  cluster.copy(bytes, 21 + host.length)
  tail.copy(bytes, 21 + host.length + cluster.length)
  return bytes
}

function nameBytes(what: string, name: string): Buffer {
  if (name.length > HOST_LIMIT_BYTES || !HOST.test(name)) {
    throw new TunnelError('BAD_TARGET', `a ${what} is 1 to ${HOST_LIMIT_BYTES} printable ASCII characters`)
  }
  return Buffer.from(name)
}

function encodeU32(type: number, stream: number, value: number): Buffer {
  const bytes = frame(type, stream, 4)
  bytes.writeUInt32BE(value, 8)
  return bytes
}

function encodeReason(type: number, stream: number, code: ErrorCode, text = ''): Buffer {
  const said = cutText(text)
  const bytes = frame(type, stream, 2 + said.length)
  bytes.writeUInt16BE(errors[code].reset, 8)
  said.copy(bytes, 10)
  return bytes
}

/** UTF-8 of `text`, cut to the limit at a character boundary. */
function cutText(text: string): Buffer {
  const bytes = Buffer.from(text)
  if (bytes.length <= TEXT_LIMIT_BYTES) return bytes
  let end = TEXT_LIMIT_BYTES
  while (((bytes[end] as number) & 0xc0) === 0x80) end--
  return bytes.subarray(0, end)
}

function encodeOpaque(type: number, opaque: Buffer): Buffer {
  const bytes = frame(type, 0, 8)
  opaque.copy(bytes, 8, 0, 8)
  return bytes
}

/** One function per frame type. DATA and END are not here: `writeHeader` and a copy are all that they take. */
export const encode = {
  hello: encodeHello,
  open: encodeOpen,
  opened: (stream: number, creditBytes: number) => encodeU32(frameType.OPENED, stream, creditBytes),
  refused: (stream: number, code: ErrorCode, text?: string) =>
    encodeReason(frameType.REFUSED, stream, code, text),
  reset: (stream: number, code: ErrorCode, text?: string) =>
    encodeReason(frameType.RESET, stream, code, text),
  credit: (stream: number, bytes: number) => encodeU32(frameType.CREDIT, stream, bytes),
  ping: (opaque: Buffer) => encodeOpaque(frameType.PING, opaque),
  pong: (opaque: Buffer) => encodeOpaque(frameType.PONG, opaque),
  goAway: (code: ErrorCode, text?: string) => encodeReason(frameType.GOAWAY, 0, code, text)
}
