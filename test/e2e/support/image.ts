/**
 * The images of deploy/images without a container engine: every instruction of the Dockerfile is done in a directory,
 * each RUN word for word. What comes out is what /app would be, on this machine's Node and system.
 */
import { cp, mkdir, stat } from 'node:fs/promises'
import { basename, join, relative } from 'node:path'
import {
  copyOf,
  type Dockerfile,
  layersOf,
  readContext,
  readDockerfile,
  ROOT_PATH,
  textsOf
} from '../../support/dockerfile.js'
import { must } from './namespace-process.js'

/** npm fetches, the compiler compiles; on a busy machine. */
const RUN_TIMEOUT_MS = 5 * 60_000

export type Image = { argv: string[]; env: Record<string, string>; user: number }

/**
 * Builds these targets in `dir`.
 * @param outsidePid a process outside of the seed's network namespace, because npm needs a registry
 */
export async function buildImages(
  targets: readonly string[],
  dir: string,
  outsidePid: number
): Promise<Image[]> {
  const file = await readDockerfile()
  const lets = await readContext()
  const built = new Map<string, Promise<string>>()
  const build = (name: string): Promise<string> => {
    const known = built.get(name)
    if (known) return known
    const making = buildStage(file, name, { dir, outsidePid, lets, build })
    built.set(name, making)
    return making
  }
  const images: Image[] = []
  for (const target of targets) {
    const root = await build(target)
    const [, ...args] = JSON.parse(textsOf(file, target, 'ENTRYPOINT').at(-1)!) as string[]
    images.push({
      argv: [process.execPath, ...args.map(arg => arg.replace(/^\/app\//, `${root}/app/`))],
      env: Object.fromEntries(textsOf(file, target, 'ENV').map(text => text.split('=') as [string, string])),
      user: Number(textsOf(file, target, 'USER').at(-1)!.split(':')[0])
    })
  }
  return images
}

type Building = {
  dir: string
  outsidePid: number
  lets: (path: string) => boolean
  build: (stage: string) => Promise<string>
}

async function buildStage(file: Dockerfile, name: string, building: Building): Promise<string> {
  const { dir, outsidePid, lets, build } = building
  const stage = layersOf(file, name).at(-1)!
  const root = join(dir, name)
  await mkdir(root, { recursive: true })
  if (!stage.from.startsWith('$')) await copy(await build(stage.from), root)
  let cwd = join(root, textsOf(file, name, 'WORKDIR').at(-1) ?? '')
  for (const { word, text } of stage.instructions) {
    if (word === 'WORKDIR') await mkdir((cwd = join(root, text)), { recursive: true })
    if (word === 'COPY') {
      const { stage: from, sources, target } = copyOf(text)
      const origin = from ? await build(from) : ROOT_PATH
      for (const source of sources) {
        const into = join(cwd, target, target.endsWith('/') ? basename(source) : '')
        const isWanted = from ? () => true : (path: string) => lets(relative(ROOT_PATH, path))
        await copy(join(origin, source), into, isWanted)
      }
    }
    if (word === 'RUN') {
      const outside = ['nsenter', `--net=/proc/${outsidePid}/ns/net`]
      await must([...outside, 'nice', '-n', '19', 'sh', '-c', text], { cwd, timeoutMs: RUN_TIMEOUT_MS })
    }
  }
  return root
}

/** As COPY does: a directory's content into the directory, a file to its place. */
async function copy(from: string, to: string, filter: (path: string) => boolean = () => true): Promise<void> {
  const recursive = (await stat(from)).isDirectory()
  // A directory itself may be left out while something below it is let in, so it is never what is asked about.
  await cp(from, to, { recursive, verbatimSymlinks: true, filter: path => path === from || filter(path) })
}
