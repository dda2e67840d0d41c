import t from 'tap'
import { FairScheduler, SHARE_UNITS, type Share, TURN_MS, TURN_UNITS } from '../src/fair-scheduler.js'

/** No time passes. */
const still = { now: () => 0 }

/** One that always has `left` more to do, a unit at a time, and writes down when. */
function worker(scheduler: FairScheduler, name: string, log: string[], left: number) {
  const share: Share = scheduler.share(() => {
    while (state.left > 0 && !share.isExhausted) {
      share.charge(1)
      state.left--
      state.turns.push(scheduler.turn)
      log.push(name)
    }
    if (state.left > 0) share.wait()
  })
  const state = { left, turns: [] as number[] }
  return { share, state }
}

const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

t.test('a share is spent at its limit, not one before, and whole again in the next turn', async t => {
  const scheduler = new FairScheduler(still)
  const share = scheduler.share(() => {})

  share.charge(SHARE_UNITS - 1)
  t.notOk(share.isExhausted)
  share.charge(1)
  t.ok(share.isExhausted)
  await turn()
  t.notOk(share.isExhausted)
})

t.test('those that wait are served in turns of one share', async t => {
  const scheduler = new FairScheduler(still)
  const log: string[] = []
  const { share: a } = worker(scheduler, 'a', log, 3 * SHARE_UNITS)
  const { share: b } = worker(scheduler, 'b', log, 2 * SHARE_UNITS)

  a.wait()
  b.wait()
  a.wait()
  await turn()

  const rounds = log.filter((name, at) => log[at - 1] !== name)
  t.same(rounds, ['a', 'b', 'a', 'b', 'a'])
  t.equal(log.length, 5 * SHARE_UNITS)
})

t.test('all together do one allowance per turn, and one share more at most', async t => {
  const scheduler = new FairScheduler(still)
  const log: string[] = []
  const workers = Array.from({ length: 100 }, (_, at) => worker(scheduler, String(at), log, 1_000))
  for (const { share } of workers) share.wait()
  let most = 0
  for (let before = 0; log.length < 100_000; before = log.length) {
    await turn()
    most = Math.max(most, log.length - before)
  }

  t.ok(most <= TURN_UNITS + SHARE_UNITS, `${most} in one turn`)
  t.ok(workers.every(({ state }) => state.left === 0))
})

t.test('a turn is over after its time, too, but not before one share was served', async t => {
  let nowMs = 0
  const scheduler = new FairScheduler({ now: () => nowMs })
  const log: string[] = []
  const slow = (name: string, ms: number) => {
    const share = scheduler.share(() => {
      share.charge(1)
      log.push(name)
      nowMs += ms
    })
    share.wait()
  }
  slow('as long as a turn', TURN_MS)
  slow('half', TURN_MS / 2)
  slow('nearly half', TURN_MS / 2 - 0.01)
  slow('a little', 0.1)
  slow('next', 0)

  await turn()
  t.same(log.splice(0), ['as long as a turn'])
  await turn()
  t.same(log.splice(0), ['half', 'nearly half', 'a little'])
  await turn()
  t.same(log, ['next'])
})

t.test('whoever has little to do is served before the others have done all of theirs', async t => {
  const scheduler = new FairScheduler(still)
  const log: string[] = []
  for (let at = 0; at < 20; at++) worker(scheduler, 'busy', log, 10_000).share.wait()
  await turn()
  const before = log.length

  worker(scheduler, 'quiet', log, 1).share.wait()
  while (!log.includes('quiet')) await turn()
  const waited = log.indexOf('quiet') - before

  t.ok(waited <= 20 * SHARE_UNITS, `after ${waited} of others`)
})

t.test('work that throws does not stop the others', async t => {
  const scheduler = new FairScheduler(still)
  const log: string[] = []
  const caught = new Promise(resolve => process.once('uncaughtException', resolve))
  const bad = scheduler.share(() => {
    throw new Error('broken')
  })
  bad.wait()
  worker(scheduler, 'good', log, 1).share.wait()

  t.match(await caught, { message: 'broken' })
  await turn()
  await turn()

  t.same(log, ['good'])
})
