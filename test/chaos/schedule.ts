/**
 * A world of two link ends in which a seeded die decides what happens next: a message arrives, a carrier breaks
 * (each side hearing of it at a time of its own), the client connects once more while the old carrier still
 * delivers, time passes. No sockets, no event loop: ten thousand worlds a minute, each repeatable by its seed.
 */
import { EventEmitter } from 'node:events'
import { type Carrier, type CarrierEvents, type ErrorCode, TunnelError } from '@tendril/common'
import { shakeHands } from '@tendril/common/link/handshake'
import { LinkHost } from '@tendril/common/link/host'
import { Link, type LinkLimits } from '@tendril/common/link/link'
import { FakeClock } from '@tendril/common/test/support/fake-clock'

/** Mulberry32: small, and the same everywhere. */
export function dice(seed: number): (sides: number) => number {
  let state = seed >>> 0
  return sides => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % sides
  }
}

/** One end of a carrier whose messages wait until the schedule delivers them. */
class ScheduledCarrier extends EventEmitter<CarrierEvents> implements Carrier {
  peer!: ScheduledCarrier
  readonly #underWay: (Buffer | TunnelError)[] = []
  #over = false
  #broken = false
  #full = false
  #paused = false
  bytesReceived = 0

  get over(): boolean {
    return this.#over
  }

  get hasUnderWay(): boolean {
    return this.#underWay.length > 0 && !this.#broken && !this.peer.#paused
  }

  get isFull(): boolean {
    return this.#full
  }

  send(message: Buffer): boolean {
    if (this.#over || this.#broken) return true
    this.#underWay.push(Buffer.from(message))
    // Who was told to wait is told when it is over, whatever else is sent meanwhile.
    if (this.#underWay.length >= 4) this.#full = true
    return !this.#full
  }

  close(code: ErrorCode, detail?: string): void {
    if (this.#over) return
    const reason = new TunnelError(code, detail)
    if (!this.#broken) this.#underWay.push(reason)
    this.end(reason)
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    this.#paused = false
  }

  terminate(error: TunnelError): void {
    this.break()
    this.end(error)
  }

  /** What this side sent and is still under way is lost, and so is what it will send. */
  break(partBytes = 0): void {
    // Half a message is a sign of life and nothing else.
    const [next] = this.#underWay
    if (next instanceof Buffer && !this.peer.#over) {
      this.peer.bytesReceived += Math.min(partBytes, next.length - 1)
      this.peer.emit('bytes')
    }
    this.#broken = true
    this.#underWay.length = 0
  }

  /** This side hears that the carrier is over. */
  end(reason: TunnelError): void {
    if (this.#over) return
    this.#over = true
    this.emit('close', reason)
  }

  /** The next thing that this side sent reaches the other. */
  deliver(): void {
    const item = this.#underWay.shift()
    if (item === undefined) return
    if (item instanceof TunnelError) return this.peer.end(item)
    if (!this.peer.#over) {
      this.peer.bytesReceived += item.length
      this.peer.emit('bytes')
      this.peer.emit('message', item)
    }
    if (this.#full && this.#underWay.length < 2) {
      this.#full = false
      if (!this.#over) this.emit('drain')
    }
  }
}

export type World = {
  client: Link
  /** Undefined until the first handshake has reached the server. */
  server: () => Link | undefined
  clock: FakeClock
  /** Lets one thing happen; false when there is nothing left that could without a new carrier. */
  step(): boolean
  /** A carrier breaks, between two messages or in the middle of one; each side hears of it in a later step. */
  cut(): void
  /** The client opens one more carrier, whether or not the old one is over. */
  connect(): void
  /** Handshakes that were refused. */
  refusals: TunnelError[]
  stats: { carriers: number; resumes: number; replayedBytes: number; delivered: number }
}

export function createWorld(
  seed: number,
  limits: Partial<LinkLimits>,
  onServer: (link: Link) => void
): World {
  const roll = dice(seed)
  const clock = new FakeClock()
  let serverLink: Link | undefined
  let asking = false
  const stats = { carriers: 0, resumes: 0, replayedBytes: 0, delivered: 0 }
  const host = new LinkHost<{ key: string }>({
    server: 's',
    clock,
    limits,
    onLink: link => {
      serverLink = link
      onServer(link)
    }
  })
  const client = new Link({ clock, limits })
  client.on('up', ({ first, replayedBytes }) => {
    stats.resumes += first ? 0 : 1
    stats.replayedBytes += replayedBytes
  })
  const self = { name: 'c', instance: Buffer.alloc(8, 1), connectionIndex: 0 }
  const carriers: ScheduledCarrier[] = []
  const endings: (() => void)[] = []
  const refusals: TunnelError[] = []

  return {
    client,
    server: () => serverLink,
    clock,
    refusals,
    stats,
    connect() {
      // A client asks for one link over one carrier at a time (docs/protocol.md §6).
      if (asking) return
      asking = true
      const near = new ScheduledCarrier()
      const far = new ScheduledCarrier()
      near.peer = far
      far.peer = near
      carriers.push(near, far)
      stats.carriers++
      host.accept(far, { key: 'k' })
      shakeHands(near, client, self, { clock })
        .catch((error: unknown) => {
          const refusal = TunnelError.from(error)
          if (refusal.code !== 'LINK_LOST') refusals.push(refusal)
          near.close('CLOSED')
        })
        .finally(() => (asking = false))
    },
    cut() {
      const alive = carriers.filter(carrier => !carrier.over)
      const near = alive[roll(alive.length || 1)]
      if (!near) return
      const both = [near, near.peer]
      for (const carrier of both) {
        carrier.break(roll(2) ? roll(4_096) : 0)
        endings.push(() => carrier.end(new TunnelError('LINK_LOST', 'cut')))
      }
    },
    step() {
      const ready = carriers.filter(carrier => carrier.hasUnderWay)
      const choices = ready.length + endings.length
      if (choices === 0) return false
      const choice = roll(choices)
      if (choice < ready.length) {
        stats.delivered++
        ;(ready[choice] as ScheduledCarrier).deliver()
      } else {
        endings.splice(choice - ready.length, 1)[0]?.()
      }
      return true
    }
  }
}
