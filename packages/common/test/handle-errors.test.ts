/** The rule that every handle has an error path: sources that break it are refused, sources that keep it pass. */
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ESLint } from 'eslint'
import t from 'tap'

const root = resolve(fileURLToPath(import.meta.url), '../../../../..')

async function refusals(source: string, file = 'packages/common/src/x.ts'): Promise<string[]> {
  const parser = (await import('typescript-eslint')).default.parser
  const path: string = resolve(root, 'test/support/handle-errors.mjs')
  const { handleErrors } = (await import(path)) as { handleErrors: never }
  const eslint = new ESLint({
    cwd: root,
    overrideConfigFile: true,
    overrideConfig: [
      {
        files: ['**/*.ts'],
        languageOptions: { parser },
        plugins: { tendril: { rules: { 'handle-errors': handleErrors } } },
        rules: { 'tendril/handle-errors': 'error' as const }
      }
    ]
  })
  const [result] = await eslint.lintText(source, { filePath: resolve(root, file) })
  return result!.messages.map(({ messageId = '' }) => messageId)
}

t.test('a handle that nobody listens to is refused', async t => {
  for (const source of [
    "import { connect } from 'node:net'",
    "import { createServer as open } from 'node:tls'",
    "import { spawn } from 'node:child_process'",
    "import { watch } from 'node:fs'",
    "import cluster from 'node:cluster'",
    "import { fastify } from 'fastify'",
    "import { WebSocket } from 'ws'; x.on('close', () => {})"
  ]) {
    t.same(await refusals(source), ['deaf'], source)
  }
})

t.test('with a listener it passes, and types open nothing', async t => {
  for (const source of [
    "import { connect } from 'node:net'; connect(1).on('error', () => {})",
    "import { spawn } from 'node:child_process'; spawn('a').once('error', () => {})",
    "import { type Server, isIP } from 'node:net'",
    "import type { WebSocket } from 'ws'",
    "import { readFile } from 'node:fs/promises'"
  ]) {
    t.same(await refusals(source), [], source)
  }
})

t.test('no pipe, and no standard stream of the process', async t => {
  t.same(await refusals('a.pipe(b)'), ['pipe'])
  t.same(await refusals("process.stdout.write('a')"), ['stdio'])
  t.same(await refusals("process.stderr.on('error', () => {})"), ['stdio'])
})
