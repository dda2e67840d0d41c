/**
 * Checks 8: docs/install and deploy/ as their readers use them. The guides are followed word for word in a sandbox,
 * against the real kube-apiserver, and what it has stored then is run, from images built as the Dockerfile says. The
 * charts by themselves are charts.ts.
 */
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parse } from 'yaml'
import { ROOT_PATH } from '../../support/dockerfile.js'
import { readGuide, type Step, type Way } from '../../support/guide.js'
import { Sandbox } from '../../support/sandbox.js'
import type { KubeObject } from '../support/api.js'
import { expect, type CheckContext } from '../support/check-context.js'
import { buildImages, type Image } from '../support/image.js'
import { SEED_ADDRESS } from '../support/network.js'
import { startPod } from '../support/pod.js'
import { must, type Namespace, until } from '../support/namespace-process.js'
import type { Tools } from '../support/tools.js'
import { createWorld } from '../support/world.js'
import { accept, charts } from './chart-checks.js'

const SERVER_NAME = 'vpn.example.org'
const ADMIN = 'http://127.0.0.1:8095'
const BY_HAND_LIMIT_MS = 60_000
/** A pod of world.ts that answers HTTP. */
const WEB = 'http://100.96.0.14:8080/'

export type DeployOptions = {
  tools: Tools
  /** Files of CustomResourceDefinitions. */
  definitions: readonly string[]
  logDir: string
}

export async function deploy(
  context: CheckContext,
  { tools, definitions, logDir }: DeployOptions
): Promise<void> {
  const { report, cluster, network } = context
  const dir = join(context.dir, 'deploy')
  await mkdir(dir)
  // Pods of other users live below these.
  for (const path of [context.dir, dir]) await chmod(path, 0o711)
  const sandboxes: Sandbox[] = []
  const sandbox = async (name: string): Promise<Sandbox> => {
    await mkdir(join(dir, name))
    const made = await Sandbox.create({
      dir: join(dir, name),
      hosts: { [SERVER_NAME]: SEED_ADDRESS, 'seed-server.tendril.svc': '127.0.0.1' },
      programs: { kubectl: tools.kubectl, helm: tools.helm },
      env: cluster.kubectlEnv()
    })
    sandboxes.push(made)
    return made
  }
  /** Does what a page says. */
  const follow = async (
    place: Sandbox,
    { page, line, file, text }: Step,
    where?: Namespace
  ): Promise<void> => {
    report.say(`       ${page}.md:${line} ${file ?? text.trim().split('\n').join('\n         ')}`)
    if (file) await place.write(file, text)
    else await place.run(text, where ? { namespace: where.name } : {})
  }
  const followAll = async (place: Sandbox, way: Way): Promise<void> => {
    for (const step of await readGuide(way)) await follow(place, step)
  }
  let endWorld = async (): Promise<void> => {}
  try {
    // By hand, up to the last command, which is for a kube-apiserver that has been started with what came before.
    const begun = performance.now()
    const hand = await sandbox('by-hand')
    const steps = await readGuide('by-hand')
    // The client's machine is another one. With kubectl and helm it does not matter from where they are called.
    for (const step of steps.slice(0, -1))
      await follow(hand, step, step.page === 'shoot' ? network.shoot : undefined)
    await cluster.start(hand.path('egress.yaml'))
    const upMs = performance.now() - begun
    endWorld = await createWorld({ dir: join(dir, 'world'), logDir, network, tools, cluster })

    await report.check('8.1', 'docs/install by hand: five commands, and kubectl exec works', async () => {
      const before = performance.now()
      await follow(hand, steps.at(-1)!)
      const tookMs = upMs + performance.now() - before
      const commands = steps.filter(({ file }) => !file).flatMap(({ text }) => text.trim().split('\n'))
      expect(commands.length <= 5, `there are ${commands.length} commands`)
      expect(tookMs < BY_HAND_LIMIT_MS, `it took ${tookMs.toFixed(0)} ms`)
      return `${commands.length} commands, ${(tookMs / 1000).toFixed(1)} s with the start of kube-apiserver`
    })
    await hand.stopAll()

    await charts(context, tools, definitions)

    let images: Image[] = []
    await report.check('8.8', 'the images build, step by step, and run as nobody', async () => {
      images = await buildImages(['seed-server', 'shoot-client'], join(dir, 'images'), process.ppid)
      const versions: string[] = []
      for (const { argv, user } of images) {
        const nobody = ['setpriv', `--reuid=${user}`, `--regid=${user}`, '--clear-groups', '--no-new-privs']
        versions.push((await must([...nobody, ...argv, '--version'])).trim())
      }
      return versions.join(', ')
    })

    await report.check('8.9', 'docs/install with Helm: what it installs runs, and carries', async () => {
      const place = await sandbox('helm')
      await followAll(place, 'helm')
      const [server, client] = images
      expect(server !== undefined && client !== undefined, 'there are no images')
      const names = ['seed-server', 'seed-server-peers'].map(name => `${name}.tendril.svc`)
      const hosts = {
        ...Object.fromEntries(names.map(name => [name, SEED_ADDRESS])),
        [SERVER_NAME]: SEED_ADDRESS
      }
      const pod = async (namespace: string, deployment: string, image: Image, where: 'seed' | 'shoot') => {
        const options = { dir: join(dir, `pod-${deployment}`), hosts, network: network[where] }
        sandboxes.push(await startPod({ ...options, api: cluster.api, namespace, deployment, image }))
      }
      await pod('tendril', 'seed-server', server, 'seed')
      // The balancer in front is one of the examples, with the address that the pod has here.
      const example = await readFile(join(ROOT_PATH, 'deploy/examples/haproxy.cfg'), 'utf8')
      const config = example.replace('192.0.2.10', SEED_ADDRESS).replace(/^ *server two .*$/m, '')
      await writeFile(place.path('haproxy.cfg'), config)
      await place.run('haproxy -db -f haproxy.cfg &')
      await pod('shoot-client', 'shoot-client', client, 'shoot')
      await ready(place)
      await carries(place, 'https://seed-server.tendril.svc:9443')
    })
    for (const one of sandboxes.slice(1)) await one.stopAll()

    await report.check('8.10', 'docs/install for kubeadm: static pod, socket and patch', async () => {
      const place = await sandbox('kubeadm')
      const manifest = '/etc/kubernetes/manifests/kube-apiserver.yaml'
      await place.write(manifest, JSON.stringify(bareApiserver()))
      await followAll(place, 'kubeadm')
      const pod = parse(await readFile(place.path(manifest), 'utf8')) as KubeObject
      expect(JSON.stringify(pod).includes('--egress-selector-config-file'), 'kube-apiserver has no such flag')
      await accept(context, [pod], 'kube-system')
      const file = place.path('/etc/kubernetes/manifests/seed-server.yaml')
      const served = parse(await readFile(file, 'utf8')) as KubeObject & {
        spec: { containers: { args: string[] }[] }
      }
      await accept(context, [served], 'kube-system')
      const nobody = 'setpriv --reuid=65532 --regid=65532 --clear-groups --no-new-privs'
      const program = images[0]?.argv.join(' ') ?? 'npx seed-server'
      await place.run(`${nobody} ${program} ${served.spec.containers[0]!.args.join(' ')} &`)
      const { egressSelections } = parse(
        await readFile(place.path('/etc/kubernetes/tendril/egress.yaml'), 'utf8')
      ) as {
        egressSelections: { connection: { transport: { uds: { udsName: string } } } }[]
      }
      const { udsName } = egressSelections[0]!.connection.transport.uds
      // As kube-apiserver asks, with curl's headers besides.
      const connect = `curl -si -m 10 --unix-socket ${udsName} --request-target 10.0.0.1:80 -X CONNECT http://127.0.0.1/`
      let said = ''
      const answered = async (): Promise<boolean> => (said = await place.run(`${connect} || true`)) !== ''
      await until('the socket to answer', answered)
      expect(said.includes('no client connected'), `kube-apiserver would be told: ${said}`)
      await place.stopAll()
    })

    await report.check(
      '8.11',
      'docs/install for Gardener: labels, names and ports that it looks for',
      async () => {
        const place = await sandbox('gardener')
        const namespace = 'shoot--my-project--my-shoot'
        await cluster.api.apply({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } })
        await followAll(place, 'gardener')
        const service = await cluster.api.get<{ spec: { ports: { port: number }[] } }>(
          `/api/v1/namespaces/${namespace}/services/vpn-seed-server`
        )
        expect(service.spec.ports.map(({ port }) => port).join() === '9443,1194', 'other ports')
        const { spec } = await cluster.api.get<{
          spec: {
            template: {
              metadata: { labels: Record<string, string> }
              spec: { initContainers: { name: string }[] }
            }
          }
        }>('/apis/apps/v1/namespaces/kube-system/deployments/vpn-shoot')
        const { labels } = spec.template.metadata
        expect(labels['app'] === 'vpn-shoot' && labels['type'] === 'tunnel', 'other labels')
        expect(spec.template.spec.initContainers[0]?.name === 'vpn-shoot-init', 'no vpn-shoot-init')
      }
    )
  } finally {
    for (const one of sandboxes) await one.close()
    await endWorld()
    await cluster.stop()
  }
}

async function ready(place: Sandbox): Promise<void> {
  const isReady = async (): Promise<boolean> => (await fetch(`${ADMIN}/readyz`)).ok
  await until('the client to be connected', isReady).catch(async (error: unknown) => {
    throw new Error(`${String(error)}\n${await place.logs()}`)
  })
}

/** A caller with a certificate reaches a pod; one without, or with a client's, reaches nothing. */
async function carries(place: Sandbox, front: string): Promise<void> {
  const curl = `curl -sS -p -m 10 -o /dev/null -w '%{http_code}' -x ${front} --proxy-cacert pki/ca.crt`
  const as = (name: string): string => `--proxy-cert pki/${name}.crt --proxy-key pki/${name}.key`
  const good = await place.run(`${curl} ${as('kube-apiserver')} ${WEB}`)
  expect(good === '200', `a caller with a certificate is answered ${good}`)
  for (const who of ['', as('client-demo')]) {
    const answer = await place.run(`${curl} ${who} ${WEB} || true`)
    expect(!answer.endsWith('200'), `a caller with ${who || 'no certificate'} reaches the pod`)
  }
}

/** What kubeadm writes, as far as a patch can tell. */
function bareApiserver(): object {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'kube-apiserver', namespace: 'kube-system' },
    spec: {
      hostNetwork: true,
      containers: [
        {
          name: 'kube-apiserver',
          image: 'kube-apiserver',
          command: ['kube-apiserver', '--secure-port=6443'],
          volumeMounts: [{ name: 'k8s-certs', mountPath: '/etc/kubernetes/pki', readOnly: true }]
        }
      ],
      volumes: [{ name: 'k8s-certs', hostPath: { path: '/etc/kubernetes/pki', type: 'DirectoryOrCreate' } }]
    }
  }
}
