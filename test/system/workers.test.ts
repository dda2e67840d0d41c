/**
 * `workers: 2`: one program, two servers. What clients and callers meet, what the death of each process costs, and that
 * the whole starts, stops and fails as one process does. All with the installed programs.
 */
import { once } from 'node:events'
import { existsSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { MIB, figure, hashOf } from '../chaos/traffic.js'
import { apiserverDial, httpGet } from '../support/apiserver.js'
import { ask } from '../support/ask.js'
import { type Cuttable, cuttable } from '../support/cuttable.js'
import { type Settings, type Deployment, deploy } from '../support/deployment.js'
import { reserveAddress } from '../support/ports.js'
import { type Child, startForTest, until } from '../support/child-process.js'
import { echoTarget, podTarget, sourceTarget } from '../support/targets.js'

const WORKERS = 2
const bin = resolve(fileURLToPath(import.meta.url), '../../../../packages/seed-server/bin/seed-server.js')

const severally = (settings: Settings): Settings => ({ ...settings, workers: WORKERS, drainTimeout: '5s' })

type Started = { number: number; pid: number; worker: string }

/** Workers by number, as the log told last. */
function workersOf(log: string): Started[] {
  const reported = log
    .split('\n')
    .filter(line => line.includes('"worker serves"'))
    .map(line => JSON.parse(line) as Started)
  return [...new Map(reported.map(one => [one.number, one])).values()].sort((a, b) => a.number - b.number)
}

/** One that has ended and that nobody has asked for (a zombie, where process 1 is no init) is dead as well. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

/** Until the client has a link to every worker that there is now, and these know each other. */
async function covered({ server }: Deployment, peers = WORKERS - 1): Promise<void> {
  await until('every worker has the client and its peers', async () => {
    const { body, status } = await ask(`${server.admin}/readyz?verbose`)
    const clients = body.match(/worker \d+: cluster demo: 1 client connected/g) ?? []
    return (
      status === 200 &&
      clients.length === WORKERS &&
      (await valueOf(server, 'tendril_server_peers')) === peers
    )
  })
}

async function valueOf({ metrics }: Deployment['server'], name: string): Promise<number> {
  const line = (await metrics()).split('\n').find(line => line.startsWith(`${name} `))
  return Number(line?.slice(name.length + 1))
}

function caller({ pki }: Deployment) {
  return {
    ca: readFileSync(pki('ca.crt')),
    cert: readFileSync(pki('kube-apiserver.crt')),
    key: readFileSync(pki('kube-apiserver.key'))
  }
}

t.test(
  'a client is linked to each worker; every CONNECT at every front succeeds; metrics are of all',
  async t => {
    const plain = await reserveAddress()
    const paths: string[] = []
    const deployment = await deploy(t, {
      processes: true,
      seed: settings => {
        // Beside the directory of the certificates.
        const path = join((settings['tunnel'] as { tls: { cert: string } }).tls.cert, '../../front.sock')
        paths.push(path)
        const more: Settings[] = [
          { name: 'plain', listen: `127.0.0.1:${plain.port}`, cluster: 'demo' },
          { name: 'unix', listen: `unix:${path}`, cluster: 'demo', mode: '0600' }
        ]
        return severally({ ...settings, fronts: [...(settings['fronts'] as Settings[]), ...more] })
      }
    })
    const [path] = paths as [string]
    const pod = await podTarget(t)
    await covered(deployment)
    const tls = caller(deployment)

    const fronts = [{ front: deployment.fronts['demo']!, tls }, { front: plain }, { front: { path } }]
    for (const front of fronts) {
      const statuses = await Promise.all(
        Array.from(
          { length: 100 },
          async () => (await httpGet(await apiserverDial({ ...front, addr: pod.addr }))).status
        )
      )
      t.equal(statuses.filter(status => status === 200).length, 100)
    }

    const text = await deployment.server.metrics()
    for (const front of ['demo', 'plain', 'unix'])
      t.match(text, `tendril_server_connects_total{front="${front}",cluster="demo",code="OK"} 100\n`)
    t.match(
      text,
      /tendril_server_dial_duration_seconds_bucket\{le="\+Inf",front="unix",cluster="demo"\} 100\n/
    )
    t.match(text, 'tendril_server_clients{cluster="demo"} 1\n', 'one client, however many links')
    t.match(text, 'tendril_server_workers 2\n')
    t.match(text, /tendril_build_info\{program="seed-server",[^}]*\} 1\n/)
    t.equal(statSync(path).mode & 0o777, 0o600, 'the mode is the one asked for')
    await deployment.server.stop()
    t.notOk(existsSync(path), 'the socket goes at the end')
  }
)

t.test('a worker that is killed is replaced, and found by the client; callers hardly notice', async t => {
  const deployment = await deploy(t, { processes: true, front: 'unix', seed: severally })
  const pod = await podTarget(t)
  await covered(deployment)
  const get = async () => (await httpGet(await deployment.dial(pod.addr))).status
  for (let call = 0; call < 4; call += 1) t.equal(await get(), 200)
  t.equal(
    await valueOf(deployment.server, 'tendril_server_connects_total{front="demo",cluster="demo",code="OK"}'),
    4
  )
  const [victim, other] = workersOf(deployment.server.log())

  process.kill(victim!.pid, 'SIGKILL')
  const killed = performance.now()

  await until('its end is known', () => deployment.server.log().includes('worker died'))
  const knownMs = performance.now() - killed
  const statuses = await Promise.all(Array.from({ length: 20 }, get))
  const servedMs = performance.now() - killed
  t.same(
    statuses.filter(status => status !== 200),
    []
  )
  await until('another one serves', () => workersOf(deployment.server.log())[0]!.pid !== victim!.pid)
  const replacedMs = performance.now() - killed
  await covered(deployment)
  const coveredMs = performance.now() - killed
  for (let call = 0; call < 4; call += 1) t.equal(await get(), 200)

  const [successor, same] = workersOf(deployment.server.log())
  t.not(successor!.worker, victim!.worker, 'it is another server')
  t.equal(same!.pid, other!.pid)
  t.equal(await valueOf(deployment.server, 'tendril_server_worker_restarts_total'), 1)
  t.equal(
    await valueOf(deployment.server, 'tendril_server_connects_total{front="demo",cluster="demo",code="OK"}'),
    28,
    'what the dead one had counted is not lost'
  )
  figure(
    t,
    'a worker of 2 killed: its end known / 20 dials answered / replaced / client linked to its successor, ms',
    [knownMs, servedMs, replacedMs, coveredMs].map(Math.round).join(' / ')
  )
})

t.test('a worker that hangs is replaced, and its callers are let go', async t => {
  const deployment = await deploy(t, {
    processes: true,
    front: 'unix',
    seed: settings => severally({ ...settings, link: { pingInterval: '1s', deadAfter: '5s' } })
  })
  const pod = await podTarget(t)
  await covered(deployment)
  const [victim, other] = workersOf(deployment.server.log())

  process.kill(victim!.pid, 'SIGSTOP')
  const hung = performance.now()
  // One of them is handed to the worker that hangs, and let go when that ends.
  const get = async () => (await httpGet(await deployment.dial(pod.addr))).status
  const answers = await Promise.all(Array.from({ length: 4 }, () => get().catch(() => 'cut off')))
  await until('another one serves', () => workersOf(deployment.server.log())[0]!.pid !== victim!.pid)
  figure(
    t,
    'a worker of 2 hangs, deadAfter 5 s: another serves after, ms',
    Math.round(performance.now() - hung)
  )

  t.same(answers.sort(), [200, 200, 200, 'cut off'])
  t.match(deployment.server.log(), /worker does not answer, it is killed/)
  t.notOk(isAlive(victim!.pid))
  t.equal(workersOf(deployment.server.log())[1]!.pid, other!.pid, 'the other one lives')
  await covered(deployment)
  t.equal(await get(), 200)
})

t.test('callers whom a worker never came to see are not left waiting when it dies', async t => {
  const { deployment, pids } = await alone(t)
  const pod = await podTarget(t)
  const [victim] = pids()

  process.kill(victim!, 'SIGSTOP')
  // Each worker is handed one at a time, so that one of them is stuck here.
  let served = 0
  const call = async () => {
    const { status } = await httpGet(await deployment.dial(pod.addr))
    served += 1
    return status
  }
  const answers = Array.from({ length: 4 }, () => call().catch(() => 'cut off'))
  await until('the others are served', () => served === 3)
  process.kill(victim!, 'SIGKILL')

  t.same((await Promise.all(answers)).sort(), [200, 200, 200, 'cut off'])
})

t.test('a link that is cut goes on at its own worker, whichever answers first', async t => {
  const relays: Cuttable[] = []
  const deployment = await deploy(t, {
    processes: true,
    seed: severally,
    before: async tunnel => {
      relays.push(await cuttable(t, tunnel))
      return relays[0]!
    }
  })
  const [relay] = relays as [Cuttable]
  const source = await sourceTarget(t, 16 * MIB)
  await covered(deployment)
  const streams = await Promise.all([deployment.dial(source.addr), deployment.dial(source.addr)])
  const hashes = streams.map(hashOf)
  const before = relay.accepted
  const resumed = () => deployment.clients[0]!.log().match(/"link resumed"/g)?.length ?? 0

  relay.cut()
  const cut = performance.now()
  await until('both links go on', () => resumed() === WORKERS)

  const resumedMs = performance.now() - cut
  for (const hash of hashes) t.equal(await hash, source.sha256)
  const dials = relay.accepted - before
  t.ok(dials <= 20, `${dials} dials`)
  figure(t, 'cut links to 2 workers resumed: ms / dials', `${Math.round(resumedMs)} / ${dials}`)
})

t.test(
  'two servers of two workers each: all know all, and a client at one serves callers at the other',
  async t => {
    const deployment = await deploy(t, {
      processes: true,
      servers: 2,
      startClients: false,
      seed: severally,
      shoot: settings => ({ ...settings, servers: [(settings['servers'] as Settings[])[1]!] })
    })
    const pod = await podTarget(t)
    for (const { server } of deployment.replicas) {
      await until(
        `${server.name} has 3 peers`,
        async () => (await valueOf(server, 'tendril_server_peers')) === 3
      )
    }
    const [client] = deployment.clients
    await client!.start()
    await client!.ready()

    const statuses = await Promise.all(
      Array.from(
        { length: 40 },
        async () => (await httpGet(await deployment.dial(pod.addr, { at: 0 }))).status
      )
    )
    t.same(
      statuses.filter(status => status !== 200),
      [],
      'from the first link on'
    )
    await until('the client heard of four', () => /"members":4[,}]/.test(client!.log()))
  }
)

t.test('SIGTERM: open streams finish, then all processes end, with 0', async t => {
  const { child, deployment, pids } = await alone(t)
  const echo = await echoTarget(t)
  const streams = await Promise.all([deployment.dial(echo.addr), deployment.dial(echo.addr)])

  child.kill('SIGTERM')
  await until('both drain', () => child.log().match(/"draining"/g)?.length === WORKERS)
  for (const stream of streams) {
    stream.write('still here')
    t.equal(String((await once(stream, 'data'))[0]), 'still here')
    stream.end()
    stream.resume()
  }

  t.match(await child.exited, { code: 0, signal: null })
  t.same(pids().filter(isAlive), [])
  t.same(left(deployment), [], 'nothing of it is left')
})

t.test('a second signal ends all at once, with 1', async t => {
  const { child, deployment, pids } = await alone(t)
  const echo = await echoTarget(t)
  const stream = await deployment.dial(echo.addr)
  stream.on('error', () => {})

  child.kill('SIGTERM')
  await until('both drain', () => child.log().match(/"draining"/g)?.length === WORKERS)
  child.kill('SIGTERM')

  t.match(await child.exited, { code: 1 })
  stream.destroy()
  await until('all are gone', () => !pids().some(isAlive))
})

t.test('without their primary the workers end', async t => {
  const { child, deployment, pids } = await alone(t)
  t.equal(left(deployment).length, 1)

  child.kill('SIGKILL')

  await until('all are gone', () => !pids().some(isAlive))
  t.same(left(deployment), [])
})

t.test('a mistake is said once, as a single process says it', async t => {
  const deployment = await deploy(t, { startClients: false, front: 'unix', seed: severally })
  const { path } = deployment.fronts['demo'] as { path: string }
  const run = async (change: (settings: Settings) => Settings) => {
    const file = join(deployment.directory, 'mistaken.yaml')
    const settings = JSON.parse(readFileSync(deployment.server.configFile, 'utf8')) as Settings
    writeFileSync(file, JSON.stringify(change({ ...settings, log: { level: 'silent' } })))
    const child = startForTest(t, 'mistaken', process.execPath, [bin, 'run', '--config', file])
    const { code } = await child.exited
    return { code, said: child.log() }
  }
  await deployment.server.stop()

  const typo = await run(settings => ({ ...settings, workers: 'two' }))
  t.match(typo, { code: 2, said: /workers: expected auto, or a whole number from 1 to 64, got "two"\n$/ })
  t.equal(typo.said.trim().split('\n').length, 1)

  const busy = createServer().listen(deployment.tunnel.port, '127.0.0.1')
  await once(busy, 'listening')
  const taken = await run(settings => settings)
  busy.close()
  await once(busy, 'close')
  t.match(taken, { code: 1, said: `seed-server: cannot listen on 127.0.0.1:${deployment.tunnel.port}` })
  t.match(taken.said, /in use.*\n$/)
  t.equal(taken.said.trim().split('\n').length, 1)

  rmSync(deployment.pki('server.key'))
  const keyless = await run(settings => settings)
  t.match(keyless, { code: 1, said: /^seed-server: certificate or key unusable: .*server\.key.*\n$/ })
  t.equal(keyless.said.trim().split('\n').length, 1)
  t.notOk(existsSync(path))
})

/** A deployment whose server this test ends itself. */
async function alone(t: Test): Promise<{ child: Child; deployment: Deployment; pids: () => number[] }> {
  const deployment = await deploy(t, {
    startClients: false,
    front: 'plain',
    seed: severally,
    shoot: settings => ({ ...settings, drainTimeout: '0s' })
  })
  await deployment.server.stop()
  const argv = [bin, 'run', '--config', deployment.server.configFile]
  const child = startForTest(t, 'seed-server', process.execPath, argv, { TMPDIR: deployment.directory })
  // A client that comes first waits longer each time.
  await until('both serve', () => workersOf(child.log()).length === WORKERS)
  await deployment.clients[0]!.start()
  await covered(deployment)
  return { child, deployment, pids: () => workersOf(child.log()).map(({ pid }) => pid) }
}

/** Directories with the sockets of workers. */
function left({ directory }: Deployment): string[] {
  return readdirSync(directory).filter(name => name.startsWith('tendril-'))
}
