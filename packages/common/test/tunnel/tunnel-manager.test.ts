import t from 'tap'
import { TunnelError } from '../../src/errors.js'
import { createBackoff } from '../../src/backoff.js'
import { memoryCarriers } from '../support/memory-carrier.js'
import { createSimulation, seeded } from './simulation.js'

const STOP = new TunnelError('DRAINING', 'stop')

t.test('one server: one attempt, and none more for as long as the tunnel holds', async t => {
  const simulation = createSimulation()

  await simulation.pass(2_000)
  t.same(simulation.reached(), ['s0'])
  await simulation.pass(600_000)

  t.equal(simulation.attempts.length, 1)
  t.same(simulation.manager.endpoints, [{ name: 'endpoint0', up: true, lastError: undefined }])
  await simulation.end()
})

t.test('a tunnel that proved itself is dialled again at once, and goes on', async t => {
  const simulation = createSimulation()
  await simulation.pass(20_000)
  const [tunnel] = simulation.manager.tunnels

  simulation.carriers[0]?.cut()
  const lostAtMs = simulation.now()
  await simulation.pass(500, () => simulation.reached().length === 1)

  t.ok((simulation.attempts[1] as number) - lostAtMs <= 5, 'the first attempt does not wait')
  t.equal(simulation.manager.tunnels[0], tunnel, 'the same tunnel: it was resumed')
  t.same(
    simulation.logged.filter(([level]) => level !== 'debug' && level !== 'info'),
    []
  )
  await simulation.end()
})

t.test('attempts that fail follow each other at once, then ever later, at most 30 s apart', async t => {
  const simulation = createSimulation({ random: () => 0.999_999, newBackoff: slowest })
  const [server] = simulation.replicas
  if (server) server.up = false

  await simulation.pass(200_000)

  const dialMs = 60
  const gaps = simulation.attempts.slice(1).map((at, index) => at - (simulation.attempts[index] as number))
  const expected = [0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]
  for (const [index, gapMs] of expected.entries()) {
    const actual = gaps[index] as number
    t.ok(actual >= gapMs && actual <= gapMs + dialMs + 260, `gap ${index}: ${actual} ms for ${gapMs}`)
  }
  t.match(simulation.manager.endpoints, [{ up: false, lastError: { code: 'SERVER_UNREACHABLE' } }])
  await simulation.end()
})

t.test('a thousand clients that fail together do not come back together', async t => {
  const delays: number[] = []
  for (let seed = 1; seed <= 1_000; seed++) {
    const backoff = createBackoff({ baseMs: 1_000, random: seeded(seed) })
    // Lost, refused at once, refused again: the server is back after two seconds.
    let at = backoff.delayAfter(60_000)
    while (at < 2_000) at += 20 + backoff.delayAfter(0)
    delays.push(at)
  }

  const perSecond = new Map<number, number>()
  for (const at of delays)
    perSecond.set(Math.floor(at / 1_000), (perSecond.get(Math.floor(at / 1_000)) ?? 0) + 1)

  t.ok(Math.max(...perSecond.values()) < 600, `per second: ${JSON.stringify([...perSecond])}`)
  t.ok(perSecond.size >= 3)
})

t.test('a tunnel that comes and goes is given time', async t => {
  const simulation = createSimulation()
  let cuts = 0
  for (; cuts < 20; cuts++) {
    await simulation.pass(60_000, () => simulation.reached().length === 1)
    simulation.carriers.at(-1)?.cut()
    await simulation.pass(5)
  }

  t.ok(simulation.now() > 20_000, `${cuts} losses took ${simulation.now()} ms`)
  t.ok(simulation.attempts.length <= cuts + 2, `${simulation.attempts.length} attempts`)
  await simulation.end()
})

t.test('one cut that takes many tunnels is charged once, however far apart they notice it', async t => {
  const simulation = createSimulation({ connections: 6, random: () => 0.999_999, newBackoff: slowest })
  await simulation.pass(1_000, () => simulation.manager.tunnels.filter(({ up }) => up).length === 6)
  const tunnels = simulation.manager.tunnels

  for (const carrier of [...simulation.carriers]) {
    carrier.cut()
    await simulation.pass(100)
  }
  await simulation.pass(500)

  t.same(simulation.manager.tunnels, tunnels, 'all were resumed')
  t.ok(tunnels.every(({ up }) => up))
  await simulation.end()
})

t.test('a tunnel that is lost again after that is charged again', async t => {
  const simulation = createSimulation({ random: () => 0.999_999, newBackoff: slowest })
  const gaps: number[] = []
  for (let cuts = 0; cuts < 4; cuts++) {
    await simulation.pass(20_000, () => simulation.reached().length === 1)
    const cutAtMs = simulation.now()
    simulation.carriers.at(-1)?.cut()
    await simulation.pass(20_000, () => simulation.reached().length === 1)
    gaps.push(Math.round((simulation.now() - cutAtMs) / 1_000))
  }

  t.same(gaps, [0, 1, 2, 4])
  await simulation.end()
})

t.test(
  'a connection goes to a tunnel that is down before one that is old, and to a new one last',
  async t => {
    let connects = 0
    let release = (): void => {}
    const simulation = createSimulation({
      connections: 3,
      maxAgeMs: 100_000,
      endpoints: simulation => [
        {
          name: 'gate',
          async connect(signal) {
            if (++connects > 2) await new Promise<void>(resolve => (release = resolve))
            return simulation.endpoint(0).connect(signal)
          }
        }
      ]
    })
    await simulation.pass(95_000)
    const [old, lost] = simulation.manager.tunnels
    t.same([old?.wantsCarrier, lost?.wantsCarrier], [true, true], 'both are old')

    // The tunnel that is first in every list only has an old connection.
    simulation.carriers[1]?.cut()
    await simulation.pass(1_000)
    release()
    await simulation.pass(100, () => lost?.up === true)
    t.ok(lost?.up, 'the tunnel that was lost goes on')
    t.notOk(simulation.carriers[0]?.over, 'the old connection is not replaced yet')
    release()
    await simulation.pass(100, () => simulation.carriers[0]?.over === true)

    t.ok(simulation.carriers[0]?.over, 'now it is')
    t.equal(simulation.manager.tunnels.length, 2)
    release()
    await simulation.pass(100, () => simulation.manager.tunnels.length === 3)
    t.equal(simulation.manager.tunnels.length, 3, 'and then there is a new tunnel')
    await simulation.end()
  }
)

t.test('a tunnel that is lost does not sit out a pause that began for another reason', async t => {
  let denied = false
  const simulation = createSimulation({
    connections: 2,
    endpoints: simulation => [
      {
        name: 'denied',
        async connect(signal) {
          if (simulation.manager?.tunnels.length !== 1 || !denied)
            return simulation.endpoint(0).connect(signal)
          throw new TunnelError('CLUSTER_DENIED', 'not this one')
        }
      }
    ]
  })
  denied = true
  await simulation.pass(20_000)
  const [tunnel] = simulation.manager.tunnels
  t.equal(
    simulation.manager.tunnels.length,
    1,
    'the second is refused, and asked for again in a minute at most'
  )

  denied = false
  simulation.carriers[0]?.cut()
  t.ok(await simulation.pass(100, () => tunnel?.up === true), 'it had proved itself: at once')

  await simulation.pass(100, () => simulation.manager.tunnels.length === 2)
  await simulation.end()
})

t.test('an endpoint that is released before it led anywhere is forgotten, whoever answers there', async t => {
  const simulation = createSimulation({ endpoints: simulation => [simulation.endpoint(0, 'kept')] })
  await simulation.pass(1_000)
  const release = simulation.manager.open(simulation.endpoint(0, 'released'))
  await simulation.pass(5)

  release()
  await simulation.pass(1_000)

  t.same(
    simulation.manager.endpoints.map(({ name }) => name),
    ['kept']
  )
  await simulation.end()
})

t.test('what a server that has just started says does not undo what the others say', async t => {
  const simulation = createSimulation({ servers: 3, endpoints: simulation => [simulation.balancer()] })
  const [, away, fresh] = simulation.replicas
  if (!away || !fresh) return
  await simulation.pass(20_000, () => {
    for (const replica of simulation.replicas) replica.announce(simulation.replicas)
    return simulation.reached().length === 3
  })
  const tunnel = simulation.manager.tunnels.find(({ server }) => server === away.id)

  fresh.announce([fresh])
  await simulation.pass(100)
  away.up = false
  for (const carrier of away.carriers) carrier.cut()
  await simulation.pass(10_000)
  t.notOk(
    tunnel?.over,
    'the others have answered in its place often enough to forget one that nobody announces'
  )
  away.up = true

  t.ok(await simulation.pass(10_000, () => tunnel?.up === true))
  await simulation.end()
})

t.test('what a server said does not outlive its last tunnel', async t => {
  const simulation = createSimulation({ servers: 2, endpoints: simulation => [simulation.balancer()] })
  const [staying, leaving] = simulation.replicas
  if (!staying || !leaving) return
  await simulation.pass(20_000, () => {
    for (const replica of simulation.replicas) replica.announce(simulation.replicas)
    return simulation.reached().length === 2
  })
  leaving.announce([staying, leaving, { id: 'ghost' } as never])
  await simulation.pass(100)
  staying.announce([staying])
  await simulation.pass(100)

  const looking = simulation.attempts.length
  await simulation.pass(10_000)
  t.ok(simulation.attempts.length > looking, 'while it is up, whom it names is looked for')

  leaving.kill()
  simulation.replicas.pop()
  await simulation.pass(10_000)
  const before = simulation.attempts.length
  await simulation.pass(60_000)

  t.equal(simulation.attempts.length, before, 'nobody is looked for')
  await simulation.end()
})

t.test('what only a change elsewhere can mend is asked slowly and told once', async t => {
  const why = new TunnelError('CLUSTER_DENIED', 'not this cluster')
  const simulation = createSimulation({
    endpoints: simulation => [
      {
        name: 'denied',
        connect: async signal => {
          await simulation.dial(() => undefined, signal).catch(() => {})
          throw why
        }
      }
    ]
  })

  await simulation.pass(600_000)

  t.ok(
    simulation.attempts.length >= 10 && simulation.attempts.length <= 21,
    `${simulation.attempts.length} attempts in 10 min`
  )
  t.equal(simulation.logged.filter(([level]) => level === 'error').length, 1)
  t.equal(simulation.manager.endpoints[0]?.lastError, why)
  await simulation.end()
})

t.test('a server of another version, met when the tunnel is up, is told once and asked slowly', async t => {
  const simulation = createSimulation()
  const end = async (): Promise<void> => {
    await simulation.pass(600_000, () => simulation.reached().length === 1)
    simulation.manager.tunnels[0]?.session.close('VERSION_MISMATCH', 'this side speaks 1, the peer 2')
    await simulation.pass(100)
  }
  await end()
  t.match(simulation.manager.endpoints, [{ up: false, lastError: { code: 'VERSION_MISMATCH' } }])
  const attempts = simulation.attempts.length
  await simulation.pass(1_000)
  t.equal(simulation.attempts.length, attempts, 'no storm')
  await end()
  await end()

  const errors = simulation.logged.filter(([level]) => level === 'error')
  t.equal(errors.length, 1)
  t.match(errors[0]?.[2], { code: 'VERSION_MISMATCH' })
  await simulation.end()
})

t.test('the delay in the log is the one that is waited, also while a tunnel is down', async t => {
  // While it is down no pause is longer than a quarter of its resume window.
  const simulation = createSimulation({ limits: { resumeWindowMs: 60_000 }, newBackoff: slowest })
  const retries = () => simulation.logged.filter(([, message]) => message === 'no link yet, dialling again')
  await simulation.pass(20_000)
  const [server] = simulation.replicas
  if (server) server.up = false
  simulation.carriers[0]?.cut()
  const loggedAtMs: number[] = []
  await simulation.pass(50_000, () => {
    while (loggedAtMs.length < retries().length) loggedAtMs.push(simulation.now())
    return false
  })

  const delays = retries().map(([, , { delayMs }]) => delayMs as number)
  t.same(delays.slice(0, 4), [999, 1_999, 3_999, 7_999])
  t.ok(delays.length > 5, `${delays.length} failures`)
  t.ok(Math.max(...delays) < 15_000, String(delays))
  for (const [index, delayMs] of delays.slice(0, -1).entries()) {
    const waitedMs = (simulation.attempts[index + 2] as number) - (loggedAtMs[index] as number)
    t.ok(Math.abs(waitedMs - delayMs) <= 10, `${delayMs} ms logged, ${waitedMs} ms waited`)
  }
  await simulation.end()
})

t.test('retryNow ends a wait, and does nothing to a tunnel that is up', async t => {
  const simulation = createSimulation({ random: () => 0.999, newBackoff: slowest })
  const server = simulation.replicas[0]
  if (!server) return
  server.up = false
  await simulation.pass(20_000)
  server.up = true
  const before = simulation.attempts.length

  simulation.manager.retryNow()
  await simulation.pass(100, () => simulation.reached().length === 1)
  t.same(simulation.reached(), ['s0'])
  t.equal(simulation.attempts.length, before + 1)

  simulation.manager.retryNow()
  await simulation.pass(5_000)
  t.equal(simulation.attempts.length, before + 1)
  await simulation.end()
})

t.test('five servers behind a random balancer are all found within three seconds', async t => {
  const tookMs: number[] = []
  let attempts = 0
  for (let seed = 1; seed <= 100; seed++) {
    const simulation = createSimulation({
      seed,
      servers: 5,
      endpoints: simulation => [simulation.balancer()]
    })
    await simulation.pass(200, () => simulation.reached().length === 1)
    for (const replica of simulation.replicas) replica.announce(simulation.replicas)
    const all = await simulation.pass(10_000, () => {
      for (const replica of simulation.replicas) replica.announce(simulation.replicas)
      return simulation.reached().length === 5
    })
    t.ok(all, `seed ${seed}`)
    tookMs.push(simulation.now())
    attempts += simulation.attempts.length
    await simulation.end()
  }

  const [median, most, slowest] = spread(tookMs)
  t.comment(`median ${median} ms, slowest of 100 ${slowest} ms, ${attempts / 100} attempts on average`)
  t.ok(most < 3_000, `98 of 100 within ${most} ms`)
})

t.test('a server that replaced another is found within two seconds of its announcement', async t => {
  const tookMs: number[] = []
  for (let seed = 1; seed <= 100; seed++) {
    const simulation = createSimulation({
      seed: seed * 7,
      servers: 5,
      endpoints: simulation => [simulation.balancer()]
    })
    await simulation.pass(20_000, () => {
      for (const replica of simulation.replicas) replica.announce(simulation.replicas)
      return simulation.reached().length === 5
    })
    const gone = simulation.replicas.shift()
    gone?.kill()
    const fresh = simulation.addReplica('fresh')
    for (const replica of simulation.replicas) replica.announce(simulation.replicas)
    const announcedMs = simulation.now()

    await simulation.pass(10_000, () => simulation.reached().includes(fresh.id))

    tookMs.push(simulation.now() - announcedMs)
    await simulation.end()
  }

  const [median, most, slowest] = spread(tookMs)
  t.comment(`median ${median} ms, slowest of 100 ${slowest} ms`)
  t.ok(most < 2_000, `98 of 100 within ${most} ms`)
})

t.test('a new server is not waited for because of what an old one did', async t => {
  const simulation = createSimulation({
    servers: 2,
    endpoints: simulation => [simulation.balancer()],
    newBackoff: slowest
  })
  const [restless] = simulation.replicas
  const announce = (): void => {
    for (const replica of simulation.replicas) replica.announce(simulation.replicas)
  }
  await simulation.pass(200, () => simulation.reached().length === 1)
  announce()
  await simulation.pass(20_000, () => simulation.reached().length === 2)
  for (let cuts = 0; cuts < 6; cuts++) {
    restless?.carriers.at(-1)?.cut()
    await simulation.pass(60_000, () => simulation.reached().length === 2)
  }
  simulation.replicas.shift()
  restless?.kill()
  await simulation.pass(100)
  const fresh = simulation.addReplica('fresh')
  announce()
  const announcedMs = simulation.now()

  await simulation.pass(60_000, () => simulation.reached().includes(fresh.id))

  t.ok(simulation.now() - announcedMs < 2_000, `${simulation.now() - announcedMs} ms after its announcement`)
  await simulation.end()
})

t.test('a server that is announced and cannot be reached causes no storm', async t => {
  const simulation = createSimulation({ servers: 2, endpoints: simulation => [simulation.balancer()] })
  await simulation.pass(5_000, () => simulation.reached().length === 2)
  simulation.replicas[0]?.host.drain()
  for (const replica of simulation.replicas)
    replica.announce([...simulation.replicas, { id: 'ghost' } as never])
  await simulation.pass(200)
  const before = simulation.attempts.length

  await simulation.pass(60_000)
  const firstMinute = simulation.attempts.length - before
  await simulation.pass(60_000)
  const secondMinute = simulation.attempts.length - before - firstMinute

  t.ok(firstMinute <= 90, `${firstMinute} attempts in the first minute`)
  t.ok(secondMinute <= 40, `${secondMinute} attempts in the second`)
  await simulation.end()
})

t.test('a server that drains is not besieged while there is no other', async t => {
  const simulation = createSimulation()
  await simulation.pass(20_000)
  simulation.replicas[0]?.drain()
  await simulation.pass(20)
  const before = simulation.attempts.length

  await simulation.pass(30_000)

  const attempts = simulation.attempts.length - before
  t.ok(attempts > 0 && attempts <= 25, `${attempts} attempts in 30 s`)
  t.same(simulation.reached(), ['s0'], 'the tunnel lives until its streams are done')
  await simulation.end()
})

t.test('a server that drains is left for another at once', async t => {
  const simulation = createSimulation({ servers: 2, endpoints: simulation => [simulation.balancer()] })
  const [draining, other] = simulation.replicas
  if (!draining || !other) return
  other.up = false
  await simulation.pass(1_000)
  other.up = true
  draining.drain()

  // Behind a balancer that still sends one in two to the draining server.
  const found = await simulation.pass(3_000, () => simulation.reached().includes(other.id))

  t.ok(found)
  await simulation.end()
})

t.test('several tunnels to each server, each in a connectionIndex of its own', async t => {
  const simulation = createSimulation({
    connections: 3,
    servers: 2,
    endpoints: simulation => [simulation.endpoint(0), simulation.endpoint(1)]
  })

  await simulation.pass(2_000)

  t.same(
    simulation.manager.tunnels.map(({ server, connectionIndex }) => `${server}/${connectionIndex}`).sort(),
    ['s0/0', 's0/1', 's0/2', 's1/0', 's1/1', 's1/2']
  )
  await simulation.pass(60_000)
  t.equal(simulation.attempts.length, 6)
  await simulation.end()
})

t.test('a connection is replaced before it is too old, and no byte waits', async t => {
  const simulation = createSimulation({ maxAgeMs: 100_000 })
  await simulation.pass(1_000)
  const [tunnel] = simulation.manager.tunnels
  let everDown = false
  tunnel?.link.on('down', () => (everDown = true))

  await simulation.pass(79_000)
  t.equal(simulation.attempts.length, 1, 'not before 80 % of its age')
  await simulation.pass(11_200)

  t.equal(simulation.attempts.length, 2)
  t.notOk(everDown)
  t.equal(simulation.manager.tunnels[0], tunnel)
  t.ok(simulation.carriers[0]?.over, 'the old connection is closed')
  t.notOk(simulation.carriers[1]?.over)
  await simulation.end()
})

t.test(
  'a connection that will be dropped is replaced before; one that gains nothing, not in a loop',
  async t => {
    let endMs = 100_000
    const simulation = createSimulation({
      endpoints: simulation => [
        {
          name: 'renewed',
          connect: async signal => {
            const connection = await simulation.endpoint(0).connect(signal)
            return { ...connection, leftMs: endMs - simulation.now() }
          }
        }
      ]
    })
    let lost = 0
    await simulation.pass(1_000)
    const [tunnel] = simulation.manager.tunnels
    // Which of two connections is heard first is not said: the older one may end before the answer on the newer one is there.
    tunnel?.link.on('down', ({ code }) => (lost += code === 'SUPERSEDED' ? 0 : 1))

    await simulation.pass(79_000)
    t.equal(simulation.attempts.length, 1, 'not before 80 % of its time')
    await simulation.pass(20_000)
    t.ok(
      simulation.attempts.length >= 3 && simulation.attempts.length <= 8,
      `${simulation.attempts.length} attempts`
    )
    t.notOk(simulation.carriers.at(-1)?.over)

    endMs = 1_000_000
    simulation.attempts.length = 0
    await simulation.pass(10_000)
    t.ok(
      simulation.attempts.length >= 1 && simulation.attempts.length <= 2,
      'over the next one it has time again'
    )
    endMs = 0
    await simulation.pass(900_000)
    simulation.attempts.length = 0
    await simulation.pass(60_000)
    t.ok(simulation.attempts.length <= 75, `${simulation.attempts.length} attempts in a minute`)
    t.equal(lost, 0)
    t.same(simulation.manager.tunnels, [tunnel], 'the tunnel goes on, over the same link')
    t.ok(tunnel?.up)
    await simulation.end()
  }
)

t.test('no time to live is too long for a timer', async t => {
  const simulation = createSimulation({
    endpoints: simulation => [
      {
        name: 'decades',
        connect: async signal => ({
          ...(await simulation.endpoint(0).connect(signal)),
          leftMs: 10 * 365 * 86_400_000
        })
      }
    ]
  })
  const waits: number[] = []
  const after = simulation.clock.after.bind(simulation.clock)
  simulation.clock.after = (ms, callback) => (waits.push(ms), after(ms, callback))
  await simulation.pass(1_000)

  t.equal(Math.max(...waits), 2 ** 31 - 1)
  await simulation.end()
})

t.test(
  'connections are renewed while they work, each at a moment of its own, and none waits longer',
  async t => {
    const simulation = createSimulation({ connections: 8 })
    await simulation.pass(5_000)
    let downs = 0
    for (const { link } of simulation.manager.tunnels) link.on('down', () => downs++)
    const before = [...simulation.carriers]
    t.equal(before.length, 8)
    const from = simulation.now()
    simulation.attempts.length = 0

    simulation.manager.renew(50_000)
    await simulation.pass(51_000)

    t.equal(simulation.attempts.length, 8)
    t.ok(before.every(({ over }) => over))
    t.equal(simulation.manager.tunnels.filter(({ up }) => up).length, 8)
    t.equal(downs, 0, 'no stream waits')
    const gaps = simulation.attempts.map((at, index) => at - (simulation.attempts[index - 1] ?? from))
    t.ok(Math.max(...gaps) < 40_000 && gaps.filter(gap => gap > 500).length >= 4, `spread: ${gaps.join()}`)

    simulation.attempts.length = 0
    await simulation.pass(120_000)
    t.equal(simulation.attempts.length, 0, 'once')
    await simulation.end()
  }
)

t.test('a connection that was under way when all were renewed is renewed, too', async t => {
  const simulation = createSimulation({ endpoints: simulation => [simulation.endpoint(0)] })
  await simulation.pass(1_000)
  const [tunnel] = simulation.manager.tunnels
  const [near, far] = memoryCarriers()

  const attached = tunnel!.attach(near)
  tunnel!.replace(10_000)
  simulation.replicas[0]!.host.accept(far, { key: 'k' })
  await simulation.pass(10)
  await attached
  t.notOk(near.over, 'this is the connection now')
  await simulation.pass(11_000)

  t.ok(near.over)
  t.ok(tunnel?.up)
  await simulation.end()
})

t.test(
  'a server that was restarted refuses the resume; a new tunnel follows over the same connection',
  async t => {
    const simulation = createSimulation({ named: false })
    await simulation.pass(20_000)
    const [old] = simulation.manager.tunnels
    const ends: string[] = []
    old?.session.on('close', error => ends.push(error.code))
    simulation.replicas[0]?.kill()
    simulation.replicas.shift()
    simulation.addReplica('reborn')

    await simulation.pass(1_000)

    t.same(ends, ['RESUME_REFUSED'])
    t.equal(simulation.manager.tunnels.length, 1)
    t.ok(simulation.manager.tunnels[0]?.up)
    t.ok(simulation.attempts.length <= 3, `${simulation.attempts.length} attempts`)
    await simulation.end()
  }
)

t.test('another server behind the same endpoint ends the tunnels of the one before', async t => {
  const simulation = createSimulation()
  await simulation.pass(20_000)
  const [old] = simulation.manager.tunnels
  simulation.replicas[0]?.kill()
  simulation.replicas.shift()
  simulation.addReplica('reborn')

  await simulation.pass(1_000)

  t.ok(old?.over, 'its streams need not wait for the window')
  t.same(simulation.reached(), ['reborn'])
  await simulation.end()
})

t.test('a restarted server that nobody announces costs a few attempts, not a storm', async t => {
  const simulation = createSimulation({ endpoints: simulation => [simulation.balancer()] })
  await simulation.pass(20_000)
  const [old] = simulation.manager.tunnels
  simulation.replicas.shift()?.kill()
  simulation.addReplica('reborn')
  const before = simulation.attempts.length

  await simulation.pass(2_000)

  t.ok(old?.over, 'its streams need not wait for the window')
  t.same(simulation.reached(), ['reborn'])
  await simulation.pass(60_000)
  const attempts = simulation.attempts.length - before
  t.ok(attempts <= 9, `${attempts} attempts`)
  await simulation.end()
})

t.test('behind a balancer a tunnel finds its server again, announced or not', async t => {
  for (const announced of [true, false]) {
    let resumed = 0
    for (let seed = 1; seed <= 20; seed++) {
      const simulation = createSimulation({
        seed,
        servers: 2,
        endpoints: simulation => [simulation.balancer()]
      })
      await simulation.pass(5_000)
      if (announced) for (const replica of simulation.replicas) replica.announce(simulation.replicas)
      await simulation.pass(2_000)
      const [tunnel] = simulation.manager.tunnels
      for (const carrier of simulation.carriers) carrier.cut()
      await simulation.pass(3_000)
      if (tunnel?.up) resumed++
      await simulation.end()
    }
    t.ok(resumed >= 19, `announced: ${announced}, ${resumed} of 20`)
  }
})

t.test('a client that drains takes no new tunnel and still gets its old ones back', async t => {
  const simulation = createSimulation({
    servers: 2,
    endpoints: simulation => [simulation.endpoint(0), simulation.endpoint(1)]
  })
  const other = simulation.replicas[1]
  if (!other) return
  other.up = false
  await simulation.pass(20_000)
  const [tunnel] = simulation.manager.tunnels

  simulation.manager.drain()
  other.up = true
  simulation.carriers[0]?.cut()
  await simulation.pass(60_000)

  t.same(simulation.reached(), ['s0'])
  t.equal(simulation.manager.tunnels[0], tunnel)
  await simulation.end()
})

t.test('stopped at any moment it leaves nothing: no timer, no attempt, no connection, no tunnel', async t => {
  for (let stopAtMs = 0; stopAtMs < 400; stopAtMs += 7) {
    const simulation = createSimulation({
      seed: stopAtMs,
      servers: 3,
      connections: 2,
      endpoints: simulation => [simulation.balancer(), simulation.endpoint(1)]
    })
    await simulation.pass(stopAtMs / 2)
    for (const replica of simulation.replicas) replica.announce(simulation.replicas)
    // Some are stopped in the middle of a resume.
    if (stopAtMs % 2) for (const carrier of simulation.carriers) carrier.cut()
    await simulation.pass(stopAtMs / 2)

    simulation.manager.stop(STOP)
    simulation.manager.stop(STOP)
    let stopped = false
    void simulation.manager.stopped.then(() => (stopped = true))
    await simulation.pass(20)

    if (!stopped || simulation.busy() > 0 || simulation.manager.tunnels.length > 0) {
      t.fail(
        `stopped after ${stopAtMs} ms: ended ${String(stopped)}, ${simulation.busy()} connections, ${simulation.manager.tunnels.length} tunnels`
      )
    }
    const attempts = simulation.attempts.length
    for (const replica of simulation.replicas) replica.kill()
    await simulation.pass(70_000)
    if (simulation.clock.pending > 0)
      t.fail(`stopped after ${stopAtMs} ms: ${simulation.clock.pending} timers`)
    if (simulation.attempts.length > attempts)
      t.fail(`stopped after ${stopAtMs} ms: an attempt after the end`)
  }
  t.pass('58 moments')
})

function slowest() {
  return createBackoff({ baseMs: 1_000, random: () => 0.999_999 })
}

/** The median, what 98 of 100 keep within, and the slowest. */
function spread(tookMs: number[]): [median: number, most: number, slowest: number] {
  const sorted = [...tookMs].sort((a, b) => a - b)
  const at = (index: number): number => sorted[index] ?? Infinity
  return [at(50), at(97), at(99)]
}
