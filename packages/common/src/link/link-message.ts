/**
 * The messages of the link itself, to bytes and back (docs/protocol.md §6). They share the carrier with the
 * session's messages and are told apart by the first byte: 0x80 and up is the link's, and is never counted.
 */
import { type ErrorCode, TunnelError, errorCodeOf, errors } from '../errors.js'

export const linkType = {
  HELLO: 0x80,
  WELCOME: 0x81,
  REFUSE: 0x82,
  ACK: 0x83,
  PING: 0x84,
  PONG: 0x85,
  ANNOUNCEMENT: 0x86
} as const

export const LINK_VERSION = 1
export const LINK_ID_BYTES = 16
export const INSTANCE_BYTES = 8

/** Most bytes of a client's or server's name. */
export const NAME_LIMIT_BYTES = 253
/** Most bytes of one announcement. */
export const ANNOUNCEMENT_LIMIT_BYTES = 65_536

/** The client's first message on every carrier. */
export type LinkHello = {
  /** The link to resume. Undefined: a new link. */
  resume?: { id: Buffer; received: number }
  /** Most bytes this side keeps for replay, so that the other acknowledges in time. */
  replayLimitBytes: number
  /** Name of this client among those of its cluster: a pod name, a host name. */
  name: string
  /** Random for each process, so that the server can see a restart. */
  instance: Buffer
  /** Which of the client's parallel links to this server; 0 for the first. */
  connectionIndex: number
}

/** The server's answer: the link is open, or resumed. */
export type LinkWelcome = {
  id: Buffer
  resumed: boolean
  /** Session messages that the server has received on this link. */
  received: number
  /** Number of the message after which the server continues: at most what the client has received. */
  sendsFrom: number
  replayLimitBytes: number
  resumeWindowMs: number
  /** Id of the server. Every replica and worker has its own. */
  server: string
}

export type LinkRefusal = { code: ErrorCode; text: string }

/** True when a message belongs to the link rather than to the session above it. */
export function isLinkMessage(message: Buffer): boolean {
  return message.length > 0 && (message[0] as number) >= 0x80
}

export function encodeHello(hello: LinkHello): Buffer {
  const name = Buffer.from(hello.name)
  const bytes = Buffer.alloc(42 + name.length)
  bytes[0] = linkType.HELLO
  bytes[1] = LINK_VERSION
  bytes[2] = hello.resume ? 1 : 0
  hello.resume?.id.copy(bytes, 4)
  bytes.writeBigUInt64BE(BigInt(hello.resume?.received ?? 0), 20)
  bytes.writeUInt32BE(hello.replayLimitBytes, 28)
  hello.instance.copy(bytes, 32, 0, INSTANCE_BYTES)
  bytes[40] = hello.connectionIndex
  bytes[41] = name.length
  name.copy(bytes, 42)
  return bytes
}

/** @throws TunnelError PROTOCOL_ERROR, VERSION_MISMATCH */
export function decodeHello(message: Buffer): LinkHello {
  if (message[0] !== linkType.HELLO) throw broken('the first message of a client is a link HELLO')
  needBytes(message, 42, 'link HELLO')
  needVersion(message[1] as number)
  const nameBytes = message[41] as number
  if (nameBytes === 0 || nameBytes > NAME_LIMIT_BYTES)
    throw broken(`a name has 1 to ${NAME_LIMIT_BYTES} bytes`)
  needBytes(message, 42 + nameBytes, 'link HELLO')
  const resume = { id: Buffer.from(message.subarray(4, 20)), received: readCount(message, 20) }
  return {
    ...(message[2] === 1 && { resume }),
    replayLimitBytes: message.readUInt32BE(28),
    instance: Buffer.from(message.subarray(32, 40)),
    connectionIndex: message[40] as number,
    name: message.toString('utf8', 42, 42 + nameBytes)
  }
}

export function encodeWelcome(welcome: LinkWelcome): Buffer {
  const server = Buffer.from(welcome.server)
  const bytes = Buffer.alloc(45 + server.length)
  bytes[0] = linkType.WELCOME
  bytes[1] = LINK_VERSION
  bytes[2] = welcome.resumed ? 1 : 0
  welcome.id.copy(bytes, 4)
  bytes.writeBigUInt64BE(BigInt(welcome.received), 20)
  bytes.writeBigUInt64BE(BigInt(welcome.sendsFrom), 28)
  bytes.writeUInt32BE(welcome.replayLimitBytes, 36)
  bytes.writeUInt32BE(welcome.resumeWindowMs, 40)
  bytes[44] = server.length
  server.copy(bytes, 45)
  return bytes
}

export function encodeRefuse({ code, text }: LinkRefusal): Buffer {
  const said = Buffer.from(text)
  const bytes = Buffer.alloc(4 + said.length)
  bytes[0] = linkType.REFUSE
  bytes[1] = LINK_VERSION
  bytes.writeUInt16BE(errors[code].reset, 2)
  said.copy(bytes, 4)
  return bytes
}

/** @throws TunnelError PROTOCOL_ERROR, VERSION_MISMATCH */
export function decodeAnswer(message: Buffer): { welcome: LinkWelcome } | { refusal: LinkRefusal } {
  if (message[0] === linkType.REFUSE) {
    needBytes(message, 4, 'link REFUSE')
    return { refusal: { code: errorCodeOf(message.readUInt16BE(2)), text: message.toString('utf8', 4) } }
  }
  if (message[0] !== linkType.WELCOME)
    throw broken('the first message of a server is a link WELCOME or REFUSE')
  needBytes(message, 45, 'link WELCOME')
  needVersion(message[1] as number)
  const serverBytes = message[44] as number
  needBytes(message, 45 + serverBytes, 'link WELCOME')
  const welcome = {
    id: Buffer.from(message.subarray(4, 20)),
    resumed: message[2] === 1,
    received: readCount(message, 20),
    sendsFrom: readCount(message, 28),
    replayLimitBytes: message.readUInt32BE(36),
    resumeWindowMs: message.readUInt32BE(40),
    server: message.toString('utf8', 45, 45 + serverBytes)
  }
  return { welcome }
}

/** ACK, PING and PONG are one number: how much was received, or what to echo. */
export function encodeNumber(type: number, value: number): Buffer {
  const bytes = Buffer.allocUnsafe(9)
  bytes[0] = type
  bytes.writeBigUInt64BE(BigInt(value), 1)
  return bytes
}

/** @throws TunnelError PROTOCOL_ERROR */
export function decodeNumber(message: Buffer): number {
  needBytes(message, 9, 'a link message with a number')
  return readCount(message, 1)
}

export function encodeAnnouncement(text: string): Buffer {
  return Buffer.concat([Buffer.from([linkType.ANNOUNCEMENT]), Buffer.from(text)])
}

/** @throws TunnelError PROTOCOL_ERROR */
export function decodeAnnouncement(message: Buffer): string {
  if (message.length > 1 + ANNOUNCEMENT_LIMIT_BYTES)
    throw broken(`an announcement has at most ${ANNOUNCEMENT_LIMIT_BYTES} bytes`)
  return message.toString('utf8', 1)
}

function readCount(message: Buffer, at: number): number {
  const count = message.readBigUInt64BE(at)
  if (count > BigInt(Number.MAX_SAFE_INTEGER)) throw broken('a count is below 2^53')
  return Number(count)
}

function needBytes(message: Buffer, bytes: number, name: string): void {
  if (message.length < bytes) throw broken(`${name} has at least ${bytes} bytes, not ${message.length}`)
}

function needVersion(version: number): void {
  if (version !== LINK_VERSION) {
    throw new TunnelError(
      'VERSION_MISMATCH',
      `this side speaks link version ${LINK_VERSION}, the peer ${version}`
    )
  }
}

function broken(rule: string): TunnelError {
  return new TunnelError('PROTOCOL_ERROR', rule)
}
