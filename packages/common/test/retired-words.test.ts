/** The rule that keeps retired words out of names: it must find each of them however it is written, and nothing else. */
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ESLint } from 'eslint'
import t from 'tap'

const root = resolve(fileURLToPath(import.meta.url), '../../../../..')
const path: string = resolve(root, 'test/support/retired-words.mjs')
const { noRetiredWords, retiredWords } = (await import(path)) as {
  noRetiredWords: never
  retiredWords: Record<string, string>
}

/** The words that the rule finds in a source that would stand in this file. */
async function found(source: string, file = 'packages/common/src/link/link.ts'): Promise<string[]> {
  const parser = (await import('typescript-eslint')).default.parser
  const eslint = new ESLint({
    cwd: root,
    overrideConfigFile: true,
    overrideConfig: [
      {
        files: ['**/*.ts'],
        languageOptions: { parser },
        plugins: { tendril: { rules: { 'no-retired-words': noRetiredWords } } },
        rules: { 'tendril/no-retired-words': 'error' }
      }
    ]
  })
  const [result] = await eslint.lintText(source, { filePath: resolve(root, file) })
  return result!.messages.map(({ message }) => /“(\w+)”/.exec(message)?.[1] ?? message)
}

t.test('a retired word is refused in every kind of name', async t => {
  t.same(await found('const house = 1'), ['house'])
  t.same(await found('class KeeperOptions {}'), ['keeper'])
  t.same(await found('class A { readonly #lastTenant = 1 }'), ['tenant'])
  t.same(await found('type A = { doorTimer: number }'), ['door'])
  t.same(await found('const FAREWELL_MS = 1'), ['farewell'])
  t.same(await found('function f (guest: string) {}'), ['guest'])
  t.same(await found('let URLArrival: string'), ['arrival'])
  t.same(await found('export {}', 'packages/common/src/link/note.ts'), ['note'])
  t.same(await found('export {}', 'test/system/open-doors.test.ts'), ['doors'])
})

t.test('every word of the list is refused', async t => {
  const words = Object.keys(retiredWords)

  t.same(await found(words.map(word => `const ${word}Limit = 1`).join('\n')), words)
})

t.test('comments, strings and words that only contain one are not names', async t => {
  t.same(await found('// the keeper of the house\nconst warehouse = "guest"'), [])
  t.same(await found('const capacity = 1, slotted = 2, outdoors = 3, notes = 4'), [])
})
