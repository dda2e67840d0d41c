/**
 * The control plane of the end-to-end test: real etcd and real kube-apiserver in the seed's network namespace, with
 * the flags a hosted control plane uses. Runs no controllers and no scheduler: world.ts writes their results.
 */
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Api } from './api.js'
import { createAuthority, createSigningKey, type Authority, type KeyPair } from './openssl-certificates.js'
import { SEED_ADDRESS, type Network } from './network.js'
import { run, start, until, type RunOptions, type RunResult, type Service } from './namespace-process.js'
import type { Tools } from './tools.js'

const ETCD_PORT = 2379
const API_PORT = 6443
const READY_TIMEOUT_MS = 60_000
export const SERVICE_NETWORK = '10.96.0.0/16'

export type ClusterOptions = { dir: string; logDir: string; network: Network; tools: Tools }

export class Cluster {
  /** Signs the certificates of kube-apiserver, kubelets, the admin, and whoever serves webhooks and APIs. */
  readonly authority: Authority
  /** Signs what kube-apiserver shows to aggregated APIs. */
  readonly frontProxy: Authority
  readonly api: Api
  readonly kubeconfig: string
  readonly #options: ClusterOptions
  readonly #flags: string[]
  #etcd: Service | undefined
  #apiserver: Service | undefined

  private constructor(options: ClusterOptions, made: Material) {
    this.#options = options
    this.authority = made.authority
    this.frontProxy = made.frontProxy
    this.kubeconfig = made.kubeconfig
    this.#flags = made.flags
    this.api = new Api(`https://${SEED_ADDRESS}:${API_PORT}`, made.authority.cert, made.admin)
  }

  static async create(options: ClusterOptions): Promise<Cluster> {
    return new Cluster(options, await createMaterial(options.dir))
  }

  /**
   * Starts an empty etcd and kube-apiserver, and waits for /readyz.
   * @param egressConfigFile for --egress-selector-config-file; without it kube-apiserver dials itself
   * @returns milliseconds until it was ready
   */
  async start(egressConfigFile?: string): Promise<number> {
    const { dir, logDir, network, tools } = this.#options
    const begun = performance.now()
    this.#etcd = await start(
      'etcd',
      [
        tools.etcd,
        `--data-dir=${join(dir, 'etcd')}`,
        `--listen-client-urls=http://127.0.0.1:${ETCD_PORT}`,
        `--advertise-client-urls=http://127.0.0.1:${ETCD_PORT}`,
        '--listen-peer-urls=http://127.0.0.1:0',
        '--unsafe-no-fsync'
      ],
      { namespace: network.seed, logFile: join(logDir, 'etcd.log') }
    )
    const egress = egressConfigFile ? [`--egress-selector-config-file=${egressConfigFile}`] : []
    this.#apiserver = await start('kube-apiserver', [tools['kube-apiserver'], ...this.#flags, ...egress], {
      namespace: network.seed,
      logFile: join(logDir, 'kube-apiserver.log')
    })
    const apiserver = this.#apiserver
    await until(
      'kube-apiserver to be ready',
      async () => (await apiserver.end()) ?? (await this.api.send('GET', '/readyz')) === 'ok',
      READY_TIMEOUT_MS
    )
    return performance.now() - begun
  }

  /** Stops both and forgets every object, so that the next start meets nothing of this one. May be called twice. */
  async stop(): Promise<void> {
    this.api.close()
    // Asked to stop, it waits a minute for watches over HTTP/1.1 to end, such as those of the servers' Leases.
    await this.#apiserver?.stop('SIGKILL')
    await this.#etcd?.stop()
    this.#apiserver = this.#etcd = undefined
    await rm(join(this.#options.dir, 'etcd'), { recursive: true, force: true })
  }

  /** Real kubectl as the admin. Its own caches are kept apart from those of whoever runs the test. */
  kubectl(args: string[], options: RunOptions = {}): Promise<RunResult> {
    return run([this.#options.tools.kubectl, ...args], {
      ...options,
      env: { ...this.kubectlEnv(), ...options.env }
    })
  }

  /** A file with which somebody else than the admin asks the API, by a client certificate. */
  async kubeconfigFor(user: string): Promise<string> {
    const file = join(this.#options.dir, `${user}.kubeconfig`)
    const identity = await this.authority.client(`user-${user}`, user)
    await writeFile(file, kubeconfigOf(this.authority.cert, identity))
    return file
  }

  kubectlEnv(): Record<string, string> {
    return { KUBECONFIG: this.kubeconfig, KUBECACHEDIR: join(this.#options.dir, 'kubectl-cache') }
  }

  get kubectlPath(): string {
    return this.#options.tools.kubectl
  }
}

type Material = {
  authority: Authority
  frontProxy: Authority
  admin: KeyPair
  kubeconfig: string
  flags: string[]
}

async function createMaterial(dir: string): Promise<Material> {
  const authority = await createAuthority(dir, 'kubernetes-ca')
  const frontProxy = await createAuthority(dir, 'front-proxy-ca')
  const signingKey = await createSigningKey(dir)
  const serving = await authority.server('kube-apiserver', [
    ...[SEED_ADDRESS, '127.0.0.1', '10.96.0.1', 'localhost', 'kubernetes.default.svc']
  ])
  const admin = await authority.client('admin', 'admin', ['system:masters'])
  const kubeletClient = await authority.client('kubelet-client', 'kube-apiserver-kubelet-client')
  const proxyClient = await frontProxy.client('front-proxy-client', 'front-proxy-client')
  const kubeconfig = join(dir, 'admin.kubeconfig')
  await writeFile(kubeconfig, kubeconfigOf(authority.cert, admin))
  const flags = {
    'etcd-servers': `http://127.0.0.1:${ETCD_PORT}`,
    'bind-address': SEED_ADDRESS,
    'advertise-address': SEED_ADDRESS,
    'secure-port': API_PORT,
    'tls-cert-file': serving.cert,
    'tls-private-key-file': serving.key,
    'client-ca-file': authority.cert,
    'authorization-mode': 'Node,RBAC',
    'service-account-issuer': 'https://kubernetes.default.svc',
    'service-account-key-file': signingKey,
    'service-account-signing-key-file': signingKey,
    'service-cluster-ip-range': SERVICE_NETWORK,
    'kubelet-certificate-authority': authority.cert,
    'kubelet-client-certificate': kubeletClient.cert,
    'kubelet-client-key': kubeletClient.key,
    'kubelet-preferred-address-types': 'InternalIP',
    'enable-aggregator-routing': true,
    'proxy-client-cert-file': proxyClient.cert,
    'proxy-client-key-file': proxyClient.key,
    'requestheader-client-ca-file': frontProxy.cert,
    'requestheader-allowed-names': 'front-proxy-client',
    'requestheader-username-headers': 'X-Remote-User',
    'requestheader-group-headers': 'X-Remote-Group',
    'requestheader-extra-headers-prefix': 'X-Remote-Extra-',
    // A request that waits for a watch would make every restart wait for it.
    'shutdown-delay-duration': '0s',
    'shutdown-watch-termination-grace-period': '0s'
  }
  return {
    authority,
    frontProxy,
    admin,
    kubeconfig,
    flags: Object.entries(flags).map(([name, value]) => `--${name}=${value}`)
  }
}

function kubeconfigOf(ca: string, user: KeyPair): string {
  return JSON.stringify({
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'e2e',
    clusters: [
      { name: 'e2e', cluster: { server: `https://${SEED_ADDRESS}:${API_PORT}`, 'certificate-authority': ca } }
    ],
    users: [{ name: 'user', user: { 'client-certificate': user.cert, 'client-key': user.key } }],
    contexts: [{ name: 'e2e', context: { cluster: 'e2e', user: 'user' } }]
  })
}
