/** Sessions of one party have one share of a turn to send in, however many they are. */
import type { Duplex } from 'node:stream'
import t from 'tap'
import { FairScheduler } from '../../src/fair-scheduler.js'
import { Session, type SessionOptions } from '../../src/mux/session.js'
import { SendShares } from '../../src/send-share.js'
import { dialContext } from '../support/dial-context.js'
import { memoryCarriers } from '../support/memory-carrier.js'
import { type Teardown, POD, until } from '../support/sessions.js'

const MIB = 1 << 20

const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

/** One stream of a session of this party, and what has arrived at its other end. */
async function upload(t: Teardown, options: SessionOptions) {
  // The carrier never says "wait": only the share can.
  const [nearCarrier, farCarrier] = memoryCarriers({ highWaterBytes: 1 << 30 })
  const near = new Session(nearCarrier, options)
  const targets: Duplex[] = []
  const far = new Session(farCarrier, {
    limits: { windowInitialBytes: 4 * MIB },
    onOpen: incoming => void targets.push(incoming.accept())
  })
  t.teardown(() => {
    near.close()
    far.close()
  })
  const stream = await near.dial(POD, dialContext())
  const target = targets[0] as Duplex
  const received = { bytes: 0, ended: false }
  target.on('data', (chunk: Buffer) => (received.bytes += chunk.length))
  target.on('end', () => (received.ended = true))
  return { near, stream, received }
}

t.test('a party with three sessions sends no more than a party with one', async t => {
  const shares = new SendShares(new FairScheduler({ now: () => 0 }))
  const [many, one] = [shares.add(), shares.add()]
  const ofMany = await Promise.all([1, 2, 3].map(() => upload(t, { sendShare: many })))
  const ofOne = await upload(t, { sendShare: one })

  for (const { stream } of [...ofMany, ofOne]) stream.write('x')
  await turn()
  for (const { stream } of [...ofMany, ofOne]) stream.end(Buffer.alloc(16 * MIB, 'x'))
  // Before any of them waits for credit.
  while (ofOne.near.bytes.sent < 3 * MIB) await turn()

  const sent = ofMany.reduce((bytes, { near }) => bytes + near.bytes.sent, 0)
  const most = ofOne.near.bytes.sent + 2 * MIB
  t.ok(sent > 2 * MIB && sent <= most, `${sent / MIB} MiB of the three beside 3 MiB of the one`)
  await until(() => [...ofMany, ofOne].every(({ received }) => received.ended))
  for (const { received } of [...ofMany, ofOne]) t.equal(received.bytes, 1 + 16 * MIB)
})

t.test('a session that closes needs no share for what it still has to send', async t => {
  const shares = new SendShares(new FairScheduler({ now: () => 0 }))
  const [share, other] = [shares.add(), shares.add()]
  const { near, stream, received } = await upload(t, { sendShare: share })

  other.charge(0)
  share.charge(64 * MIB)
  t.notOk(share.hasRoom)
  stream.end('the end')
  near.close()
  await until(() => received.ended)

  t.equal(received.bytes, 'the end'.length)
})
