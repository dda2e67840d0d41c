/**
 * A Dockerfile read as data: stages with their instructions, and what .dockerignore lets into the build. Knows the
 * part of the language that ours uses; anything else is an error.
 */
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

const ROOT = new URL('../../../', import.meta.url)
export const ROOT_PATH = fileURLToPath(ROOT)

const WORDS = ['FROM', 'ARG', 'ENV', 'WORKDIR', 'COPY', 'RUN', 'USER', 'EXPOSE', 'ENTRYPOINT', 'CMD'] as const
type Word = (typeof WORDS)[number]

export type Instruction = { word: Word; text: string; line: number }
export type Stage = { name: string; from: string; instructions: Instruction[] }
export type Dockerfile = { args: Record<string, string>; stages: Stage[] }

export async function readDockerfile(): Promise<Dockerfile> {
  const text = await readFile(new URL('deploy/images/Dockerfile', ROOT), 'utf8')
  const read: Dockerfile = { args: {}, stages: [] }
  text.split('\n').forEach((line, at) => {
    if (line.trim() === '' || line.startsWith('#')) return
    const [, word = '', rest = ''] = /^([A-Z]+) (.+)$/.exec(line) ?? []
    if (!(WORDS as readonly string[]).includes(word)) throw new Error(`Dockerfile:${at + 1}: ${line}`)
    const instruction = { word: word as Word, text: rest, line: at + 1 }
    if (word === 'FROM') read.stages.push({ ...fromOf(rest), instructions: [] })
    else if (read.stages.length === 0) {
      const [name = '', value = ''] = rest.split('=')
      read.args[name] = value
    } else read.stages.at(-1)!.instructions.push(instruction)
  })
  return read
}

function fromOf(text: string): { name: string; from: string } {
  const [, from = '', name = ''] = /^(?:--platform=\S+ )?(\S+) AS (\S+)$/.exec(text) ?? []
  return { from, name }
}

/** The stage by this name and those it stands on, the lowest first. */
export function layersOf({ stages }: Dockerfile, name: string): Stage[] {
  const stage = stages.find(one => one.name === name)
  if (!stage) return []
  return [...layersOf({ args: {}, stages }, stage.from), stage]
}

/** The texts of one kind of instruction in a stage and all below it. */
export function textsOf(file: Dockerfile, name: string, word: Word): string[] {
  return layersOf(file, name).flatMap(({ instructions }) =>
    instructions.filter(instruction => instruction.word === word).map(({ text }) => text)
  )
}

/** COPY: from which stage (undefined: the build context), what, and where to. */
export function copyOf(text: string): { stage: string | undefined; sources: string[]; target: string } {
  const [, stage, rest = ''] = /^(?:--from=(\S+) )?(.+)$/.exec(text) ?? []
  const words = rest.split(' ')
  return { stage, sources: words.slice(0, -1), target: words.at(-1)! }
}

/** Does .dockerignore let this path of the checkout into the build? The last line that fits decides. */
export async function readContext(): Promise<(path: string) => boolean> {
  const text = await readFile(new URL('.dockerignore', ROOT), 'utf8')
  const rules = text
    .split('\n')
    .filter(line => line !== '' && !line.startsWith('#'))
    .map(line => ({ lets: line.startsWith('!'), pattern: patternOf(line.replace(/^!/, '')) }))
  return path => rules.reduce((lets, rule) => (rule.pattern.test(path) ? rule.lets : lets), true)
}

/** A line of .dockerignore matches the path it names, and all below it. */
function patternOf(glob: string): RegExp {
  const body = glob
    .replace(/[.+^${}()|[\]\\]/g, '\\$&')
    .replace(/\*\*\//g, '§')
    .replace(/\*/g, '[^/]*')
    .replace(/§/g, '(.*/)?')
  return new RegExp(`^${body}(/.*)?$`)
}
