/** Callers that do not read: what 300 of them cost each program, and that it is given back when they have gone. */
import type { Duplex } from 'node:stream'
import t from 'tap'
import { GIVE_BACK_EVERY_MS, GIVE_BACK_FROM_BYTES } from '@tendril/common/heap'
import { house } from '../support/house.js'
import { until } from '../support/process.js'
import { sourceTarget } from '../support/targets.js'
import { MIB, WHOLE, figure } from './traffic.js'

const STREAMS = WHOLE ? 300 : 30
/** Each has this to say, and nobody reads it: more than the kernel keeps. */
const BYTES = 16 * MIB
/** Two looks, on a machine that is busy with other things. */
const GIVEN_BACK_MS = 4 * GIVE_BACK_EVERY_MS

t.test(`${STREAMS} callers that stop reading, and leave`, async t => {
  const { dial, server, clients } = await house(t, { processes: true })
  const target = await sourceTarget(t, BYTES)
  const programs = [server, clients[0]!]
  const buffers = (): Promise<number[]> =>
    Promise.all(programs.map(one => valueOf(one, 'nodejs_external_memory_bytes')))
  const report = async (when: string): Promise<void> => {
    const resident = await Promise.all(programs.map(one => valueOf(one, 'process_resident_memory_bytes')))
    const external = await buffers()
    const mebibytes = (bytes: number[]): string => bytes.map(one => Math.round(one / MIB)).join(' and ')
    figure(t, `${STREAMS} stalled streams, ${when}, MiB of server and client`, mebibytes(resident))
    figure(t, `${STREAMS} stalled streams, ${when}, MiB of buffers in them`, mebibytes(external))
  }

  await report('before')
  const streams: Duplex[] = []
  for (let count = 0; count < STREAMS; count++) {
    const stream = await dial(target.addr)
    stream.on('error', () => {}).pause()
    streams.push(stream)
  }
  let last = [0]
  await until('nothing moves any more', async () => {
    const before = last
    last = await Promise.all(programs.map(one => valueOf(one, 'process_resident_memory_bytes')))
    await new Promise(resolve => setTimeout(resolve, 500))
    return last.every((bytes, at) => bytes <= (before[at] ?? 0) + MIB)
  })
  await report('stalled')
  for (const stream of streams) stream.destroy()

  const isGivenBack = async (): Promise<boolean> =>
    (await buffers()).every(bytes => bytes < GIVE_BACK_FROM_BYTES)
  await until('the buffers are given back', isGivenBack, GIVEN_BACK_MS)
  await report('gone')
})

async function valueOf({ metrics }: { metrics(): Promise<string> }, name: string): Promise<number> {
  return Number(new RegExp(`^${name} (\\S+)`, 'm').exec(await metrics())?.[1])
}
