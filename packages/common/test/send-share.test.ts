import t from 'tap'
import { FairScheduler, SHARE_UNITS, TURN_UNITS } from '../src/fair-scheduler.js'
import { RECENT_TURNS, SEND_UNIT_BYTES, type SendShare, SendShares } from '../src/send-share.js'

const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

/** No time passes. */
const newShares = (): SendShares => new SendShares(new FairScheduler({ now: () => 0 }))

/** A sender that always has more, one unit at a time, and writes down what it sends. */
function startSender(share: SendShare, name: string, log: string[], left: number): () => void {
  const send = (): void => {
    for (; left > 0; left--) {
      if (!share.hasRoom) return share.wait(send)
      share.charge(0)
      log.push(name)
    }
  }
  return send
}

t.test('a share has room up to its limit, not beyond it, and is whole again in the next turn', async t => {
  const shares = newShares()
  const [share, other] = [shares.add(), shares.add()]
  other.charge(0)

  share.charge(SEND_UNIT_BYTES * (SHARE_UNITS - 1) - 1)
  t.ok(share.hasRoom)
  share.charge(0)
  t.notOk(share.hasRoom)

  await turn()

  t.ok(share.hasRoom)
})

t.test('a party with nine senders sends as much in a turn as a party with one', async t => {
  const parties = newShares()
  const log: string[] = []
  const [many, one] = [parties.add(), parties.add()]
  one.charge(0)
  for (let at = 0; at < 9; at++) startSender(many, 'many', log, 10 * SHARE_UNITS)()
  startSender(one, 'one', log, 10 * SHARE_UNITS)()

  await turn()

  const count = (name: string): number => log.filter(entry => entry === name).length
  const shares = 1 + TURN_UNITS / SHARE_UNITS / 2
  t.equal(count('many'), shares * SHARE_UNITS)
  t.equal(count('one'), shares * SHARE_UNITS - 1)
})

t.test('a party that is alone has no limit, until another one sends', async t => {
  const shares = newShares()
  const [share, other] = [shares.add(), shares.add()]

  share.charge(100 * SEND_UNIT_BYTES * SHARE_UNITS)
  t.ok(share.hasRoom, 'nobody else has ever sent')

  other.charge(0)
  t.notOk(share.hasRoom)
  for (let turns = 0; turns < RECENT_TURNS; turns++) {
    await turn()
    share.charge(SEND_UNIT_BYTES * SHARE_UNITS)
    t.notOk(share.hasRoom, `the other one sent ${turns + 1} turns ago`)
  }
  await turn()
  share.charge(SEND_UNIT_BYTES * SHARE_UNITS)
  t.ok(share.hasRoom, 'the other one has stopped')
})

t.test('senders of a party that wait send one after the other, a share each', async t => {
  const log: string[] = []
  const shares = newShares()
  const [share, other] = [shares.add(), shares.add()]
  const names = ['a', 'b', 'c']
  other.charge(0)
  for (const name of names) startSender(share, name, log, 4 * SHARE_UNITS)()

  while (log.length < 12 * SHARE_UNITS) {
    other.charge(0)
    await turn()
  }

  const rounds = log.filter((_, at) => at % SHARE_UNITS === 0)
  // Sender a used the first share, and so it was also the first to wait for the next one.
  t.same(rounds, ['a', 'a', 'b', 'c', 'a', 'b', 'c', 'a', 'b', 'c', 'b', 'c'])
})
