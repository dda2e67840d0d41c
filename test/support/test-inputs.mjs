// What a unit test depends on, as one hash: its compiled code and that of every module of ours that it imports, directly or
// not. A test that starts programs or reads files depends on all sources. The hash is equal as long as the result must be.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { join, resolve } from 'node:path'

/** Imports by which a test sees more than its imports. */
const SEES_MORE = /from '(node:(child_process|cluster|fs|fs\/promises|worker_threads)|eslint)'/
const EVERYTHING = ['packages', 'test/support', 'docs', 'deploy', ':/*.js', ':/*.json', ':/*.md']
const IMPORT = /(?:from |import |import\()'([^']+)'/g

export class TestInputs {
  #root
  /** Of files that were read: their text, and the paths of what they import. */
  #modules = new Map()
  #everything

  constructor(root) {
    this.#root = root
  }

  /** Hash of all that the compiled test file at this path depends on. */
  hash(path) {
    const paths = this.#reach(path)
    const own = paths.filter(one => one.includes('/dist/test/'))
    const hash = createHash('sha256').update(readFileSync(join(this.#root, 'package-lock.json')))
    hash.update(process.version)
    for (const one of paths) hash.update(`${one}\0${this.#module(one).text}\0`)
    if (own.some(one => SEES_MORE.test(this.#module(one).text))) hash.update(this.#hashEverything())
    return hash.digest('hex')
  }

  #reach(path) {
    const found = new Set([path])
    for (const one of found) for (const next of this.#module(one).imports) found.add(next)
    return [...found].sort()
  }

  #module(path) {
    const known = this.#modules.get(path)
    if (known) return known
    const text = readFileSync(path, 'utf8')
    const imports = [...text.matchAll(IMPORT)]
      .map(([, to]) => this.#resolve(path, to))
      .filter(to => to && existsSync(to))
    const made = { text, imports }
    this.#modules.set(path, made)
    return made
  }

  /** Path of a module of ours; undefined for others, which package-lock.json speaks for. */
  #resolve(from, to) {
    if (to.startsWith('.')) return resolve(from, '..', to)
    const [, name, rest = 'index'] = /^@tendril\/([^/]+)(?:\/(.+))?$/.exec(to) ?? []
    if (!name) return undefined
    const folder = rest.startsWith('test/') ? 'dist' : 'dist/src'
    return join(this.#root, 'packages', name, folder, `${rest}.js`)
  }

  /** Every file that git knows or would add, but for the sources of the system tests. */
  #hashEverything() {
    this.#everything ??= hashFiles(
      execFileSync('git', ['ls-files', '-co', '--exclude-standard', ...EVERYTHING], {
        cwd: this.#root,
        encoding: 'utf8'
      })
        .split('\n')
        .map(name => join(this.#root, name))
        .filter(path => statSync(path, { throwIfNoEntry: false })?.isFile())
    )
    return this.#everything
  }
}

/** One hash for the names and the texts of these files. */
export function hashFiles(paths, read = path => readFileSync(path)) {
  const hash = createHash('sha256')
  for (const path of [...paths].sort()) hash.update(`${path}\0`).update(read(path)).update('\0')
  return hash.digest('hex')
}
