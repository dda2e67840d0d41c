/**
 * The programs of the end-to-end test, built from the Go modules that go.mod names and kept under the user's cache
 * directory: kube-apiserver, kubectl, etcd, helm, and our side of a kubelet. Built anew only when go.mod, go.sum, the
 * kubelet's sources or the Go release change.
 */
import { createHash } from 'node:crypto'
import { mkdir, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { must, run, type RunResult } from './namespace-process.js'

/** Kubernetes 1.37 asks for it in its go.mod. */
const GO_AT_LEAST = [1, 26] as const
const BUILD_TIMEOUT_MS = 30 * 60_000
/** How often a build says how far it is. */
const PROGRESS_EVERY_MS = 15_000
/** A line of `go build -v` that names a package, and is no complaint. */
const PACKAGE = /^[\w.~/-]+$/
/** A build that nobody has used for so long is removed. */
const KEEP_UNUSED_MS = 7 * 24 * 3_600_000

const packages = {
  etcd: 'go.etcd.io/etcd/server/v3',
  'kube-apiserver': 'k8s.io/kubernetes/cmd/kube-apiserver',
  kubectl: 'k8s.io/kubernetes/cmd/kubectl',
  helm: 'helm.sh/helm/v3/cmd/helm',
  kubelet: './kubelet'
} as const

export type ToolName = keyof typeof packages
export type Tools = Record<ToolName, string>

/**
 * Returns the path of each program, building what is missing.
 * @param sources the folder of go.mod
 * @throws Error in one sentence when Go is missing or too old
 */
export async function buildTools(sources: string, say: (line: string) => void): Promise<Tools> {
  const go = await goVersion(sources)
  const modules = [await readFile(join(sources, 'go.mod')), await readFile(join(sources, 'go.sum'))]
  const cache = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'tendril-e2e')
  await mkdir(cache, { recursive: true })
  const tools = {} as Tools
  const missing: ToolName[] = []
  for (const name of Object.keys(packages) as ToolName[]) {
    const hash = createHash('sha256').update(go)
    for (const part of modules) hash.update(part)
    if (name === 'kubelet') for (const part of await kubeletSources(sources)) hash.update(part)
    tools[name] = join(cache, `${name}-${hash.digest('hex').slice(0, 16)}`)
    const now = new Date()
    if (await exists(tools[name])) await utimes(tools[name], now, now)
    else missing.push(name)
  }
  if (missing.length > 0) {
    const made = join(cache, `build-${process.pid}.partial`)
    try {
      await build(sources, missing, made, modules[0]!.toString(), say)
      for (const name of missing) await rename(join(made, executableOf(packages[name])), tools[name])
    } finally {
      await rm(made, { recursive: true, force: true })
    }
  }
  await prune(cache, Object.values(tools))
  return tools
}

/** What each program says about itself, one line each. */
export async function toolVersions(tools: Tools): Promise<string[]> {
  const line = async (name: ToolName, ...args: string[]): Promise<string> =>
    `${name}: ${(await must([tools[name], ...args])).trim().split('\n')[0]!}`
  return [
    await line('kube-apiserver', '--version'),
    await line('kubectl', 'version', '--client'),
    await line('etcd', '--version'),
    await line('helm', 'version', '--short')
  ]
}

/** The Go release that builds here: go.mod may make an older `go` fetch a newer one, where it is allowed to. */
async function goVersion(sources: string): Promise<string> {
  const wanted = `the end-to-end test builds the real kube-apiserver and needs Go >= ${GO_AT_LEAST.join('.')}`
  let asked: RunResult
  try {
    asked = await run(['go', 'env', 'GOVERSION'], { cwd: sources, timeoutMs: BUILD_TIMEOUT_MS })
  } catch {
    throw new Error(`${wanted}, which is not installed (https://go.dev/dl)`)
  }
  const version = asked.stdout.toString().trim()
  const [major = 0, minor = 0] = version.replace(/^go/, '').split('.').map(Number)
  if (asked.code === 0 && (major > GO_AT_LEAST[0] || (major === GO_AT_LEAST[0] && minor >= GO_AT_LEAST[1]))) {
    return version
  }
  throw new Error(`${wanted}: ${asked.stderr.trim() || `this machine has ${version}`}`)
}

/** One `go build` for all: what several programs need is compiled once, and Go keeps all cores busy. */
async function build(
  sources: string,
  names: readonly ToolName[],
  output: string,
  goMod: string,
  say: (line: string) => void
): Promise<void> {
  const release = /^\tk8s\.io\/kubernetes (v(\d+)\.(\d+)\S*)/m.exec(goMod)
  const helm = /^\thelm\.sh\/helm\/v3 (v\S+)/m.exec(goMod)
  if (!release || !helm) throw new Error('go.mod does not name k8s.io/kubernetes and helm.sh/helm/v3')
  const component = 'k8s.io/component-base/version'
  // A variable of a package that a program does not have is no error.
  const flags = [
    '-s -w',
    `-X ${component}.gitVersion=${release[1]!} -X ${component}.gitMajor=${release[2]!} -X ${component}.gitMinor=${release[3]!}`,
    `-X helm.sh/helm/v3/internal/version.version=${helm[1]!}`
  ]
  await mkdir(output)
  // The lowest priority: whoever else works on this machine goes first. -v writes each package to standard error.
  const argv = [
    ...['nice', '-n', '19', 'go', 'build', '-v', '-trimpath', '-buildvcs=false'],
    ...['-ldflags', flags.join(' '), '-o', `${output}/`, ...names.map(name => packages[name])]
  ]
  const begun = performance.now()
  const seconds = (): string => `${((performance.now() - begun) / 1000).toFixed(0)} s`
  let compiled = 0
  say(`building ${names.join(', ')} (the first time this takes some minutes)`)
  const progress = setInterval(
    () => say(`building for ${seconds()}, ${compiled} packages compiled`),
    PROGRESS_EVERY_MS
  )
  try {
    const { code, stderr } = await run(argv, {
      cwd: sources,
      env: { CGO_ENABLED: '0', GOFLAGS: '-mod=readonly', GOWORK: 'off' },
      timeoutMs: BUILD_TIMEOUT_MS,
      onErrorLine: line => {
        if (PACKAGE.test(line)) compiled++
      }
    })
    const problems = stderr.split('\n').filter(line => !PACKAGE.test(line))
    if (code !== 0) throw new Error(`${argv.join(' ')} ended with ${code}: ${problems.join('\n').trim()}`)
  } finally {
    clearInterval(progress)
  }
  say(`built in ${seconds()}, ${compiled} packages compiled`)
}

/** How Go calls the program of a package: by the last part of its path that is no version. */
function executableOf(path: string): string {
  return path
    .split('/')
    .filter(part => !/^v\d+$/.test(part))
    .at(-1)!
}

async function kubeletSources(sources: string): Promise<Buffer[]> {
  const folder = join(sources, 'kubelet')
  const files = (await readdir(folder)).filter(file => file.endsWith('.go')).sort()
  return Promise.all(files.map(file => readFile(join(folder, file))))
}

async function prune(cache: string, used: string[]): Promise<void> {
  for (const file of await readdir(cache)) {
    const path = join(cache, file)
    if (used.includes(path)) continue
    const { mtimeMs } = await stat(path)
    if (Date.now() - mtimeMs > KEEP_UNUSED_MS) await rm(path, { recursive: true, force: true })
  }
}

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false
  )
