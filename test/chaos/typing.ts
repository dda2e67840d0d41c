/** Somebody who types at a fixed pace, whether or not what was typed before came back, and times every round. */
import type { Duplex } from 'node:stream'
import { once } from 'node:events'

const ROUND_BYTES = 64
const PACE_MS = 100

/** `beganMs` on the scale of `performance.now()`. */
export type Round = { beganMs: number; tookMs: number }

export type Typing = {
  /** Those that came back so far, in order. */
  readonly rounds: readonly Round[]
  /** Ends when all rounds are back; rejects when one came back different or not at all. */
  stop(): Promise<void>
}

/** Sends 64 bytes every 100 ms to an echo target. */
export function typing(stream: Duplex): Typing {
  const beganMs: number[] = []
  const rounds: Round[] = []
  let rest = Buffer.alloc(0)
  const timer = setInterval(() => {
    stream.write(round(beganMs.length))
    beganMs.push(performance.now())
  }, PACE_MS)
  stream.on('data', (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk])
    for (; rest.length >= ROUND_BYTES; rest = rest.subarray(ROUND_BYTES)) {
      const at = beganMs[rounds.length]
      if (at === undefined || !rest.subarray(0, ROUND_BYTES).equals(round(rounds.length))) {
        stream.destroy(new Error(`round ${rounds.length} came back different`))
        return
      }
      rounds.push({ beganMs: at, tookMs: performance.now() - at })
    }
  })
  const ended = once(stream, 'end')
  ended.catch(() => {})
  return {
    rounds,
    async stop() {
      clearInterval(timer)
      stream.end()
      await ended
      if (rounds.length < beganMs.length) {
        throw new Error(`${rounds.length} of ${beganMs.length} rounds came back`)
      }
    }
  }
}

function round(number: number): Buffer {
  const bytes = Buffer.alloc(ROUND_BYTES, number & 0xff)
  bytes.writeUInt32BE(number)
  return bytes
}
