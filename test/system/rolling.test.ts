/**
 * A rolling restart under load: three servers behind a real balancer, two clients, each of them told to stop and started
 * again in turn, while short requests keep coming at a steady pace. Callers and clients know the balancer only; it asks
 * `/readyz` every 200 ms, and learns of a stop no earlier than that.
 */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { randomHaproxy } from '../chaos/network-path.js'
import { WHOLE, figure } from '../chaos/traffic.js'
import { apiserverDial, httpGet } from '../support/apiserver.js'
import { type Settings, deploy } from '../support/deployment.js'
import { reservePort } from '../support/ports.js'
import { requireTool, until } from '../support/child-process.js'
import { podTarget } from '../support/targets.js'

const SERVERS = 3
const CLIENTS = 2
/** Requests begun per second; a busy machine may fall behind, which is reported and is no failure. */
const PACE = WHOLE ? 200 : 30
/** Rounds through all servers and clients. */
const ROUNDS = WHOLE ? 2 : 1
/** Requests under way at once; more are not begun: beyond it the machine is measured, not the tunnel. */
const UNDER_WAY_LIMIT = WHOLE ? 100 : 10
/** A drain ends with its last request; on a machine at its limit that takes as long as it takes. */
const PATIENT = { drainTimeout: '60s', log: { level: 'info' } }
const TICK_MS = 5

t.test('every client and every server behind haproxy is replaced in turn, and no request fails', async t => {
  if (!requireTool(t, 'haproxy')) return
  const tunnelPort = await reservePort()
  const frontPort = await reservePort()
  const deployment = await deploy(t, {
    servers: SERVERS,
    clients: CLIENTS,
    processes: true,
    startClients: false,
    seed: settings => ({
      ...settings,
      ...PATIENT,
      fronts: (settings['fronts'] as Settings[]).map(front => ({ ...front, dialTimeout: '60s' })),
      drainDelay: '2s'
    }),
    shoot: (settings, _cluster, index) => ({
      ...settings,
      ...PATIENT,
      name: `client-${index}`,
      servers: [
        { url: `wss://vpn.demo.test:${tunnelPort}`, address: `127.0.0.1:${tunnelPort}` }
      ] as Settings[]
    })
  })
  const { replicas, clients, pki } = deployment
  // Clients are let in where a server lives: it is ready only once one of them is there.
  await randomHaproxy(
    t,
    tunnelPort,
    replicas.map(({ server, tunnel }) => ({ ...tunnel, admin: { base: server.admin, path: '/livez' } }))
  )
  await randomHaproxy(
    t,
    frontPort,
    replicas.map(({ server, fronts }) => ({
      ...(fronts['demo'] as { host: string; port: number }),
      admin: { base: server.admin, path: '/readyz' }
    }))
  )
  for (const client of clients) await client.start()
  await until(`${CLIENTS} clients at each of ${SERVERS} servers`, async () => {
    const all = await Promise.all(replicas.map(({ server }) => server.metrics().catch(() => '')))
    return all.every(text => text.includes(`tendril_server_clients{cluster="demo"} ${CLIENTS}\n`))
  })

  const pod = await podTarget(t)
  const tls = {
    ca: readFileSync(pki('ca.crt')),
    cert: readFileSync(pki('kube-apiserver.crt')),
    key: readFileSync(pki('kube-apiserver.key'))
  }
  const front = { host: '127.0.0.1', port: frontPort }
  const failures: string[] = []
  let during = 'before'
  let slowestMs = 0
  const request = async (): Promise<void> => {
    const began = performance.now()
    const since = during
    try {
      const { status } = await httpGet(await apiserverDial({ front, tls, addr: pod.addr }))
      if (status !== 200) failures.push(`status ${status}, ${since}`)
    } catch (error) {
      failures.push(`${String(error)}, ${since} to ${during}, ${Math.round(performance.now() - began)} ms`)
    }
    slowestMs = Math.max(slowestMs, performance.now() - began)
  }
  const load = steady(request)
  t.teardown(load.stop)
  await until('all servers are asked', () => load.begun() > 2 * PACE)

  const turns = [...clients, ...replicas.map(({ server }) => server)]
  for (let round = 0; round < ROUNDS; round++) {
    for (const program of turns) {
      during = `${program.name} stops`
      await program.stop()
      during = `${program.name} starts`
      await program.start()
      // As a rollout does: the next one's turn comes when this one says so, whoever is connected to whom by then.
      await program.ready()
      during = `after ${program.name}`
    }
  }
  const reached = await load.stop()

  t.same(failures, [])
  figure(
    t,
    `rolling restart of ${turns.length * ROUNDS}: requests / per second / failed / slowest ms`,
    `${load.begun()} / ${Math.round(reached)} / ${failures.length} / ${Math.round(slowestMs)}`
  )
})

/** Begins requests at PACE, whether or not earlier ones have ended. `stop` resolves with the pace that was reached. */
function steady(request: () => Promise<void>): { begun(): number; stop(): Promise<number> } {
  const underWay = new Set<Promise<void>>()
  const began = performance.now()
  let begun = 0
  let left = 0
  let last = began
  const timer = setInterval(() => {
    const now = performance.now()
    // What the limit held back is not made up for.
    left = Math.min(left + ((now - last) * PACE) / 1_000, UNDER_WAY_LIMIT)
    last = now
    for (; left >= 1 && underWay.size < UNDER_WAY_LIMIT; left--) {
      begun += 1
      const one = request().finally(() => underWay.delete(one))
      underWay.add(one)
    }
  }, TICK_MS)
  let stopped: Promise<number> | undefined
  const stop = async (): Promise<number> => {
    clearInterval(timer)
    const reached = (begun * 1_000) / (performance.now() - began)
    await Promise.all(underWay)
    return reached
  }
  return { begun: () => begun, stop: () => (stopped ??= stop()) }
}
