/** Checks 3: exec, attach and port-forward, by both protocols on both sides, and through a tunnel that breaks. */
import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { delay, expect, kubectl, kubectlProtocols, type CheckContext } from '../support/check-context.js'
import { run, until } from '../support/namespace-process.js'

const STDIN_BYTES = 8 * 2 ** 20
export const EXEC_KILLS = 5
export const EXEC_KILL_EVERY_MS = 1_200
const EXEC_LINES = 200_000
const EXEC_TIMEOUT_MS = 120_000
/** CUT_MS=25000 is more than the tunnel hears of by itself: both ends give their connection up and make another. */
const CUT_MS = Number(process.env.CUT_MS ?? 3_000)
const FORWARDED_BYTES = 4 * 2 ** 20

export async function streams(context: CheckContext): Promise<void> {
  const { report } = context
  const pairs = [
    ['websocket', 'box', 'echo'],
    ['spdy', 'box', 'echo'],
    ['websocket', 'box-websocket', 'echo-websocket'],
    ['spdy', 'box-websocket', 'echo-websocket']
  ] as const
  for (const [index, [protocol, box, echo]] of pairs.entries()) {
    const env = kubectlProtocols[protocol]
    const way = `${protocol} to ${box === 'box' ? 'a node that speaks SPDY' : 'a node that takes WebSockets'}`
    const number = (check: number): string => `3.${index * 4 + check}`

    await report.check(number(1), `kubectl exec with stdin, stderr and exit codes, ${way}`, async () => {
      const input = randomBytes(STDIN_BYTES)
      const echoed = await kubectl(context, ['exec', '-i', box, '--', 'cat'], { env, input })
      expect(echoed.equals(input), `${input.length} bytes in, ${echoed.length} bytes back`)
      for (const code of [0, 1, 42]) {
        const ended = await context.cluster.kubectl(
          ['exec', box, '--', 'sh', '-c', `echo out; echo err >&2; exit ${code}`],
          { env }
        )
        expect(ended.code === code, `exit ${code} arrived as ${ended.code}: ${ended.stderr}`)
        expect(
          ended.stdout.toString() === 'out\n' && ended.stderr.startsWith('err\n'),
          'stdout and stderr are not apart'
        )
      }
    })

    await report.check(number(2), `kubectl exec -t has a terminal with a size, ${way}`, async () => {
      // script(1) gives kubectl the terminal that it insists on. The size comes in a message of its own, a little later.
      // Without --foreground, timeout(1) puts kubectl into the background of a shell that does not exec its last command,
      // where reading the terminal stops it: which shell that is depends on SHELL.
      const shell = 'test -t 0 || exit 1; until stty size | grep -q "33 132"; do sleep 0.1; done; exit 7'
      const inner = `timeout --foreground 20 ${context.cluster.kubectlPath} exec -it ${box} -- sh -c '${shell}'`
      const { code, stdout } = await run(['script', '-qec', `stty rows 33 cols 132; ${inner}`, '/dev/null'], {
        env: { ...context.cluster.kubectlEnv(), ...env, SHELL: '/bin/sh' }
      })
      expect(code === 7, `ended with ${code}: ${stdout.toString()}`)
    })

    await report.check(number(3), `kubectl attach hears what its input comes back as, ${way}`, async () => {
      const received = await kubectl(context, ['attach', '-q', '-i', echo], {
        env,
        input: 'one\ntwo\nthree\n'
      })
      expect(received.toString() === 'one\ntwo\nthree\n', `heard ${JSON.stringify(received.toString())}`)
    })

    await report.check(number(4), `kubectl port-forward carries 20 requests at once, ${way}`, async () => {
      const pod = box === 'box' ? 'web-0' : 'web-1'
      const { child, port } = await portForward(context, pod, env)
      try {
        const whole = `http://127.0.0.1:${port}/?bytes=${FORWARDED_BYTES}`
        const sizes = await Promise.all(
          Array.from({ length: 20 }, async () => (await (await fetch(whole)).arrayBuffer()).byteLength)
        )
        expect(
          sizes.every(size => size === FORWARDED_BYTES),
          `sizes ${sizes.join(' ')}`
        )
      } finally {
        child.kill()
        await once(child, 'exit')
      }
    })
  }

  await report.check('3.17', 'both protocols were seen on the nodes that speak them', async () => {
    const seen = async (node: string): Promise<string> => {
      const metrics = (
        await kubectl(context, ['get', '--raw', `/api/v1/nodes/${node}/proxy/metrics`])
      ).toString()
      const count = (name: string): number =>
        Number(new RegExp(`protocol="${name}"} (\\d+)`).exec(metrics)?.[1])
      return `${count('spdy') > 0 ? 'spdy' : ''} ${count('websocket') > 0 ? 'websocket' : ''}`.trim()
    }
    const [first, second] = [await seen('spdy-node'), await seen('websocket-node')]
    expect(
      first === 'spdy' && second === 'spdy websocket',
      `spdy-node saw ${first}, websocket-node saw ${second}`
    )
  })

  const { tunnel } = context
  if (!tunnel) return
  await report.check('3.18', `an exec streams through ${EXEC_KILLS} killed tunnel connections`, () =>
    execThrough(context, async () => {
      for (let kill = 0; kill < EXEC_KILLS; kill++) {
        await delay(EXEC_KILL_EVERY_MS)
        await tunnel.killConnections()
      }
    })
  )

  await report.check('3.19', `an exec streams on after a router that passed nothing for ${CUT_MS} ms`, () =>
    execThrough(context, async () => {
      await delay(EXEC_KILL_EVERY_MS)
      await context.network.cut()
      await delay(CUT_MS)
      await context.network.heal()
    })
  )
}

/** Runs an exec that writes numbered lines for about ten seconds by default, and checks that all came while it was disturbed. */
export async function execThrough(
  context: CheckContext,
  disturb: () => Promise<void>,
  lines = EXEC_LINES
): Promise<void> {
  const script = `i=0; while [ $i -lt ${lines} ]; do i=$((i+1)); echo $i; [ $((i % 1000)) -eq 0 ] && sleep 0.05; done; exit 5`
  const over = new AbortController()
  const exec = context.cluster.kubectl(['exec', 'box', '--', 'sh', '-c', script], {
    timeoutMs: EXEC_TIMEOUT_MS,
    signal: over.signal
  })
  try {
    await disturb()
  } catch (error) {
    over.abort()
    await exec
    throw error
  }
  const { code, stdout, stderr } = await exec
  const wanted = Buffer.from(Array.from({ length: lines }, (_, index) => `${index + 1}\n`).join(''))
  expect(code === 5, `ended with ${code} after ${stdout.length} bytes: ${stderr}`)
  expect(stdout.equals(wanted), `${stdout.length} bytes came, ${wanted.length} were sent`)
}

async function portForward(
  context: CheckContext,
  pod: string,
  env: Record<string, string>
): Promise<{ child: ChildProcess; port: number }> {
  const child = spawn(context.cluster.kubectlPath, ['port-forward', '--address=127.0.0.1', pod, ':8080'], {
    env: { ...process.env, ...context.cluster.kubectlEnv(), ...env },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (part: string) => (said += part))
  child.stderr.setEncoding('utf8').on('data', (part: string) => (said += part))
  const port = (): number => Number(/127\.0\.0\.1:(\d+)/.exec(said)?.[1])
  try {
    await until('kubectl port-forward to listen', async () => port() > 0 || child.exitCode !== null)
    expect(port() > 0, said)
  } catch (error) {
    child.kill()
    throw error
  }
  return { child, port: port() }
}
