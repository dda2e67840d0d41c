/** The check that finds what the programs define and do not use: it must find each kind, and nothing that is used. */
import { fileURLToPath } from 'node:url'
import t from 'tap'

const PATH = fileURLToPath(new URL('../../support/unused-names.mjs', import.meta.url))
type Source = { path: string; text: string }
const { unusedNames } = (await import(PATH)) as { unusedNames(sources: Source[]): string[] }

const source = (name: string, text: string): Source => ({ path: `packages/common/src/${name}.ts`, text })

t.test('an export is used by an import, through an index, a namespace or a dynamic import', async t => {
  const used = source(
    'used',
    'export const a = 1\nexport type B = string\nexport function c() {}\nexport class D {}'
  )
  const index = source('index', "export * from './used.js'\nexport { c } from './used.js'")
  const other = (text: string): Source => ({ path: 'packages/seed-server/src/other.ts', text })

  t.strictSame(unusedNames([used, index]), [
    'packages/common/src/used.ts: a is exported and used by no source',
    'packages/common/src/used.ts: B is exported and used by no source',
    'packages/common/src/used.ts: c is exported and used by no source',
    'packages/common/src/used.ts: D is exported and used by no source'
  ])
  const imports =
    "import { a, type B } from '@tendril/common/used'\nimport { c as x, D } from '@tendril/common'"
  t.strictSame(unusedNames([used, index, other(imports)]), [])
  t.strictSame(unusedNames([used, other("import * as all from '@tendril/common/used'")]), [])
  t.strictSame(unusedNames([used, other("const all = await import('@tendril/common/used')")]), [])
})

t.test('what a file uses itself may be exported for a test', async t => {
  t.strictSame(unusedNames([source('own', 'export const limit = 1\nconst twice = 2 * limit')]), [])
})

t.test('a member counts as used when a source names it', async t => {
  const members = source(
    'members',
    'class A extends B { #x() {}; override over() {}; open() {}; shut() {} }\nconst o = { ended() {} }\n' +
      'const table = { rows: 1, read: () => 1, write() {} }\nexport { table }'
  )
  const table = source('table', 'export const encode = { row: 1, open: () => 1, read: () => 2 }\nuse(encode)')

  t.strictSame(unusedNames([members, table]), [
    'packages/common/src/members.ts: shut is a member that no source uses'
  ])
})
