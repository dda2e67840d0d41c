/**
 * Streams in a scheduled world: a session over its link, several streams on it that write, pause, end and reset by the
 * same die that breaks the carriers. What each side wrote is known without being kept, so that every byte that
 * arrives is checked at once: the right one, in its place.
 */
import type { Duplex } from 'node:stream'
import { Session, type SessionLimits } from '@tendril/common/mux/session'
import { type World, createWorld, dice } from './schedule.js'
import { dialContext } from '@tendril/common/test/support/dial-context'

/** Small, so that windows, replay buffers and messages are full and cut all the time. */
const LIMITS: Partial<SessionLimits> = {
  windowInitialBytes: 4_096,
  windowMinBytes: 2_048,
  windowMaxBytes: 16_384,
  budgetBytes: 65_536,
  frameLimitBytes: 2_048
}
const LINK_LIMITS = { replayLimitBytes: 8_192, replayMinBytes: 2_048, resumeWindowMs: 60_000 }

/** What all streams send, each from a place of its own: a prime number of bytes without a pattern. */
const NOISE = Buffer.alloc(65_521)
const noise = dice(0x7e4d)
for (let at = 0; at < NOISE.length; at++) NOISE[at] = noise(256)

export type StreamWorld = {
  world: World
  near: Session
  far: Session
  pairs: Pair[]
  /** Dials one more stream; it joins `pairs` when it is open. */
  dial(): void
  /** Dials under way. */
  dialling: () => number
  /** The first thing that went wrong. */
  problem: () => string | undefined
}

/** One end of one stream: what it wrote, and what it read so far of what the other end wrote. */
class End {
  readonly stream: Duplex
  readonly #salt: number
  readonly #otherSalt: number
  readonly #report: (problem: string) => void
  written = 0
  read = 0
  ended = false
  sawEnd = false

  constructor(stream: Duplex, salt: number, otherSalt: number, report: (problem: string) => void) {
    this.stream = stream
    this.#salt = salt
    this.#otherSalt = otherSalt
    this.#report = report
    stream.on('data', (chunk: Buffer) => this.#check(chunk))
    stream.on('end', () => (this.sawEnd = true))
  }

  write(bytes: number): void {
    if (this.ended || this.stream.destroyed) return
    this.stream.write(piece(this.#salt + this.written, bytes))
    this.written += bytes
  }

  end(): void {
    if (this.ended || this.stream.destroyed) return
    this.ended = true
    this.stream.end()
  }

  #check(chunk: Buffer): void {
    if (!chunk.equals(piece(this.#otherSalt + this.read, chunk.length))) {
      this.#report(`wrong bytes at ${this.read}`)
    }
    this.read += chunk.length
  }
}

function piece(at: number, bytes: number): Buffer {
  const start = at % NOISE.length
  const whole = NOISE.subarray(start, start + bytes)
  if (whole.length === bytes) return Buffer.from(whole)
  return Buffer.concat([whole, NOISE.subarray(0, bytes - whole.length)])
}

export class Pair {
  readonly ends: readonly [End, End]
  /** One of the sides reset it on purpose: what was under way may be missing. */
  reset = false

  constructor(id: number, near: Duplex, far: Duplex, report: (problem: string) => void) {
    const say = (words: string): void => report(`stream ${id}: ${words}`)
    this.ends = [new End(near, id * 977, id * 977 + 499, say), new End(far, id * 977 + 499, id * 977, say)]
    for (const { stream } of this.ends) {
      stream.on('error', error => {
        if (!this.reset) say(`error nobody asked for: ${error.message}`)
      })
    }
  }

  /** What is wrong when all is over and nothing more can come. */
  verdict(): string | undefined {
    for (const [end, other] of [this.ends, [...this.ends].reverse()] as [End, End][]) {
      if (end.read > other.written) return `read ${end.read} of ${other.written} bytes`
      if (this.reset) {
        if (!end.stream.destroyed) return 'one end lives on after a reset'
      } else if (end.read !== other.written || !end.sawEnd) {
        return `read ${end.read} of ${other.written} bytes${end.sawEnd ? '' : ', without an end'}`
      }
    }
    return undefined
  }
}

/** A world whose link is up and whose sessions have greeted each other. */
export async function createStreamWorld(seed: number): Promise<StreamWorld> {
  const state = { dialling: 0, opened: 0, problem: undefined as string | undefined }
  const report = (problem: string): void => void (state.problem ??= problem)
  const accepted = new Map<string, Duplex>()
  const pairs: Pair[] = []
  let near: Session | undefined
  const world = createWorld(seed, LINK_LIMITS, link => {
    near = new Session(link, { limits: LIMITS, clock: world.clock })
  })
  const far = new Session(world.client, {
    limits: LIMITS,
    clock: world.clock,
    onOpen: incoming => void accepted.set(incoming.target.host, incoming.accept())
  })
  world.connect()
  for (let turn = 0; near?.state !== 'open' || far.state !== 'open'; turn++) {
    if (turn > 100) throw new Error(`seed ${seed}: the sessions did not greet each other`)
    while (world.step());
    await loopTurn()
  }
  const server = near
  for (const session of [server, far]) {
    session.on('close', error => report(`session closed: ${error.message}`))
  }
  return {
    world,
    near: server,
    far,
    pairs,
    dialling: () => state.dialling,
    problem: () => state.problem,
    dial() {
      const id = ++state.opened
      state.dialling++
      server
        .dial(
          { proto: 'tcp', host: `h${id}`, port: 1 },
          dialContext({ signal: new AbortController().signal, timeoutMs: 600_000 })
        )
        .then(
          stream => {
            const other = accepted.get(`h${id}`)
            if (other) pairs.push(new Pair(id, stream, other, report))
            else report(`stream ${id} opened at one end only`)
          },
          (error: unknown) => report(`dial ${id}: ${String(error)}`)
        )
        .finally(() => state.dialling--)
    }
  }
}

/** Everything that is due in the event loop has happened. */
export function loopTurn(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve))
}

/** Ends every stream that nobody reset, mends the line as often as it takes, and says what is wrong. */
export async function conclude({
  world,
  pairs,
  dialling,
  problem
}: StreamWorld): Promise<string | undefined> {
  for (let round = 0; round < 200; round++) {
    // Each round anew: a dial may only now have come through.
    for (const { ends, reset } of pairs) {
      for (const end of ends) {
        if (!reset) end.end()
        end.stream.resume()
      }
    }
    if (world.client.state === 'down') world.connect()
    for (let turn = 0; turn < 4; turn++) {
      while (world.step());
      await loopTurn()
    }
    // Acknowledgements go out after a while; without them a full replay buffer stays full.
    world.clock.tick(260)
    const open = pairs.some(({ ends }) => ends.some(({ stream }) => !stream.destroyed && !stream.closed))
    if (!open && dialling() === 0) break
  }
  return problem() ?? pairs.map(pair => pair.verdict()).find(Boolean) ?? world.refusals[0]?.message
}
