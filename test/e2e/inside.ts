/**
 * The part of the end-to-end test that runs in the seed's network namespace, where kube-apiserver and kubectl are:
 * starts cluster and world, then runs all checks over each kind of front.
 *
 *     --direct       without a tunnel, with a route: shows what kube-apiserver does by itself
 *     --only=1,4.5   some groups or checks; 8 (docs/install and deploy/) needs no tunnel of ours and runs alone
 *     --front=uds    one of the ways kube-apiserver reaches the tunnel: mtls, uds, replicas
 *     --quick        fewer repetitions, smaller files
 *     --keep         after the checks of the first front everything stays up until ^C, for a look around
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { copy } from './checks/copy.js'
import { deploy } from './checks/deploy.js'
import { failures } from './checks/failures.js'
import { load } from './checks/load-checks.js'
import { logs } from './checks/logs.js'
import { separation } from './checks/separation.js'
import { replicas, withoutApi } from './checks/replicas.js'
import { rotation } from './checks/rotation.js'
import { services } from './checks/services.js'
import { streams } from './checks/stream-checks.js'
import { Cluster } from './support/cluster.js'
import { delay, type CheckContext } from './support/check-context.js'
import { existingNetwork } from './support/network.js'
import { inside, type Namespace } from './support/namespace-process.js'
import { Report } from './support/check-report.js'
import type { Tools } from './support/tools.js'
import { type FrontKind, frontKinds, LEASE_USER, startTunnel } from './support/e2e-tunnel.js'
import { createWorld } from './support/world.js'

const args = process.argv.slice(2)
const only = args.find(arg => arg.startsWith('--only='))?.slice('--only='.length)
const front = args.find(arg => arg.startsWith('--front='))?.slice('--front='.length)
const chosen = frontKinds.filter(kind => front === undefined || kind === front)
/** Nothing but checks 8, which bring their own tunnels. */
const onlyDeploy = only?.split(',').every(number => number.startsWith('8'))
const dir = process.env['E2E_DIR']!
const tools = JSON.parse(process.env['E2E_TOOLS']!) as Tools
const definitions = JSON.parse(process.env['E2E_DEFINITIONS']!) as string[]
const network = existingNetwork(process.env['E2E_NETWORK']!)
const logDir = join(dir, 'logs')
await mkdir(logDir, { recursive: true })

const report = new Report(only?.split(','))
const cluster = await Cluster.create({ dir, logDir, network, tools })
const context: CheckContext = {
  report,
  network,
  cluster,
  dir,
  tunnel: undefined,
  quick: args.includes('--quick')
}

/** Several servers are about themselves; what a connection is good for is checked with one. */
const groupsOf = (name: FrontKind | 'direct'): ((context: CheckContext) => Promise<void>)[] =>
  name === 'replicas' ? [replicas, failures] : [logs, copy, streams, services, load, rotation, failures]

async function runChecks(name: FrontKind | 'direct'): Promise<void> {
  await withoutApi(context)
  const readyMs = await cluster.start(context.tunnel?.egressConfigFile)
  report.say(`kube-apiserver was ready after ${readyMs.toFixed(0)} ms`)
  const endWorld = await createWorld({ dir: join(dir, name), logDir, network, tools, cluster })
  try {
    for (const group of groupsOf(name)) await group(context)
    if (args.includes('--keep')) await stayUp()
  } finally {
    await endWorld()
    await cluster.stop()
  }
}

/** Until somebody ends the process: main.ts takes everything down. */
async function stayUp(): Promise<never> {
  const into = (namespace: Namespace): string =>
    inside(namespace, ['env', `KUBECONFIG=${cluster.kubeconfig}`]).join(' ')
  report.say(`\nUp until ^C. Logs: ${logDir}`)
  report.say(`  ${into(network.seed)} ${tools.kubectl} get pods -A`)
  report.say(`  ${into(network.shoot)} bash`)
  for (;;) await delay(3_600_000)
}

try {
  await separation(context)
  if (args.includes('--direct')) {
    report.over('direct')
    await network.open()
    await runChecks('direct')
  } else {
    const kubeconfig = await cluster.kubeconfigFor(LEASE_USER)
    for (const kind of onlyDeploy ? [] : chosen) {
      report.over(kind)
      context.tunnel = await startTunnel({
        kind,
        dir: join(dir, `tunnel-${kind}`),
        logDir,
        network,
        kubeconfig
      })
      try {
        await runChecks(kind)
      } finally {
        await report.always('stopping the tunnel', context.tunnel.stop)
      }
    }
    if (!only || /(^|,)8/.test(only)) {
      report.over('docs/install and deploy')
      await deploy(context, { tools, definitions, logDir })
    }
  }
} finally {
  await cluster.stop()
}
process.exit(report.end())
