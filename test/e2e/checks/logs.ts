/** Checks 1: `kubectl logs`, complete, bounded, and followed while the tunnel's connections are killed. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { delay, expect, kubectl, type CheckContext } from '../support/check-context.js'
import { CHATTY_LINES } from '../support/world.js'

const FOLLOW_KILLS = 2
const FOLLOW_STEP_MS = 1_500

export async function logs(context: CheckContext): Promise<void> {
  const { report } = context
  const times = context.quick ? 3 : 20
  const all = Buffer.from(
    Array.from({ length: CHATTY_LINES }, (_, index) => `${chattyLine(index + 1)}\n`).join('')
  )

  await report.check(
    '1.1',
    `kubectl logs brings ${CHATTY_LINES} lines complete, ${times} times`,
    async () => {
      const begun = performance.now()
      for (let time = 1; time <= times; time++) {
        const got = await kubectl(context, ['logs', 'chatty'])
        expect(got.equals(all), `time ${time}: got ${got.length} bytes, wanted ${all.length}`)
      }
      return `${((all.length * times) / 2 ** 20 / ((performance.now() - begun) / 1000)).toFixed(1)} MiB/s`
    }
  )

  await report.check('1.2', 'kubectl logs by lines, bytes and time', async () => {
    const tail = (await kubectl(context, ['logs', 'chatty', '--tail=3'])).toString()
    expect(
      tail === [2, 1, 0].map(back => `${chattyLine(CHATTY_LINES - back)}\n`).join(''),
      `--tail=3 brought ${tail}`
    )
    const bytes = await kubectl(context, ['logs', 'chatty', '--limit-bytes=1000'])
    expect(bytes.equals(all.subarray(0, 1000)), '--limit-bytes=1000 brought other bytes')
    const recent = (await kubectl(context, ['logs', 'ticker', '--since=1s', '--timestamps'])).toString()
    expect(/^\S+T\S+Z tick \d{9}\n/.test(recent), `--since --timestamps brought ${recent.slice(0, 100)}`)
  })

  await report.check(
    '1.3',
    `kubectl logs -f goes on without a gap across ${FOLLOW_KILLS} killed tunnel connections`,
    async () => {
      const { kubectlPath } = context.cluster
      const env = { ...process.env, ...context.cluster.kubectlEnv() }
      const following = spawn(kubectlPath, ['logs', '-f', '--tail=1', 'ticker'], {
        env,
        stdio: ['ignore', 'pipe', 'pipe']
      })
      const ended = once(following, 'close')
      let text = ''
      let problems = ''
      following.stdout.setEncoding('utf8').on('data', (part: string) => (text += part))
      following.stderr.setEncoding('utf8').on('data', (part: string) => (problems += part))
      for (let kill = 0; kill < FOLLOW_KILLS; kill++) {
        await delay(FOLLOW_STEP_MS)
        await context.tunnel?.killConnections()
      }
      await delay(2 * FOLLOW_STEP_MS)
      expect(following.exitCode === null, `kubectl ended: ${problems}`)
      following.kill()
      await ended
      const numbers = text
        .split('\n')
        .slice(0, -1)
        .map(line => Number(line.slice('tick '.length)))
      const gap = numbers.findIndex((number, index) => index > 0 && number !== numbers[index - 1]! + 1)
      expect(gap === -1, `after ${numbers[gap - 1]!} came ${numbers[gap]!}`)
      // One line every 5 ms, with room for a slow machine: silence must not pass for completeness.
      const wanted = ((FOLLOW_KILLS + 2) * FOLLOW_STEP_MS) / 5 / 2
      expect(numbers.length > wanted, `only ${numbers.length} lines`)
      return `${numbers.length} lines`
    }
  )
}

function chattyLine(number: number): string {
  return `line ${String(number).padStart(6, '0')} of a log that somebody reads from far away, padded to be as long as a real one`
}
