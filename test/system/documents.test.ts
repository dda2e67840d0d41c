/** What the documents point to exists, ARCHITECTURE.md knows every folder, and every row of the threat model names a test. */
import { existsSync, readFileSync } from 'node:fs'
import { execFileSync } from 'node:child_process'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const root = resolve(fileURLToPath(import.meta.url), '../../../..')
const documents = execFileSync('git', ['ls-files', '*.md'], { cwd: root, encoding: 'utf8' })
  .split('\n')
  .filter(Boolean)

t.test('every relative link of every document leads to a file', async t => {
  t.ok(documents.length > 10, `${documents.length} documents`)
  for (const document of documents) {
    const text = readFileSync(join(root, document), 'utf8')
    for (const [, target = ''] of text.matchAll(/\]\((?!https?:|mailto:|#)([^)\s#]+)/g)) {
      t.ok(existsSync(join(root, dirname(document), target)), `${document}: ${target}`)
    }
  }
})

t.test('every link to a heading leads to one', async t => {
  const read = (document: string): string => readFileSync(join(root, document), 'utf8')
  let links = 0
  for (const document of documents) {
    for (const [, target = '', anchor = ''] of read(document).matchAll(
      /\]\((?!https?:)([^)\s#]*)#([^)\s]+)\)/g
    )) {
      const page = target === '' ? document : join(dirname(document), target)
      t.ok(anchorsOf(read(page)).has(anchor), `${document}: ${target}#${anchor}`)
      links++
    }
  }
  t.ok(links > 40, `${links} links`)
})

t.test('ARCHITECTURE.md says what every folder of the packages is', async t => {
  const folders = execFileSync('git', ['ls-files', 'packages/*/src/*'], { cwd: root, encoding: 'utf8' })
    .split('\n')
    .flatMap(file => /^packages\/[^/]+\/src\/[^/]+(?=\/)/.exec(file) ?? [])
  const page = readFileSync(join(root, 'ARCHITECTURE.md'), 'utf8')

  t.ok(folders.length > 50, `files in folders: ${folders.length}`)
  for (const folder of new Set(folders)) t.ok(page.includes(`](${folder})`), folder)
})

t.test('every step of the walk in ARCHITECTURE.md names functions that its file has', async t => {
  const page = readFileSync(join(root, 'ARCHITECTURE.md'), 'utf8')
  const steps = [...page.matchAll(/^\d+\. \[[^\]]+\]\(([^)]+)\)((?:,?\s+`[^`]+`)+):/gm)]

  t.ok(steps.length > 50, `${steps.length} steps`)
  for (const [, file = '', names = ''] of steps) {
    const source = readFileSync(join(root, file), 'utf8')
    for (const [name] of names.matchAll(/#?\w+/g)) {
      t.match(source, new RegExp(`(?<![#\\w])${name}(?!\\w)`), `${file}: ${name}`)
    }
  }
})

t.test('every input of the threat model has a bound and a test', async t => {
  const sections = readFileSync(join(root, 'docs/threat-model.md'), 'utf8').split(/^## /m)
  const rows = sections
    .flatMap(section => /^\| input .*\n\|[-|]+\n((?:\|.*\n)+)/m.exec(section)?.[1]?.trim().split('\n') ?? [])
    .map(row => row.slice(1, -1).split(' | '))

  t.ok(rows.length > 40, `${rows.length} rows`)
  for (const [input = '', work, bound, atBound, tests = '-', ...more] of rows) {
    t.ok(work && bound && atBound && more.length === 0, `five cells:${input}`)
    t.match(tests, /\.test\.ts\)/, `a test:${input}`)
  }
})

/** As GitHub makes them: lower case, hyphens for blanks, and no other punctuation. */
function anchorsOf(page: string): Set<string> {
  const headings = page.replace(/^```[^]*?^```/gm, '').matchAll(/^#+ (.+)$/gm)
  return new Set(
    [...headings].map(([, heading = '']) =>
      heading
        .toLowerCase()
        .replace(/[^\p{L}\p{N}_ -]/gu, '')
        .replaceAll(' ', '-')
    )
  )
}
