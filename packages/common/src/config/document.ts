/**
 * A configuration file as it was written: its value and where each key stands, so that an error can name the
 * line. Reads YAML 1.2 (JSON is a part of it); knows nothing of what the keys mean.
 */
import { createReadStream } from 'node:fs'
import { isAlias, isMap, isNode, isScalar, isSeq, LineCounter, parseDocument, type Document } from 'yaml'
import type { Path } from './tree.js'

/** More than any real configuration; keeps a device or a wrong file from filling memory. */
export const CONFIG_LIMIT_BYTES = 1_048_576
/** Each use of a YAML anchor counts with all that hangs below it: enough for people, too few for "billion laughs". */
const MOST_ALIASES = 100

/** Something wrong with the configuration, and where: `seed.yaml:3:5` or the name of a variable or flag. */
export type Problem = { where: string; line: number; what: string }

export type ConfigDocument = {
  value: Record<string, unknown>
  problems: Problem[]
  /** The nearest place in the file to a path: the key itself, or the last one above it that is written there. */
  locate(path: Path): { where: string; line: number }
}

/**
 * Reads and parses `file`. Everything wrong with it is in `problems`; it never throws.
 */
export async function readDocument(file: string): Promise<ConfigDocument> {
  try {
    return parse(file, await readText(file))
  } catch (error) {
    return broken(file, reasonOf(error as NodeJS.ErrnoException))
  }
}

async function readText(file: string): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of createReadStream(file, { end: CONFIG_LIMIT_BYTES })) chunks.push(chunk as Buffer)
  const bytes = Buffer.concat(chunks)
  if (bytes.length > CONFIG_LIMIT_BYTES)
    throw new Error(`is larger than ${CONFIG_LIMIT_BYTES} bytes: this is no configuration file`)
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new Error('is not UTF-8 text')
  }
}

function reasonOf(error: NodeJS.ErrnoException): string {
  if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return 'no such file'
  if (error.code === 'EISDIR') return 'is a directory, expected a YAML file'
  if (error.code === 'EACCES' || error.code === 'EPERM') return 'may not be read by this user'
  return error.message
}

function broken(file: string, what: string): ConfigDocument {
  const place = { where: file, line: 0 }
  return { value: {}, problems: [{ ...place, what }], locate: () => place }
}

function parse(file: string, text: string): ConfigDocument {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, stringKeys: true })
  const placeOf = (offset: number) => {
    const { line, col } = lines.linePos(offset)
    return { where: `${file}:${Math.max(line, 1)}:${Math.max(col, 1)}`, line }
  }
  const locate = (path: Path) => placeOf(offsetOf(document, path))
  const problems = [...document.errors, ...document.warnings].map(({ pos, message }) => ({
    ...placeOf(pos[0]),
    what: `not valid YAML: ${message}`
  }))
  if (problems.length > 0) return { value: {}, problems, locate }

  let value: unknown
  try {
    value = document.toJS({ maxAliasCount: MOST_ALIASES })
  } catch (error) {
    return {
      value: {},
      problems: [{ ...placeOf(0), what: `not valid YAML: ${(error as Error).message}` }],
      locate
    }
  }
  // A file of comments only is a configuration that leaves everything to its defaults.
  value ??= {}
  if (typeof value !== 'object' || Array.isArray(value)) {
    return { value: {}, problems: [{ ...placeOf(0), what: 'expected a mapping of keys to values' }], locate }
  }
  return { value: value as Record<string, unknown>, problems: [], locate }
}

function offsetOf(document: Document, path: Path): number {
  let node: unknown = document.contents
  let offset = isNode(node) ? (node.range?.[0] ?? 0) : 0
  for (const step of path) {
    if (isAlias(node)) node = node.resolve(document)
    if (isMap(node)) {
      const pair = node.items.find(({ key }) => isScalar(key) && String(key.value) === String(step))
      if (!pair) return offset
      offset = isScalar(pair.key) ? (pair.key.range?.[0] ?? offset) : offset
      node = pair.value
    } else if (isSeq(node)) {
      node = node.items[Number(step)]
      if (!isNode(node)) return offset
      offset = node.range?.[0] ?? offset
    } else return offset
  }
  return offset
}
