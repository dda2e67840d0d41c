/** Callers' traffic for the chaos tests: transfers whose hash is known, and streams that notice any wrong byte. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import type { Test } from 'tap'
import { pseudoRandom } from '../support/targets.js'

export const MIB = 1 << 20
export const WHOLE = process.env['TENDRIL_CHAOS'] === 'whole'

/** Reads to the end. */
export async function hashOf(stream: Duplex): Promise<string> {
  const hash = createHash('sha256')
  stream.on('data', (chunk: Buffer) => hash.update(chunk))
  await once(stream, 'end')
  stream.end()
  return hash.digest('hex')
}

/** Writes `bytes` and ends. Resolves with the hash of what was written. */
export async function upload(stream: Duplex, bytes: number): Promise<string> {
  const hash = createHash('sha256')
  for (const chunk of pseudoRandom(bytes, 3)) {
    hash.update(chunk)
    if (!stream.write(chunk)) await once(stream, 'drain')
  }
  stream.end()
  stream.resume()
  await once(stream, 'close')
  return hash.digest('hex')
}

export type Echo = {
  /** Rounds that came back so far. */
  rounds: () => number
  /** The longest that a round took, in milliseconds. */
  slowestMs: () => number
  /** Ends after the round under way; rejects when anything ever went wrong. */
  stop(): Promise<void>
}

/** Sends numbers to an echo target, one round after the other, and checks what comes back. */
export function echo(stream: Duplex, roundBytes = 64, pauseMs = 20): Echo {
  const state = { rounds: 0, slowestMs: 0, stopping: false }
  const run = (async () => {
    for (; !state.stopping; state.rounds++) {
      const began = performance.now()
      const sent = Buffer.alloc(roundBytes, state.rounds & 0xff)
      sent.writeUInt32BE(state.rounds)
      stream.write(sent)
      let got = Buffer.alloc(0)
      while (got.length < roundBytes) {
        const [chunk] = (await once(stream, 'data')) as [Buffer]
        got = Buffer.concat([got, chunk])
      }
      if (!got.equals(sent)) throw new Error(`round ${state.rounds} came back different`)
      state.slowestMs = Math.max(state.slowestMs, performance.now() - began)
      await new Promise(resolve => setTimeout(resolve, pauseMs))
    }
    stream.end()
    if (!stream.readableEnded) await once(stream, 'end')
  })()
  run.catch(() => {})
  return {
    rounds: () => state.rounds,
    slowestMs: () => state.slowestMs,
    stop: () => {
      state.stopping = true
      return run
    }
  }
}

/** Log lines of one message, parsed. */
export function logged(log: string, message: string): Record<string, unknown>[] {
  return log
    .split('\n')
    .filter(line => line.includes(`"${message}"`))
    .map(line => JSON.parse(line) as Record<string, unknown>)
}

/** How long something takes until it has happened, in milliseconds. */
export async function took(action: Promise<unknown> | (() => Promise<unknown>)): Promise<number> {
  const began = performance.now()
  await (typeof action === 'function' ? action() : action)
  return Math.round(performance.now() - began)
}

/** Shows figures in the test's output, for docs/operations.md. */
export function figure(t: Test, what: string, value: string | number): void {
  t.comment(`figure: ${what}: ${value}`)
}
