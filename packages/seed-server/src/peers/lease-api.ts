/**
 * The five requests about Leases that leases.ts makes, with the client library of Kubernetes. It is imported only when
 * `peers.leases` is configured, because it is larger than the rest of the program. Reference: coordination.k8s.io/v1.
 */
import type { ConfigurationOptions, RequestContext, ResponseContext, V1Lease } from '@kubernetes/client-node'

/** The fields of a Lease that are used. */
export type Lease = {
  name: string
  /** The resource version, which changes with each write. */
  version: string
  /** Address of its holder. Undefined if the Lease has none. */
  address: string | undefined
}

/** The own Lease, as it is written. */
export type OwnLease = {
  name: string
  /** Id of this server. */
  holder: string
  address: string
  durationMs: number
  /** When this server acquired it. */
  since: Date
  /** Version of the Lease to replace. Undefined: there is none yet. */
  version: string | undefined
}

/** Each request rejects when the API refuses (the error has the HTTP status as `code`), and when `signal` aborts. */
export interface LeaseApi {
  /** All Leases with the label. */
  list(signal: AbortSignal): Promise<{ leases: Lease[]; version: string }>
  /** Reports changes after `version`, until the API ends the watch, which is normal, or `signal` aborts. */
  watch(version: string, onChange: (lease: Lease, gone: boolean) => void, signal: AbortSignal): Promise<void>
  /** Creates or replaces the own Lease, renewed now. @returns its version. */
  renew(lease: OwnLease, signal: AbortSignal): Promise<string>
  /** Deletes a Lease. With `version`: only if it has not changed since. */
  remove(name: string, version: string | undefined, signal: AbortSignal): Promise<void>
}

/** Annotation with the address of the holder. */
export const ADDRESS_ANNOTATION = 'tendril/address'

export type LeaseApiOptions = {
  namespace: string
  /** `key=value` */
  label: string
  /** kubeconfig file. Default: the pod's ServiceAccount, else the configuration that kubectl would use. */
  kubeconfig?: string | undefined
}

/** The API ends a watch after this long, in seconds. Then all Leases are listed again. */
const WATCH_SECONDS = 300

const MS_PER_S = 1_000

export async function openLeaseApi({ namespace, label, kubeconfig }: LeaseApiOptions): Promise<LeaseApi> {
  const kubernetes = await import('@kubernetes/client-node')
  const { CoordinationV1Api, KubeConfig, Observable, V1MicroTime, Watch } = kubernetes
  const config = new KubeConfig()
  if (kubeconfig !== undefined) config.loadFromFile(kubeconfig)
  else if (process.env['KUBERNETES_SERVICE_HOST']) config.loadFromCluster()
  else config.loadFromDefault()
  const api = config.makeApiClient(CoordinationV1Api)

  const until = (signal: AbortSignal): ConfigurationOptions => ({
    middlewareMergeStrategy: 'append',
    middleware: [
      {
        pre(context: RequestContext) {
          context.setSignal(signal)
          return new Observable(Promise.resolve(context))
        },
        post: (context: ResponseContext) => new Observable(Promise.resolve(context))
      }
    ]
  })

  return {
    async list(signal) {
      const selected = { namespace, labelSelector: label }
      const found = await api.listNamespacedLease(selected, until(signal))
      return { leases: found.items.map(readLease), version: found.metadata?.resourceVersion ?? '' }
    },
    watch: (version, onChange, signal) =>
      new Promise((resolve, reject) => {
        const query = { labelSelector: label, resourceVersion: version, timeoutSeconds: WATCH_SECONDS }
        let abort = (): void => {}
        const done = (error: unknown): void => {
          signal.removeEventListener('abort', abort)
          if (error instanceof Error && !signal.aborted) reject(error)
          else resolve()
        }
        const onEvent = (what: string, lease: V1Lease): void => {
          if (what === 'ADDED' || what === 'MODIFIED') onChange(readLease(lease), false)
          else if (what === 'DELETED') onChange(readLease(lease), true)
          // The version is too old, or another error: list all Leases again.
          else if (what === 'ERROR') abort()
        }
        new Watch(config)
          .watch(`/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`, query, onEvent, done)
          .then(controller => {
            abort = () => controller.abort()
            if (signal.aborted) abort()
            signal.addEventListener('abort', abort, { once: true })
          }, done)
      }),
    async renew({ name, holder, address, durationMs, since, version }, signal) {
      const [key = '', value = ''] = label.split('=')
      const metadata = new kubernetes.V1ObjectMeta()
      metadata.name = name
      metadata.labels = { [key]: value }
      metadata.annotations = { [ADDRESS_ANNOTATION]: address }
      if (version !== undefined) metadata.resourceVersion = version
      const spec = new kubernetes.V1LeaseSpec()
      spec.holderIdentity = holder
      spec.leaseDurationSeconds = Math.ceil(durationMs / MS_PER_S)
      spec.acquireTime = new V1MicroTime(since)
      spec.renewTime = new V1MicroTime()
      const body = new kubernetes.V1Lease()
      body.metadata = metadata
      body.spec = spec
      const written =
        version === undefined
          ? await api.createNamespacedLease({ namespace, body }, until(signal))
          : await api.replaceNamespacedLease({ namespace, name, body }, until(signal))
      return readLease(written).version
    },
    async remove(name, version, signal) {
      const body = new kubernetes.V1DeleteOptions()
      if (version !== undefined) {
        body.preconditions = new kubernetes.V1Preconditions()
        body.preconditions.resourceVersion = version
      }
      await api.deleteNamespacedLease({ namespace, name, body }, until(signal))
    }
  }
}

function readLease(lease: V1Lease): Lease {
  return {
    name: lease.metadata?.name ?? '',
    version: lease.metadata?.resourceVersion ?? '',
    address: lease.metadata?.annotations?.[ADDRESS_ANNOTATION]
  }
}
