/**
 * Everything that breaks connections, under load: resets, haproxy reloads, and a move to another way through squid.
 * Nobody above the link may notice: hashes are equal, no stream sees an error.
 */
import t from 'tap'
import { deploy } from '../support/deployment.js'
import { PATIENCE_MS, requireTool } from '../support/child-process.js'
import { squid } from '../support/proxies.js'
import { echoTarget, sinkTarget, sourceTarget, tcpTarget } from '../support/targets.js'
import { hopThrough, reloadingHaproxy, networkPath } from './network-path.js'
import { MIB, WHOLE, echo, figure, hashOf, logged, upload } from './traffic.js'

const TRANSFER_BYTES = WHOLE ? 1024 * MIB : 64 * MIB
const KILLS = WHOLE ? 100 : 20
const RELOADS = 5
/** Between two kills: the whole run spreads them over its transfers. */
const PAUSES_MS = WHOLE ? [0, 20, 200, 800, 2_000] : [0, 5, 20, 60, 150]
const ECHOES = 50

t.test(
  `${TRANSFER_BYTES / MIB} MiB each way, ${ECHOES} echoes and a half-closed stream outlive ${KILLS} resets, ${RELOADS} haproxy reloads and a move through squid`,
  { timeout: (WHOLE ? 60 : 15) * PATIENCE_MS },
  async t => {
    if (!requireTool(t, 'haproxy', 'squid')) return
    const paths: {
      relay?: Awaited<ReturnType<typeof networkPath>>
      proxy?: Awaited<ReturnType<typeof reloadingHaproxy>>
    } = {}
    const { dial, clients, server, tunnel } = await deploy(t, {
      before: async tunnel => {
        paths.proxy = await reloadingHaproxy(t, tunnel)
        paths.relay = await networkPath(t, paths.proxy)
        return paths.relay
      },
      // A connection that lives for less than ten seconds is not proved, and the waits between grow.
      shoot: settings => ({ ...settings, reconnect: { maxDelay: '100ms' } })
    })
    const relay = paths.relay!
    const proxy = paths.proxy!
    const through = await hopThrough(t, await squid(t), tunnel)

    const source = await sourceTarget(t, TRANSFER_BYTES)
    const sink = await sinkTarget(t)
    const echoes = await echoTarget(t)
    const state = { half: '', release: () => {} }
    const half = await tcpTarget(t, socket => {
      socket.on('data', chunk => (state.half += chunk.toString()))
      // Answers long after the FIN that it has seen.
      socket.once('end', () => (state.release = () => void socket.end(`late answer to ${state.half}`)))
    })

    const halfClosed = await dial(half.addr)
    halfClosed.end('the question')
    const talks = await Promise.all([...Array(ECHOES)].map(async () => echo(await dial(echoes.addr))))
    const began = performance.now()
    const down = dial(source.addr).then(hashOf)
    const up = dial(sink.addr).then(stream => upload(stream, TRANSFER_BYTES))

    const moved = Math.floor(KILLS / 2)
    for (let kill = 0; kill < KILLS; kill++) {
      if (kill === moved) relay.lead(through)
      const connected = relay.connected()
      relay.cut()
      await connected
      // Some are killed in the handshake, some while they replay, some later.
      await new Promise(resolve => setTimeout(resolve, PAUSES_MS[kill % 5]))
      if (kill < moved && kill % Math.floor(moved / RELOADS) === 0) await proxy.reload()
    }
    const chaosMs = Math.round(performance.now() - began)

    t.equal(await down, source.sha256, 'the download')
    t.equal(await up, (await sink.received()).sha256, 'the upload')
    const transferMs = Math.round(performance.now() - began)
    for (const talk of talks) await talk.stop()
    t.pass('no echo stream saw an error')
    state.release()
    const answer: string[] = []
    for await (const chunk of halfClosed) answer.push(String(chunk))
    t.equal(answer.join(''), 'late answer to the question')

    const log = clients[0]!.log()
    const resumes = logged(log, 'link resumed')
    // How many of the kills fell into a handshake is up to the machine.
    t.ok(resumes.length > 0)
    t.same(logged(log, 'link lost for good, beginning anew'), [])
    t.same(logged(server.log(), 'link refused'), [])
    const downMs = resumes.map(({ downMs }) => Number(downMs)).sort((a, b) => a - b)
    figure(t, 'resumes', resumes.length)
    figure(t, 'link down, median ms', downMs[Math.floor(downMs.length / 2)] ?? 0)
    figure(t, 'link down, longest ms', downMs.at(-1) ?? 0)
    figure(
      t,
      'replayed MiB',
      resumes.reduce((sum, { replayedBytes }) => sum + Number(replayedBytes), 0) / MIB
    )
    figure(t, 'chaos ms / transfers ms', `${chaosMs} / ${transferMs}`)
    figure(t, 'slowest echo ms', Math.round(Math.max(...talks.map(talk => talk.slowestMs()))))
  }
)
