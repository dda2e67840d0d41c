/**
 * Sessions for tests: two joined in memory, or one that talks to a `RawPeer`, which says exactly the bytes a test
 * wants said and notes what it hears.
 */
import { EventEmitter, once } from 'node:events'
import type { Duplex } from 'node:stream'
import type { Clock } from '../../src/clock.js'
import type { Target } from '../../src/dial.js'
import type { TunnelError } from '../../src/errors.js'
import { type IncomingDial, Session, type SessionLimits } from '../../src/mux/session.js'
import type { Parity } from '../../src/mux/stream-numbers.js'
import { feature } from '../../src/wire/frame.js'
import { type MemoryCarrier, memoryCarriers } from './memory-carrier.js'
import { type NaiveFrame, naiveDecode, naiveFrame, naiveHello } from './naive-codec.js'
import { dialContext } from './dial-context.js'

/** What a helper needs of a test: somewhere to leave the cleaning up. */
export type Teardown = { teardown(clean: () => void): void }

/** After so long what is waited for counts as never happening: against hanging, and no measure of anything. */
const PATIENCE_MS = 60_000

export const POD: Target = { proto: 'tcp', host: 'pod', port: 80 }

export const never = (): AbortSignal => new AbortController().signal

type Options = {
  limits?: Partial<SessionLimits>
  nearLimits?: Partial<SessionLimits>
  farLimits?: Partial<SessionLimits>
  clock?: Clock
  highWaterBytes?: number
  /** Default: accepts, and hands the stream to `pair.accepted`. */
  onOpen?: (incoming: IncomingDial) => void
}

export type SessionPair = {
  /** Dials. */
  near: Session
  /** Answers. */
  far: Session
  nearCarrier: MemoryCarrier
  farCarrier: MemoryCarrier
  /** One stream, both ends of it. */
  stream(): Promise<{ caller: Duplex; target: Duplex }>
  close(): void
}

export function sessionPair(t: Teardown, options: Options = {}): SessionPair {
  const [nearCarrier, farCarrier] = memoryCarriers(options)
  const accepted: Duplex[] = []
  const onOpen = options.onOpen ?? ((incoming: IncomingDial) => void accepted.push(incoming.accept()))
  const clock = options.clock
  const near = new Session(nearCarrier, {
    limits: { ...options.limits, ...options.nearLimits },
    ...(clock && { clock })
  })
  const far = new Session(farCarrier, {
    limits: { ...options.limits, ...options.farLimits },
    onOpen,
    ...(clock && { clock })
  })
  const close = (): void => {
    near.close()
    far.close()
  }
  t.teardown(close)
  return {
    near,
    far,
    nearCarrier,
    farCarrier,
    close,
    async stream() {
      const caller = await near.dial(POD, dialContext())
      const target = accepted.shift()
      if (!target) throw new Error('nobody accepted')
      return { caller, target }
    }
  }
}

/** The other end of a carrier, played by a test. */
export class RawPeer extends EventEmitter<{ frame: [NaiveFrame]; close: [TunnelError] }> {
  readonly carrier: MemoryCarrier
  /** Frames heard and not yet taken by `expect`. */
  frames: NaiveFrame[] = []
  closedWith: TunnelError | undefined

  constructor(carrier: MemoryCarrier) {
    super()
    this.carrier = carrier
    carrier.on('message', message => {
      for (const frame of naiveDecode(message) ?? []) {
        this.frames.push(frame)
        this.emit('frame', frame)
      }
    })
    carrier.on('close', error => {
      this.closedWith = error
      this.emit('close', error)
    })
  }

  /** One message of these frames. */
  say(...frames: Buffer[]): void {
    this.carrier.send(Buffer.concat(frames))
  }

  /** The next frame of this type; those before it are dropped. */
  async expect(type: string): Promise<NaiveFrame> {
    for (;;) {
      const at = this.frames.findIndex(frame => frame.type === type)
      if (at >= 0) {
        const frame = this.frames[at]!
        this.frames.splice(0, at + 1)
        return frame
      }
      if (this.closedWith) throw this.closedWith
      await this.#received('frame')
    }
  }

  async closed(): Promise<TunnelError> {
    if (!this.closedWith) await this.#received('close')
    return this.closedWith!
  }

  /** The next frame, or the close of the carrier. */
  async #received(event: 'frame' | 'close'): Promise<void> {
    const late = new AbortController()
    const timer = setTimeout(() => late.abort(new Error(`no ${event} in ${PATIENCE_MS} ms`)), PATIENCE_MS)
    const closed = event === 'frame' ? [once(this, 'close', { signal: late.signal })] : []
    await Promise.race([once(this, event, { signal: late.signal }), ...closed]).finally(() => {
      clearTimeout(timer)
      late.abort()
    })
  }

  /** Everything said so far has been heard and answered: PING comes back. */
  async settled(): Promise<void> {
    this.say(naiveFrame(9, 0, '0x5e771ed05e771ed0'))
    for (;;) {
      const pong = await this.expectKeeping('PONG')
      if (pong.opaque === '5e771ed05e771ed0') return
    }
  }

  async expectKeeping(type: string): Promise<NaiveFrame> {
    const kept: NaiveFrame[] = []
    for (;;) {
      const frame = this.frames.shift()
      if (!frame) {
        if (this.closedWith) throw this.closedWith
        await this.#received('frame')
        continue
      }
      if (frame.type === type) {
        this.frames = [...kept, ...this.frames]
        return frame
      }
      kept.push(frame)
    }
  }
}

/** A session of ours and a raw peer that has said HELLO (unless `hello` is false). */
export function sessionAndPeer(
  t: Teardown,
  options: Options & { answers?: boolean; hello?: boolean; twoWay?: Parity } = {}
): { session: Session; peer: RawPeer; carrier: MemoryCarrier; accepted: Duplex[]; incoming: IncomingDial[] } {
  const [carrier, peerCarrier] = memoryCarriers(options)
  const accepted: Duplex[] = []
  const incoming: IncomingDial[] = []
  const onOpen =
    options.onOpen ??
    ((dial: IncomingDial) => {
      incoming.push(dial)
      accepted.push(dial.accept())
    })
  const peer = new RawPeer(peerCarrier)
  const session = new Session(carrier, {
    ...(options.limits && { limits: options.limits }),
    ...(options.clock && { clock: options.clock }),
    ...(options.answers && { onOpen }),
    ...(options.twoWay && { twoWay: options.twoWay })
  })
  t.teardown(() => session.close())
  const { answers, twoWay } = options
  const said = twoWay ? { minor: 1, features: feature.TWO_WAY } : { streamLimit: answers ? 0 : 8192 }
  if (options.hello !== false) peer.say(naiveHello(said))
  return { session, peer, carrier, accepted, incoming }
}

/** A few turns of the event loop. */
export async function turns(count = 10): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise(resolve => setImmediate(resolve))
}

/** Waits, by turns of the event loop, until `fact` holds. */
export async function until(fact: () => boolean, timeoutMs = PATIENCE_MS): Promise<void> {
  const limit = performance.now() + timeoutMs
  while (!fact()) {
    if (performance.now() > limit) throw new Error(`waited ${timeoutMs} ms in vain for ${fact.toString()}`)
    await turns(1)
  }
}

/** Everything that can still be read. By events: `for await` would destroy the stream at its end. */
export async function readAll(from: Duplex): Promise<Buffer> {
  const chunks: Buffer[] = []
  from.on('data', (chunk: Buffer) => void chunks.push(chunk))
  if (!from.readableEnded) await once(from, 'end')
  return Buffer.concat(chunks)
}

/** The error a stream closes with, or undefined when it closes in order. */
export async function closeOf(stream: Duplex): Promise<TunnelError | undefined> {
  if (!stream.closed) await new Promise(resolve => stream.once('close', resolve))
  return (stream.errored ?? undefined) as TunnelError | undefined
}
