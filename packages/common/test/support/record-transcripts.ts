/**
 * Records how version 1.0 and this version talk, as bytes: run by hand, with a build of commit d15c96d, the last one of
 * version 1.0.
 *
 *     node packages/common/dist/test/support/record-transcripts.js …/d15c96d/packages/common/dist/src/mux/session.js \
 *       > packages/common/test/mux/transcripts-1.0.ts
 */
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Session } from '../../src/mux/session.js'
import type { Parity } from '../../src/mux/stream-numbers.js'
import { Answerer, OUTCOMES, type Talk, dialAll } from './conversation.js'
import { type MemoryCarrier, memoryCarriers } from './memory-carrier.js'

export type Step = { from: '1.0' | 'current'; hex: string }
export type Transcript = Talk & { dials: '1.0' | 'current'; twoWay?: Parity; steps: Step[] }

type Talks = Record<string, Omit<Transcript, 'steps'>>

const talks: Talks = {
  'a server of version 1.0 and a client': { dials: '1.0', twoWay: 'even' },
  'a server and a client of version 1.0': { dials: 'current', twoWay: 'odd' },
  'a server of version 1.0 that connects to a peer': { dials: '1.0', cluster: 'demo' },
  'a server that connects to a peer of version 1.0': { dials: 'current', cluster: 'demo' }
}

async function record(Old: typeof Session, talk: Omit<Transcript, 'steps'>): Promise<Transcript> {
  const { dials, twoWay } = talk
  const [oldCarrier, carrier] = memoryCarriers()
  const steps: Step[] = []
  listen(oldCarrier, 'current', steps)
  listen(carrier, '1.0', steps)
  const answerer = new Answerer()
  const { onOpen } = answerer
  const old = new Old(oldCarrier, dials === '1.0' ? {} : { onOpen })
  const current = new Session(carrier, {
    ...(twoWay && { twoWay, onOpen }),
    ...(dials === '1.0' && { onOpen })
  })
  const [dialler, other] = dials === '1.0' ? [old, current] : [current, old]
  const cancelled = answerer.cancelled
  const outcomes = await dialAll(dialler, talk)
  if (outcomes.join() !== OUTCOMES.join()) throw new Error(`unexpected: ${outcomes.join()}`)
  await cancelled
  const leaving = new Promise(resolve => dialler.once('goaway', resolve))
  other.drain('DRAINING', 'enough')
  await leaving
  const kept = [...steps]
  for (const session of [old, current]) session.close()
  return { ...talk, steps: kept }
}

/** Notes what arrives at `carrier`. */
function listen(carrier: MemoryCarrier, from: Step['from'], steps: Step[]): void {
  carrier.on('message', message => void steps.push({ from, hex: message.toString('hex') }))
}

if (process.argv[1]?.endsWith('record-transcripts.js') === true) {
  const { Session: Old } = (await import(pathToFileURL(resolve(process.argv[2] ?? '')).href)) as {
    Session: typeof Session
  }
  const recorded: Record<string, Transcript> = {}
  for (const [name, talk] of Object.entries(talks)) recorded[name] = await record(Old, talk)
  process.stdout.write(
    '/** Recorded by support/record-transcripts.ts with version 1.0 of commit d15c96d. Not to be changed by hand. */\n' +
      "import type { Transcript } from '../support/record-transcripts.js'\n\n" +
      `export const transcripts: Record<string, Transcript> = ${JSON.stringify(recorded, null, 2)}\n`
  )
}
