/**
 * The last part of OPEN, new in version 1.1 (docs/protocol.md §4): where a dial comes from. Pure. Sides of version 1.0
 * send none, and ignore what they receive. Whether the receiver believes it is decided by who is at the other end of
 * the link.
 *
 *     hops u8 │ kind u8 │ length u8, name │ length u8, cluster │ length u8, trace id │ length u8, metadata
 *
 * Metadata is a list of pairs, each `length u8, key, length u8, value`; keys that are not known are ignored.
 */
import type { DialContext } from '../dial.js'
import { TunnelError } from '../errors.js'
import type { Principal } from '../principal.js'
import { HOST } from './frame.js'

/** What a dial's context says of where it comes from. */
export type DialOrigin = Pick<DialContext, 'principal' | 'front' | 'traceId' | 'hops'>

/** Most bytes of each part. With the longest host and cluster, OPEN still fits a frame of 1024 bytes. */
export const ORIGIN_LIMIT_BYTES = { name: 255, cluster: 63, traceId: 64, metadata: 112 } as const

const kindNumber = { caller: 1, client: 2, server: 3, local: 4 } as const satisfies Record<
  Principal['kind'],
  number
>
const kindByNumber = new Map(
  Object.entries(kindNumber).map(([kind, number]) => [number as number, kind as Principal['kind']])
)

const FRONT_KEY = 'front'

/** @throws TunnelError BAD_TARGET when a part has no room, or a character that is not visible ASCII. */
export function encodeOrigin({ principal, front, traceId = '', hops }: DialOrigin): Buffer {
  const cluster = principal.kind === 'client' ? principal.cluster : ''
  const metadata = front === '' ? '' : lengthFirst(FRONT_KEY) + lengthFirst(front)
  checkText('name of a principal', principal.name, ORIGIN_LIMIT_BYTES.name)
  if (principal.kind === 'client') checkText('cluster of a client', cluster, ORIGIN_LIMIT_BYTES.cluster)
  if (traceId !== '') checkText('trace id', traceId, ORIGIN_LIMIT_BYTES.traceId)
  if (front !== '') checkText('front', front, ORIGIN_LIMIT_BYTES.metadata - FRONT_KEY.length - 2)
  return Buffer.from(
    String.fromCharCode(Math.min(hops, 0xff), kindNumber[principal.kind]) +
      [principal.name, cluster, traceId, metadata].map(lengthFirst).join(''),
    'latin1'
  )
}

/** One byte for each character: all that is said here is ASCII. */
function lengthFirst(text: string): string {
  return String.fromCharCode(text.length) + text
}

function checkText(what: string, text: string, limitBytes: number): void {
  if (text.length > limitBytes || !HOST.test(text))
    throw new TunnelError('BAD_TARGET', `a ${what} is 1 to ${limitBytes} visible ASCII characters`)
}

/** Bytes behind these parts are a newer version's. @throws TunnelError BAD_TARGET */
export function decodeOrigin(bytes: Buffer): DialOrigin {
  const reader = new Reader(bytes)
  const hops = reader.number('hops')
  const number = reader.number('kind of the principal')
  const name = reader.text('name of the principal', ORIGIN_LIMIT_BYTES.name)
  const cluster = reader.text('cluster of the principal', ORIGIN_LIMIT_BYTES.cluster)
  const traceId = reader.text('trace id', ORIGIN_LIMIT_BYTES.traceId)
  const pairs = new Reader(reader.part('metadata', ORIGIN_LIMIT_BYTES.metadata))
  let front = ''
  while (!pairs.isAtEnd) {
    const key = pairs.text('key of the metadata', ORIGIN_LIMIT_BYTES.metadata)
    const value = pairs.text('value of the metadata', ORIGIN_LIMIT_BYTES.metadata)
    if (key === FRONT_KEY) front = value
  }
  const kind = kindByNumber.get(number)
  if (!kind) throw bad(`the kind ${number} of the principal is not known`)
  if (name === '') throw bad('the name of the principal is empty')
  if ((kind === 'client') !== (cluster !== '')) throw bad('the principal has a cluster when it is a client')
  const principal: Principal = kind === 'client' ? { kind, name, cluster } : { kind, name }
  return { principal, front, ...(traceId !== '' && { traceId }), hops }
}

/** Reads one part behind the other. */
class Reader {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length
  }

  number(what: string): number {
    const value = this.#bytes[this.#at++]
    if (value === undefined) throw bad(`the ${what} is cut off`)
    return value
  }

  part(what: string, limitBytes: number): Buffer {
    const start = this.#at + 1
    const end = start + this.number(what)
    if (end - start > limitBytes) throw bad(`the ${what} has more than ${limitBytes} bytes`)
    if (end > this.#bytes.length) throw bad(`the ${what} is cut off`)
    this.#at = end
    return this.#bytes.subarray(start, end)
  }

  text(what: string, limitBytes: number): string {
    // Every byte of latin1 is one character: nothing that is not ASCII gets past the test.
    const text = this.part(what, limitBytes).toString('latin1')
    if (text !== '' && !HOST.test(text)) throw bad(`the ${what} has a character that no name has`)
    return text
  }
}

function bad(why: string): TunnelError {
  return new TunnelError('BAD_TARGET', why)
}
