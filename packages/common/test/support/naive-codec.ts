/**
 * The codec a second implementer would write from docs/protocol.md in an afternoon: slow, plain, sharing nothing
 * with src/wire. The oracle of the codec's tests and the voice of peers that break rules on purpose.
 */
export type NaiveFrame = { type: string; stream: number; [field: string]: unknown }

const names: Record<number, string> = {
  1: 'HELLO',
  2: 'OPEN',
  3: 'OPENED',
  4: 'REFUSED',
  5: 'DATA',
  6: 'END',
  7: 'RESET',
  8: 'CREDIT',
  9: 'PING',
  10: 'PONG',
  11: 'GOAWAY'
}

/** Every frame of a message as an object; `undefined` when the message is broken anywhere. */
export function naiveDecode(message: Uint8Array, frameLimit = 65536): NaiveFrame[] | undefined {
  const frames: NaiveFrame[] = []
  const bytes = [...message]
  if (bytes.length === 0) return undefined
  for (let at = 0; at < bytes.length;) {
    const [type, ...header] = bytes.slice(at, at + 8)
    if (type === undefined || header.length < 7) return undefined
    const length = number(header.slice(0, 3))
    const payload = bytes.slice(at + 8, at + 8 + length)
    if (length > frameLimit || payload.length < length) return undefined
    const fields = payloadOf(type, payload)
    if (!fields) return undefined
    frames.push({ type: names[type] ?? `0x${type.toString(16)}`, stream: number(header.slice(3)), ...fields })
    at += 8 + length
  }
  return frames
}

function payloadOf(type: number, p: number[]): Record<string, unknown> | undefined {
  switch (names[type]) {
    case 'HELLO':
      if (p.length < 20 || text(p.slice(0, 4)) !== 'TNDL' || number(p.slice(12, 16)) < 1024) return undefined
      return {
        major: p[4],
        minor: p[5],
        features: number(p.slice(8, 12)),
        frameLimitBytes: number(p.slice(12, 16)),
        streamLimit: number(p.slice(16, 20))
      }
    case 'OPEN': {
      if (p.length < 12 || p[11] === 0 || p.length < 13 + p[11]!) return { bad: true }
      const at = 13 + p[11]!
      if (p.length < at + p[at - 1]!) return { bad: true }
      const cluster = text(p.slice(at, at + p[at - 1]!))
      const proto = ['', 'tcp', 'udp', 'icmp'][p[8]!]
      const host = text(p.slice(12, 12 + p[11]!))
      if (!proto || !/^[\x21-\x7e]+$/.test(host) || !/^[\x21-\x7e]*$/.test(cluster)) return { bad: true }
      const timeoutMs = number(p.slice(4, 8))
      const rest = p.slice(at + p[at - 1]!)
      const origin = rest.length > 0 && originOf(rest)
      if (origin === undefined) return { bad: true }
      return {
        credit: number(p.slice(0, 4)),
        timeoutMs,
        proto,
        port: number(p.slice(9, 11)),
        host,
        cluster,
        ...(origin && { origin })
      }
    }
    case 'OPENED':
    case 'CREDIT':
      return p.length < 4 ? undefined : { credit: number(p.slice(0, 4)) }
    case 'REFUSED':
    case 'RESET':
    case 'GOAWAY':
      return p.length < 2 ? undefined : { code: number(p.slice(0, 2)), text: text(p.slice(2)) }
    case 'PING':
    case 'PONG':
      return p.length < 8 ? undefined : { opaque: Buffer.from(p.slice(0, 8)).toString('hex') }
    case 'DATA':
      return { data: Buffer.from(p).toString('hex') }
    default:
      return {}
  }
}

/** The origin at the end of an OPEN; `undefined` when it is broken. */
function originOf([hops, kind, ...rest]: number[]): Record<string, unknown> | undefined {
  const kindName = ['', 'caller', 'client', 'server', 'local'][kind ?? 0]
  const parts = lengthFirstParts(rest, 4)
  if (hops === undefined || !kindName || !parts) return undefined
  const [name, cluster, traceId, metadata] = parts as [number[], number[], number[], number[]]
  if (cluster.length > 63 || traceId.length > 64 || metadata.length > 112) return undefined
  const pairs = lengthFirstParts(metadata, Infinity)
  if (!pairs || pairs.length % 2 === 1) return undefined
  const isVisible = (bytes: number[]): boolean => bytes.every(byte => byte >= 0x21 && byte <= 0x7e)
  if (![name, cluster, traceId, ...pairs].every(isVisible)) return undefined
  if (name.length === 0 || (kindName === 'client') !== cluster.length > 0) return undefined
  const front = pairs.filter((_, at) => at % 2 === 1 && text(pairs[at - 1]!) === 'front').at(-1) ?? []
  return {
    hops,
    kind: kindName,
    name: text(name),
    cluster: text(cluster),
    traceId: text(traceId),
    front: text(front)
  }
}

/** Up to `count` parts, each behind a byte with its length; `undefined` when one is cut off or missing. */
function lengthFirstParts(bytes: number[], count: number): number[][] | undefined {
  const parts: number[][] = []
  let at = 0
  while (parts.length < count && (at < bytes.length || count < Infinity)) {
    const length = bytes[at]
    if (length === undefined || at + 1 + length > bytes.length) return undefined
    parts.push(bytes.slice(at + 1, at + 1 + length))
    at += 1 + length
  }
  return parts
}

/** The origin that an OPEN of version 1.1 ends with. */
export function naiveOrigin({
  hops = 0,
  kind = 1,
  name = 'kube-apiserver',
  cluster = '',
  traceId = '',
  metadata = ''
} = {}): Buffer {
  const parts = [name, cluster, traceId, metadata].map(part => Buffer.from(part, 'latin1'))
  return Buffer.from([hops, kind, ...parts.flatMap(part => [part.length, ...part])])
}

/** One frame from its parts; the payload is bytes, text, or hex after `0x`. */
export function naiveFrame(type: number, stream: number, payload: Uint8Array | string = ''): Buffer {
  const body =
    typeof payload === 'string' && payload.startsWith('0x')
      ? Buffer.from(payload.slice(2).replaceAll(' ', ''), 'hex')
      : Buffer.from(payload)
  return Buffer.from([type, ...digits(body.length, 3), ...digits(stream, 4), ...body])
}

export function naiveHello({
  major = 1,
  minor = 0,
  features = 0,
  frameLimit = 65536,
  streamLimit = 8192
} = {}): Buffer {
  return naiveFrame(
    1,
    0,
    Buffer.from([
      ...Buffer.from('TNDL'),
      major,
      minor,
      0,
      0,
      ...digits(features, 4),
      ...digits(frameLimit, 4),
      ...digits(streamLimit, 4)
    ])
  )
}

const NO_ORIGIN: Buffer = Buffer.alloc(0)

export function naiveOpen(
  stream: number,
  {
    credit = 65536,
    timeoutMs = 4000,
    proto = 1,
    port = 80,
    host = 'pod',
    cluster = '',
    origin = NO_ORIGIN
  } = {}
): Buffer {
  const name = Buffer.from(host)
  const owner = Buffer.from(cluster)
  return naiveFrame(
    2,
    stream,
    Buffer.from([
      ...digits(credit, 4),
      ...digits(timeoutMs, 4),
      proto,
      ...digits(port, 2),
      name.length,
      ...name,
      owner.length,
      ...owner,
      ...origin
    ])
  )
}

/** `value` as a big-endian number of `bytes` bytes. */
export function digits(value: number, bytes: number): number[] {
  return Array.from({ length: bytes }, (_, at) => Math.floor(value / 256 ** (bytes - 1 - at)) % 256)
}

function number(bytes: number[]): number {
  return bytes.reduce((sum, byte) => sum * 256 + byte, 0)
}

function text(bytes: number[]): string {
  return new TextDecoder().decode(Uint8Array.from(bytes))
}
