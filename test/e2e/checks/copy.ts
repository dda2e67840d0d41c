/** Checks 2: `kubectl cp` of a large file each way, byte for byte, in bounded memory. */
import { randomBytes } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { expect, kubectl, kubectlProtocols, sha256, type CheckContext } from '../support/check-context.js'

const MEBIBYTE = 2 ** 20
const MEMORY_GROWTH_LIMIT_BYTES = 64 * MEBIBYTE
const COPY_TIMEOUT_MS = 300_000

export async function copy(context: CheckContext): Promise<void> {
  const { report, dir } = context
  const mebibytes = context.quick ? 50 : 500
  const source = join(dir, 'copy-source')
  const back = join(dir, 'copy-back')
  await pipeline(Readable.from(randomMebibytes(mebibytes)), createWriteStream(source))
  const digest = await sha256(source)

  for (const [protocol, env] of Object.entries(kubectlProtocols)) {
    const number = protocol === 'websocket' ? '2.1' : '2.2'
    await report.check(
      number,
      `kubectl cp of ${mebibytes} MiB each way over ${protocol}, sha256 equal`,
      async () => {
        const before = await context.tunnel?.serverMemoryBytes()
        const rates: string[] = []
        const timed = async (way: string, args: string[]): Promise<void> => {
          const begun = performance.now()
          await kubectl(context, args, { env, timeoutMs: COPY_TIMEOUT_MS, cwd: dir })
          rates.push(`${way} ${(mebibytes / ((performance.now() - begun) / 1000)).toFixed(0)} MiB/s`)
        }
        await timed('up', ['cp', 'copy-source', 'box:payload'])
        const there = (await kubectl(context, ['exec', 'box', '--', 'sha256sum', 'payload']))
          .toString()
          .slice(0, digest.length)
        expect(there === digest, `the pod has ${there}, sent was ${digest}`)
        await timed('down', ['cp', 'box:payload', 'copy-back'])
        expect((await sha256(back)) === digest, 'what came back differs')
        await rm(back)
        await kubectl(context, ['exec', 'box', '--', 'rm', 'payload'])
        const grown = before === undefined ? 0 : (await context.tunnel!.serverMemoryBytes()) - before
        expect(grown < MEMORY_GROWTH_LIMIT_BYTES, `the server grew by ${(grown / MEBIBYTE).toFixed(0)} MiB`)
        return [
          ...rates,
          ...(context.tunnel ? [`server's memory grew by ${(grown / MEBIBYTE).toFixed(0)} MiB`] : [])
        ].join(', ')
      }
    )
  }
  await rm(source)
}

function* randomMebibytes(count: number): Generator<Buffer> {
  for (let index = 0; index < count; index++) yield randomBytes(MEBIBYTE)
}
