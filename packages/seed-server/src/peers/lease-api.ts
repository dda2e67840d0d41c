/**
 * The five requests about Leases that leases.ts makes, over the client library of Kubernetes: loaded only where it is
 * asked for, because it is larger than all the rest of this program. Reference: coordination.k8s.io/v1.
 */
import type { ConfigurationOptions, RequestContext, ResponseContext, V1Lease } from '@kubernetes/client-node'

/** What matters of a Lease. */
export type Lease = {
  name: string
  /** Another one after each change. */
  version: string
  /** Where its holder is reached; undefined when the holder did not say. */
  address: string | undefined
}

/** This server's own, as it is to be written. */
export type OwnLease = {
  name: string
  /** Id of this server. */
  holder: string
  address: string
  durationMs: number
  /** When this server began to hold it. */
  since: Date
  /** Of the one to be replaced; undefined: there is none yet. */
  version: string | undefined
}

/** Each rejects with an error that has the HTTP status as `code` when the API said no, or when `signal` aborts. */
export interface LeaseApi {
  /** Those with the label. */
  list(signal: AbortSignal): Promise<{ leases: Lease[]; version: string }>
  /** Tells what changes after `version`, until the API ends it (as it does now and then) or `signal` aborts. */
  watch(version: string, onChange: (lease: Lease, gone: boolean) => void, signal: AbortSignal): Promise<void>
  /** Creates or replaces the own one, renewed now. @returns its version. */
  renew(lease: OwnLease, signal: AbortSignal): Promise<string>
  /** With `version`: only when it has not changed since. */
  remove(name: string, version: string | undefined, signal: AbortSignal): Promise<void>
}

/** Annotation with the address of the holder. */
export const ADDRESS_ANNOTATION = 'tendril/address'

export type LeaseApiOptions = {
  namespace: string
  /** `key=value` */
  label: string
  /** File that says how the API is reached. Default: the pod's ServiceAccount, else what kubectl would use. */
  kubeconfig?: string | undefined
}

/** The API ends a watch after this long, in seconds; then all is listed anew. */
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
          // The version is too old, or worse. To list again is the answer to all of it.
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
