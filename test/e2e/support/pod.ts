/**
 * A pod of a Deployment as a process: the API's own objects, the image's own entrypoint, files laid out as the kubelet
 * would (Secrets are root's, and readable by the group of fsGroup), nobody's user id and no capability at all.
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { Sandbox } from '../../support/sandbox.js'
import type { Api } from './api.js'
import type { Image } from './image.js'
import type { Namespace } from './namespace-process.js'

export type PodOptions = {
  api: Api
  namespace: string
  deployment: string
  image: Image
  dir: string
  /** Names that cluster DNS would know. */
  hosts: Record<string, string>
  /** The network it is in. */
  network: Namespace
}

type Items = { items?: { key: string; path: string }[] }
type Source = { secret?: Items & { name: string }; configMap?: Items & { name: string } }
type Volume = {
  name: string
  configMap?: { name: string }
  projected?: { defaultMode: number; sources: Source[] }
}
type Deployment = {
  spec: {
    template: {
      spec: {
        securityContext: { runAsUser: number; runAsGroup: number; fsGroup: number }
        containers: {
          args: string[]
          env?: { name: string; value?: string }[]
          volumeMounts: { name: string; mountPath: string }[]
        }[]
        volumes: Volume[]
      }
    }
  }
}

/** Starts it; the sandbox is the pod, and ends with `close`. */
export async function startPod(options: PodOptions): Promise<Sandbox> {
  const { api, namespace, deployment, image, dir, hosts, network } = options
  const path = `/apis/apps/v1/namespaces/${namespace}/deployments/${deployment}`
  const { spec } = (await api.get<Deployment>(path)).spec.template
  const { runAsUser, runAsGroup, fsGroup } = spec.securityContext
  const [container] = spec.containers
  if (!container) throw new Error(`${deployment} has no container`)
  await mkdir(dir, { recursive: true })
  const sandbox = await Sandbox.create({ dir, hosts })
  for (const { name, mountPath } of container.volumeMounts) {
    const volume = spec.volumes.find(one => one.name === name)
    for (const file of await filesOf(api, namespace, volume)) {
      const mode = file.isSecret ? 0o440 : 0o644
      await sandbox.write(join(mountPath, file.path), file.content, { mode, gid: fsGroup })
    }
  }
  const env = [
    ...Object.entries(image.env),
    ...(container.env ?? []).map(({ name, value = '' }) => [name, value] as const)
  ]
  const argv = [
    ...['setpriv', `--reuid=${runAsUser}`, `--regid=${runAsGroup}`, `--groups=${fsGroup}`],
    ...['--no-new-privs', '--bounding-set=-all', '--inh-caps=-all'],
    ...['env', ...env.map(([name, value]) => `${name}=${value}`)],
    ...[...image.argv, ...container.args]
  ]
  await sandbox.run(`${argv.map(arg => `'${arg}'`).join(' ')} &`, { namespace: network.name })
  return sandbox
}

type File = { path: string; content: Buffer; isSecret: boolean }

async function filesOf(api: Api, namespace: string, volume: Volume | undefined): Promise<File[]> {
  const sources = volume?.configMap ? [{ configMap: volume.configMap }] : (volume?.projected?.sources ?? [])
  const files: File[] = []
  for (const { secret, configMap } of sources as Source[]) {
    const from = secret ?? configMap
    if (!from) continue
    const path = `/api/v1/namespaces/${namespace}/${secret ? 'secrets' : 'configmaps'}/${from.name}`
    const { data } = await api.get<{ data: Record<string, string> }>(path)
    const items = from.items ?? Object.keys(data).map(key => ({ key, path: key }))
    for (const item of items) {
      const text = data[item.key]
      if (text === undefined) throw new Error(`${from.name} has no ${item.key}`)
      const content = Buffer.from(text, secret ? 'base64' : 'utf8')
      files.push({ path: item.path, content, isSecret: secret !== undefined })
    }
  }
  return files
}
