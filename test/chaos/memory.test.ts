/** Memory when a hundred peers do not read, then are gone, and everybody keeps writing: the documented sum, and not more. */
import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import t from 'tap'
import { TunnelError } from '@tendril/common'
import { FairBudget } from '@tendril/common/fair-budget'
import { shakeHands } from '@tendril/common/link/handshake'
import { LinkHost } from '@tendril/common/link/host'
import { Link } from '@tendril/common/link/link'
import { Session } from '@tendril/common/mux/session'
import { collectGarbage } from '@tendril/common/test/support/garbage'
import { until } from '../support/child-process.js'
import { type MemoryCarrier, memoryCarriers } from '@tendril/common/test/support/memory-carrier'
import { MIB, figure } from './traffic.js'
import { dialContext } from '@tendril/common/test/support/dial-context'

const LINKS = 100
const STREAMS = 4
const BUDGET_BYTES = 64 * MIB
const MIN_BYTES = MIB / 4
/** A session puts up to two frames into a message, and a link takes the one that goes over its limit. */
const MESSAGE_BYTES = 192 * 1024
/** What a stream takes from its writer before `write` answers false. */
const STREAM_BUFFER_BYTES = 128 * 1024
const CHUNK_BYTES = 64 * 1024

t.test(`${LINKS} links down with full replay buffers stay inside the documented sum`, async t => {
  const budget = new FairBudget(BUDGET_BYTES)
  const servers: Session[] = []
  const links: Link[] = []
  const host = new LinkHost({
    server: 's',
    budgetOf: () => budget.share(),
    limits: { replayMinBytes: MIN_BYTES },
    onLink: link => {
      links.push(link)
      servers.push(new Session(link))
    }
  })
  const carriers: MemoryCarrier[] = []
  const clients: Session[] = []
  for (let at = 0; at < LINKS; at++) {
    const [near, far] = memoryCarriers({ highWaterBytes: 2 * MIB })
    const link = new Link()
    clients.push(new Session(link, { onOpen: incoming => void incoming.accept().resume() }))
    host.accept(far, { key: 'k' })
    await shakeHands(near, link, { name: `c${at}`, instance: Buffer.alloc(8, at), connectionIndex: 0 })
    carriers.push(near)
  }
  const streams: Duplex[] = []
  for (const session of servers) {
    if (session.state === 'greeting') await once(session, 'open')
    for (let count = 0; count < STREAMS; count++) {
      const target = { proto: 'tcp' as const, host: 'h', port: 1 }
      streams.push(await session.dial(target, dialContext()))
    }
  }
  await collectGarbage()
  const before = process.memoryUsage()
  // Everybody writes until told to wait, again and again, as callers do who do not know what the line does.
  const writeOn = async (): Promise<void> => {
    for (let round = 0; round < 40; round++) {
      for (const stream of streams)
        if (!stream.writableNeedDrain) stream.write(Buffer.alloc(CHUNK_BYTES, round))
      await new Promise(resolve => setImmediate(resolve))
    }
  }
  // Nobody keeps much for a peer that never acknowledged anything.
  await writeOn()
  for (const carrier of carriers) carrier.peer.hold()
  await writeOn()
  const keptUp = budget.usedBytes
  t.ok(keptUp >= BUDGET_BYTES, `${Math.round(keptUp / MIB)} MiB kept: the budget is used up`)
  for (const carrier of carriers) carrier.cut()
  await until('all links are down', () => links.every(link => link.state === 'down'))
  await writeOn()
  await collectGarbage()
  const after = process.memoryUsage()

  const kept = budget.usedBytes
  const documented = BUDGET_BYTES + LINKS * (MIN_BYTES + MESSAGE_BYTES)
  t.ok(kept - keptUp <= LINKS * MESSAGE_BYTES, 'while it is down a link takes one message at most')
  t.ok(kept <= documented, `${Math.round(kept / MIB)} MiB of ${Math.round(documented / MIB)} MiB`)
  const grown = after.arrayBuffers - before.arrayBuffers
  const waiting = streams.length * (STREAM_BUFFER_BYTES + CHUNK_BYTES)
  t.ok(grown <= documented + waiting, `grown by ${Math.round(grown / MIB)} MiB`)
  figure(
    t,
    'replay / documented / buffers grown / rss grown, MiB',
    [kept, documented, grown, after.rss - before.rss].map(bytes => Math.round(bytes / MIB)).join(' / ')
  )

  for (const stream of streams) stream.on('error', () => {})
  for (const link of links) link.terminate(new TunnelError('CLOSED'))
  for (const session of clients) session.close()
  t.equal(budget.usedBytes, 0)
  await collectGarbage()
  const left = process.memoryUsage().arrayBuffers - before.arrayBuffers
  t.ok(left < 4 * MIB, `${Math.round(left / MIB)} MiB left when all is over`)
})
