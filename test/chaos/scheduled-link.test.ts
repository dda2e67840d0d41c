import t from 'tap'
import type { Link } from '@tendril/common/link/link'
import { type World, createWorld, dice } from './schedule.js'

/** The whole ten thousand run with `npm run test:chaos`; `npm test` takes a part, other seeds each day. */
const WHOLE = process.env.TENDRIL_CHAOS === 'whole'
const SCHEDULES = WHOLE ? 10_000 : 500
const FIRST_SEED = WHOLE ? 1 : Math.floor(Date.now() / 86_400_000) * 1_000

/** Numbers what a side sends and notes what it gets: each number once, in order, nothing between. */
function ledger(): {
  next: () => Buffer
  sent: () => number
  got: number[]
  onMessage: (message: Buffer) => void
} {
  let count = 0
  const got: number[] = []
  return {
    next() {
      const message = Buffer.alloc(4 + (count % 7) * 40)
      message.writeUInt32BE(count++)
      return message
    },
    sent: () => count,
    got,
    onMessage: message => got.push(message.readUInt32BE())
  }
}

async function settle(): Promise<void> {
  // shakeHands answers through a promise; nothing else in a world is asynchronous.
  for (let hop = 0; hop < 4; hop++) await Promise.resolve()
}

function run(world: World): void {
  while (world.step());
}

async function live(seed: number): Promise<{ problem: string | undefined; world: World }> {
  const roll = dice(seed ^ 0x5eed)
  const up = ledger()
  let down = ledger()
  // Small limits, so that full replay buffers and early acknowledgements happen in every world.
  const limits = { replayLimitBytes: 4_096, replayMinBytes: 1_024, resumeWindowMs: 60_000 }
  let serverMayWrite = true
  let clientMayWrite = true
  const world = createWorld(seed, limits, link => {
    // When a WELCOME is lost the client asks for a new link again: what the server said on the first reached nobody.
    down = ledger()
    serverMayWrite = true
    link.on('message', message => up.onMessage(message))
    link.on('drain', () => (serverMayWrite = true))
  })
  world.client.on('message', message => down.onMessage(message))
  world.client.on('drain', () => (clientMayWrite = true))

  world.connect()
  for (let turn = 0; turn < 200; turn++) {
    const what = roll(100)
    if (what < 25 && clientMayWrite) clientMayWrite = world.client.send(up.next())
    else if (what < 50 && serverMayWrite && world.server())
      serverMayWrite = (world.server() as Link).send(down.next())
    else if (what < 54) world.cut()
    else if (what < 60) world.connect()
    else if (what < 63) world.clock.tick(roll(400))
    else world.step()
    await settle()
  }

  for (let attempt = 0; attempt < 5; attempt++) {
    run(world)
    world.connect()
    run(world)
    await settle()
    run(world)
  }
  const expected = (count: number): string => [...Array(count).keys()].join()
  let problem: string | undefined
  if (up.got.join() !== expected(up.sent())) problem = `up: sent ${up.sent()}, got ${up.got.join()}`
  if (down.got.join() !== expected(down.sent())) problem = `down: sent ${down.sent()}, got ${down.got.join()}`
  if (world.refusals.length > 0) problem = `refused: ${world.refusals.join(', ')}`
  return { problem, world }
}

t.test(
  `no message is lost, doubled or reordered in ${SCHEDULES} schedules of cuts and reconnects`,
  async t => {
    const total = { carriers: 0, resumes: 0, replayedBytes: 0 }
    for (let seed = FIRST_SEED; seed < FIRST_SEED + SCHEDULES; seed++) {
      const { problem, world } = await live(seed)
      if (problem) {
        t.fail(`seed ${String(seed)}: ${problem}`)
        return
      }
      for (const key of ['carriers', 'resumes', 'replayedBytes'] as const) total[key] += world.stats[key]
    }
    t.ok(total.resumes > SCHEDULES, `the worlds were violent: ${JSON.stringify(total)}`)
    t.ok(total.replayedBytes > 0)
  }
)
