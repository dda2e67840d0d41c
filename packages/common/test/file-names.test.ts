/** People open files by name: a base name stands for one file of the repository, but for the entry points of programs. */
import { readdirSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const root = resolve(fileURLToPath(import.meta.url), '../../../../..')

/** Each package has its own, and their tests: a package is looked at by its entry points. */
const MAY_REPEAT = ['index.ts', 'main.ts', 'cli.ts', 'config.ts']
const OF_OTHERS = new Set(['node_modules', 'dist', 'cache'])

function sourcesIn(directory: string): string[] {
  return readdirSync(join(root, directory), { withFileTypes: true }).flatMap(entry => {
    const path = join(directory, entry.name)
    if (entry.isDirectory()) return OF_OTHERS.has(entry.name) ? [] : sourcesIn(path)
    return /\.m?[jt]s$/.test(entry.name) ? [path] : []
  })
}

function mayRepeat(path: string): boolean {
  return MAY_REPEAT.includes(basename(path).replace('.test.ts', '.ts'))
}

t.test('a file name occurs once in packages and test', async t => {
  const byName = new Map<string, string[]>()
  for (const path of ['packages', 'test'].flatMap(sourcesIn)) {
    if (!mayRepeat(path)) byName.set(basename(path), [...(byName.get(basename(path)) ?? []), path])
  }

  t.ok(byName.size > 200, 'the sources were found')
  t.same(
    [...byName.values()].filter(paths => paths.length > 1),
    []
  )
})

t.test('entry points stand at the top of their folder: one for each program or package', async t => {
  for (const path of ['packages', 'test'].flatMap(sourcesIn).filter(mayRepeat)) {
    t.match(dirname(path), /^packages\/[\w-]+\/(src|test)$|^test\/e2e$/, path)
  }
})
