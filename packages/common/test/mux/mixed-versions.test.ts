/**
 * This version beside version 1.0, as it was recorded: the recorded side is played from the transcript, and this side has to
 * say what it said then. See support/record-transcripts.ts.
 */
import t from 'tap'
import { Session } from '../../src/mux/session.js'
import { Answerer, CONTEXT, OUTCOMES, dialAll } from '../support/conversation.js'
import { memoryCarriers } from '../support/memory-carrier.js'
import { type NaiveFrame, naiveDecode } from '../support/naive-codec.js'
import type { Step } from '../support/record-transcripts.js'
import { until } from '../support/sessions.js'
import { transcripts } from './transcripts-1.0.js'

for (const [name, { dials, cluster, twoWay, steps }] of Object.entries(transcripts)) {
  t.test(`${name} understand each other as they did when it was recorded`, async t => {
    const [peerCarrier, carrier] = memoryCarriers()
    const said: NaiveFrame[] = []
    peerCarrier.on('message', message => void said.push(...framesOf(message)))
    const answerer = new Answerer()
    const { onOpen } = answerer
    const session = new Session(carrier, {
      ...(twoWay && { twoWay, onOpen }),
      ...(dials === '1.0' && { onOpen })
    })
    t.teardown(() => session.close())
    const outcomes = dials === 'current' ? dialAll(session, cluster ? { cluster } : {}) : undefined

    if (!outcomes) void answerer.cancelled.then(() => session.drain('DRAINING', 'enough'))

    let expected = 0
    for (const { from, hex } of steps) {
      const message = Buffer.from(hex, 'hex')
      if (from === '1.0') {
        peerCarrier.send(message)
        continue
      }
      const frames = framesOf(message)
      expected += frames.length
      await until(() => said.length >= expected)
      t.strictSame(said.slice(expected - frames.length, expected), frames)
    }

    if (outcomes) {
      t.strictSame(await outcomes, OUTCOMES)
      await until(() => session.peerIsLeaving)
    } else {
      await until(() => answerer.incoming.length === OUTCOMES.length)
      for (const { origin, target } of answerer.incoming) {
        t.equal(origin, undefined, 'version 1.0 says nothing of it')
        t.equal(target.cluster, cluster)
      }
    }
    t.equal(session.twoWay, false)
    t.not(session.state, 'closed')
    t.equal(session.streamCount, 0)
  })
}

t.test('the recorded sides are of version 1.0 and of a version with an origin in OPEN', async t => {
  for (const { dials, steps } of Object.values(transcripts)) {
    const hello = (from: Step['from']) => allFrames(steps, from).find(({ type }) => type === 'HELLO')
    t.match(hello('1.0'), { major: 1, minor: 0, features: 0 })
    t.match(hello('current'), { major: 1, minor: 1 })
    for (const open of allFrames(steps, dials).filter(({ type }) => type === 'OPEN')) {
      if (dials === '1.0') t.equal(open.origin, undefined)
      else t.match(open.origin, { name: 'kube-apiserver', front: CONTEXT.front, traceId: CONTEXT.traceId })
    }
  }
})

function allFrames(steps: readonly Step[], side: Step['from']): NaiveFrame[] {
  return steps.flatMap(({ from, hex }) => (from === side ? framesOf(Buffer.from(hex, 'hex')) : []))
}

/** Without PING and PONG: when they are sent depends on the time. */
function framesOf(message: Buffer): NaiveFrame[] {
  const frames = naiveDecode(message)
  if (!frames) throw new Error('a message that the oracle does not understand')
  return frames.filter(({ type }) => type !== 'PING' && type !== 'PONG')
}
