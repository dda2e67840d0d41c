import t from 'tap'
import { dice } from './schedule.js'
import { type Pair, conclude, createStreamWorld, loopTurn } from './scheduled-streams.js'

/** The whole run comes with `npm run test:chaos`; `npm test` takes a part, other seeds each day. */
const WHOLE = process.env['TENDRIL_CHAOS'] === 'whole'
const SCHEDULES = WHOLE ? 10_000 : 500
const FIRST_SEED = WHOLE ? 1 : Math.floor(Date.now() / 86_400_000) * 1_000

async function live(seed: number): Promise<{ problem: string | undefined; stats: Record<string, number> }> {
  const roll = dice(seed ^ 0x57e4)
  const streamWorld = await createStreamWorld(seed)
  const { world, pairs } = streamWorld
  const stats = { resets: 0, streams: 0, bytes: 0, resumes: 0, replayedBytes: 0 }
  for (let count = roll(4); count >= 0; count--) streamWorld.dial()

  for (let turn = 0; turn < 150 && !streamWorld.problem(); turn++) {
    const what = roll(100)
    const pair = pairs[roll(pairs.length || 1)]
    if (what < 30) write(pair, roll)
    else if (what < 34) pair?.ends[roll(2)]?.stream.pause()
    else if (what < 42) pair?.ends[roll(2)]?.stream.resume()
    else if (what < 43) pair?.ends[roll(2)]?.end()
    else if (what < 44 && pair && !pair.reset) {
      pair.reset = true
      stats.resets++
      pair.ends[roll(2)]?.stream.destroy(new Error('reset on purpose'))
    } else if (what < 46) streamWorld.dial()
    else if (what < 50) world.cut()
    else if (what < 57) world.connect()
    else if (what < 62) world.clock.tick(roll(400))
    else for (let steps = roll(6); steps >= 0; steps--) world.step()
    await loopTurn()
  }
  const problem = await conclude(streamWorld)
  stats.streams = pairs.length
  stats.bytes = pairs.reduce((sum, { ends }) => sum + ends[0].read + ends[1].read, 0)
  stats.resumes = world.stats.resumes
  stats.replayedBytes = world.stats.replayedBytes
  return { problem, stats }
}

function write(pair: Pair | undefined, roll: (sides: number) => number): void {
  pair?.ends[roll(2)]?.write(1 + roll(roll(4) ? 300 : 9_000))
}

t.test(
  `every stream keeps its bytes in ${SCHEDULES} schedules of writes, pauses, ends, resets and cuts`,
  async t => {
    const total: Record<string, number> = {}
    for (let seed = FIRST_SEED; seed < FIRST_SEED + SCHEDULES; seed++) {
      const { problem, stats } = await live(seed)
      if (problem) {
        t.fail(`seed ${String(seed)}: ${problem}`)
        return
      }
      for (const [key, value] of Object.entries(stats)) total[key] = (total[key] ?? 0) + value
    }
    t.ok((total['resumes'] ?? 0) > SCHEDULES, `the worlds were violent: ${JSON.stringify(total)}`)
    t.ok((total['replayedBytes'] ?? 0) > 0)
    t.ok((total['resets'] ?? 0) > 0)
  }
)

/**
 * One exchange, the same each time, whose carrier is cut after its `cutAfter`-th message: on both sides at once, and the
 * next one in two. False when the exchange was over before.
 */
async function exchange(cutAfter: number): Promise<{ problem: string | undefined; wasCut: boolean }> {
  const streamWorld = await createStreamWorld(1)
  const { world, pairs } = streamWorld
  const begin = world.stats.delivered
  let wasCut = false
  const steps = async (): Promise<void> => {
    for (let round = 0; round < 20; round++) {
      for (let more = true; more;) {
        if (!wasCut && world.stats.delivered - begin === cutAfter) {
          wasCut = true
          world.cut()
        }
        more = world.step()
      }
      if (world.client.state === 'down') world.connect()
      await loopTurn()
    }
    world.clock.tick(260)
  }

  streamWorld.dial()
  streamWorld.dial()
  await steps()
  for (const { ends } of pairs) for (const end of ends) end.write(6_000)
  await steps()
  pairs[0]?.ends[0].end()
  for (const { ends } of pairs) ends[1].write(3_000)
  await steps()
  const problem = await conclude(streamWorld)
  return { problem: problem ?? (pairs.length === 2 ? undefined : 'a dial did not come through'), wasCut }
}

t.test(
  'a carrier cut after each message of an exchange, and in the middle of the next, costs no byte',
  async t => {
    let cuts = 0
    for (let cutAfter = 0; ; cutAfter++) {
      const { problem, wasCut } = await exchange(cutAfter)
      if (problem) {
        t.fail(`cut after message ${String(cutAfter)}: ${problem}`)
        return
      }
      if (!wasCut) break
      cuts++
    }
    t.ok(cuts > 20, `${cuts} places to cut`)
  }
)
