/**
 * 100 000 messages nobody should send, at the decoder and at whole sessions: nothing is thrown, nothing hangs, memory
 * stays flat. The seed is printed; `FUZZ_SEED=…` runs the same messages again.
 */
import t from 'tap'
import { TunnelError } from '../../src/errors.js'
import { eachFrame } from '../support/each-frame.js'
import { collectGarbage } from '../support/garbage.js'
import { digits, naiveFrame, naiveHello, naiveOpen, naiveOrigin } from '../support/naive-codec.js'
import { POD, sessionAndPeer, turns, until } from '../support/sessions.js'
import { dialContext } from '../support/dial-context.js'

const MESSAGES = 100_000
const SEED = Number(process.env.FUZZ_SEED ?? Math.floor(Math.random() * 2 ** 31))

/** A small generator of our own (mulberry32), so that a seed means the same everywhere. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0
  return below => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

function bytes(below: (n: number) => number, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => below(256)))
}

/** Mostly a sensible frame with sensible or odd numbers, so that the interesting places are reached. */
function frame(below: (n: number) => number): Buffer {
  const stream = below(4) === 0 ? below(2 ** 32) : below(40)
  const odd = (): number => [0, 1, 0x7fffffff, 0x80000000, 0xffffffff, below(100_000)][below(6)]!
  switch (below(16)) {
    case 0:
      return naiveHello({ major: below(3), minor: below(3), frameLimit: odd(), streamLimit: odd() })
    case 1:
    case 2:
    case 3:
      return naiveOpen(below(8) === 0 ? stream : next(), {
        credit: odd(),
        proto: below(5),
        port: below(65536),
        host: 'x'.repeat(below(5)),
        ...(below(3) === 0 && { origin: origin(below) })
      })
    case 4:
      return naiveFrame(3, stream, Buffer.from(digits(odd(), 4)))
    case 5:
      return naiveFrame(4, stream, Buffer.concat([bytes(below, 2), bytes(below, below(20))]))
    case 6:
    case 7:
    case 8:
      return naiveFrame(5, stream, bytes(below, below(50)))
    case 9:
      return naiveFrame(6, stream)
    case 10:
      return naiveFrame(7, stream, bytes(below, 2))
    case 11:
      return naiveFrame(8, stream, Buffer.from(digits(odd(), 4)))
    case 12:
      return naiveFrame(9 + below(2), below(20) === 0 ? stream : 0, bytes(below, 8))
    case 13:
      return naiveFrame(11, 0, bytes(below, 2))
    case 14:
      return naiveFrame(below(256), stream, bytes(below, below(30)))
    default:
      return bytes(below, 1 + below(40))
  }
}

/** Mostly a whole one, so that what stands behind it is reached. */
function origin(below: (n: number) => number): Buffer {
  const whole = naiveOrigin({
    hops: below(256),
    kind: below(6),
    name: 'n'.repeat(below(256)),
    cluster: 'c'.repeat(below(3) === 0 ? 1 + below(80) : 0),
    traceId: 't'.repeat(below(80)),
    metadata: bytes(below, below(20)).toString('latin1')
  })
  return below(4) === 0 ? whole.subarray(0, below(whole.length)) : whole
}

let lastOpened = 0
const next = (): number => (lastOpened += step)
/** 2: all even, as from a peer that takes part in TWO_WAY. */
let step = 1

function message(below: (n: number) => number): Buffer {
  const frames = Array.from({ length: 1 + below(4) }, () => frame(below))
  const whole = Buffer.concat(frames)
  if (below(6) === 0) whole[below(whole.length)] = below(256)
  return below(20) === 0 ? whole.subarray(0, below(whole.length)) : whole
}

t.test(
  `${MESSAGES} messages at the decoder: frames, or an error that names a rule (seed ${SEED})`,
  async t => {
    const below = random(SEED)
    let good = 0
    let bad = 0

    for (let count = 0; count < MESSAGES; count++) {
      try {
        eachFrame(message(below), () => {})
        good++
      } catch (error) {
        if (!(
          error instanceof TunnelError &&
          error.code === 'PROTOCOL_ERROR' &&
          / \(byte \d+\)$/.test(error.detail!)
        ))
          throw error
        bad++
      }
    }

    t.equal(good + bad, MESSAGES)
    t.ok(good > 1000 && bad > 1000, `${good} good, ${bad} bad`)
  }
)

/** Each session is closed here and then forgotten; a teardown would keep it. */
const untidy = { teardown: () => {} }

for (const sides of ['answer', 'dial', 'answer and dial'] as const) {
  const answers = sides !== 'dial'
  t.test(
    `${MESSAGES} messages at sessions that ${sides}: each works or closes with a reason (seed ${SEED})`,
    async t => {
      const below = random(SEED + sides.length)
      const reasons = new Map<string, number>()
      let sent = 0
      let sessions = 0
      let heapBefore = 0

      while (sent < MESSAGES) {
        if (sessions === 500) {
          await collectGarbage()
          heapBefore = process.memoryUsage().heapUsed
        }
        sessions++
        lastOpened = 0
        step = sides === 'answer and dial' ? 2 : 1
        const { session, peer, accepted } = sessionAndPeer(untidy, {
          answers,
          ...(sides === 'answer and dial' && { twoWay: 'odd' as const }),
          limits: { streamLimit: 20 }
        })
        const dials =
          sides === 'answer' ? [] : Array.from({ length: 5 }, () => session.dial(POD, dialContext()))
        for (const dial of dials)
          dial.then(
            stream => stream.end('hello').resume(),
            () => {}
          )
        let closed = false
        session.on('close', error => {
          closed = true
          reasons.set(error.code, (reasons.get(error.code) ?? 0) + 1)
          if (!error.detail) throw new Error('no reason')
        })
        for (let count = 0; count < 100 && !closed; count++) {
          peer.say(message(below))
          sent++
          if (below(4) === 0) await turns(1)
          for (const stream of accepted.splice(0)) {
            if (below(2) === 0) stream.resume()
            if (below(2) === 0) stream.write('answer')
            if (below(3) === 0) stream.end()
            if (below(5) === 0) stream.destroy()
          }
        }
        session.close('CLOSED', 'enough')
        await until(() => peer.closedWith !== undefined)
        if (session.streamCount !== 0) throw new Error('streams are left')
      }
      await collectGarbage()
      const grown = process.memoryUsage().heapUsed - heapBefore

      t.ok((reasons.get('PROTOCOL_ERROR') ?? 0) > 100, JSON.stringify(Object.fromEntries(reasons)))
      t.comment(`${sessions} sessions, heap grew by ${Math.round(grown / 1024)} KiB`)
      t.ok(grown < 8 << 20)
    }
  )
}
