/**
 * The installation pages as something to follow: the fenced blocks that belong to one way of installing, in the order
 * in which a reader meets them. ```` ```sh by-hand ```` is a command, ```` ```yaml by-hand file=seed.yaml ```` a file
 * to save. Following them is up to the tests.
 */
import { readFile } from 'node:fs/promises'

const PAGES = ['control-plane', 'shoot', 'kube-apiserver'] as const
/** Seen from dist/support, where this runs. */
const INSTALL = new URL('../../../docs/install/', import.meta.url)

export const ways = ['by-hand', 'helm', 'kubeadm', 'gardener'] as const
export type Way = (typeof ways)[number]

export type Step = {
  page: (typeof PAGES)[number]
  line: number
  /** Commands, as they stand there; or the content of `file`. */
  text: string
  /** Undefined for commands. */
  file: string | undefined
}

/** Every step of a way, page after page. */
export async function readGuide(way: Way): Promise<Step[]> {
  const pages = await Promise.all(
    PAGES.map(async page => ({ page, text: await readFile(new URL(`${page}.md`, INSTALL), 'utf8') }))
  )
  return pages.flatMap(({ page, text }) =>
    blocksOf(text)
      .filter(block => block.way === way)
      .map(({ line, content, file }) => ({ page, line, text: content, file }))
  )
}

/** Blocks that belong to no way, and so are followed by nobody; blocks in languages that nobody follows do not count. */
export async function strayBlocks(): Promise<string[]> {
  const stray: string[] = []
  for (const page of PAGES) {
    for (const { language, way, file, line } of blocksOf(
      await readFile(new URL(`${page}.md`, INSTALL), 'utf8')
    )) {
      const isKnown = (ways as readonly string[]).includes(way)
      const isComplete = language === 'sh' ? file === undefined : language === 'yaml' && file !== undefined
      if (!isKnown || !isComplete) stray.push(`${page}.md:${line}`)
    }
  }
  return stray
}

type Block = { language: string; way: string; file: string | undefined; line: number; content: string }

function blocksOf(text: string): Block[] {
  const fence = /^```(\w+)(?: ([\w-]+))?(?: file=(\S+))?\n([\s\S]*?)^```$/gm
  return [...text.matchAll(fence)].map(match => {
    const [, language = '', way = '', file, content = ''] = match
    return { language, way, file, line: text.slice(0, match.index).split('\n').length, content }
  })
}
