/**
 * The import table is only as good as its rule: sources that break it are fed to ESLint and must be refused, and
 * sources that keep it must pass. Which rows there are is said in test/support/import-table.mjs.
 */
import { existsSync, readdirSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ESLint } from 'eslint'
import t from 'tap'

const root = resolve(fileURLToPath(import.meta.url), '../../../../..')
const tablePath: string = resolve(root, 'test/support/import-table.mjs')
type ImportTable = {
  importTable: never
  table: { files: string[]; may: string[] }[]
  matches(pattern: string, name: string): boolean
}

/** Messages of the table's rule for a source that would stand in this file. */
async function refusals(file: string, source: string): Promise<string[]> {
  const eslint = new ESLint({
    cwd: root,
    overrideConfigFile: true,
    overrideConfig: await onlyTheTable()
  })
  const [result] = await eslint.lintText(source, { filePath: resolve(root, file) })
  return result!.messages.map(message => message.message)
}

async function onlyTheTable() {
  const parser = (await import('typescript-eslint')).default.parser
  const { importTable } = (await import(tablePath)) as ImportTable
  return [
    {
      files: ['**/*.ts'],
      languageOptions: { parser },
      plugins: { tendril: { rules: { 'import-table': importTable } } },
      rules: { 'tendril/import-table': 'error' as const }
    }
  ]
}

const refused: [file: string, source: string, what: string][] = [
  ['packages/common/src/mux/session.ts', "import { Link } from '../link/link.js'", 'mux → link'],
  ['packages/common/src/mux/session.ts', "import '../transport/websocket.js'", 'mux → transport'],
  ['packages/common/src/mux/session.ts', "import { connect } from 'node:net'", 'mux → sockets'],
  ['packages/common/src/link/link.ts', "export * from '../mux/session.js'", 'link → mux'],
  ['packages/common/src/wire/encode.ts', "import pino from 'pino'", 'wire → pino'],
  [
    'packages/common/src/wire/encode.ts',
    "import { setTimeout } from 'node:timers/promises'",
    'wire → timers'
  ],
  [
    'packages/common/src/wire/host-port.ts',
    "import { isIP, connect } from 'node:net'",
    'wire → sockets beside isIP'
  ],
  ['packages/common/src/wire/encode.ts', "const ws = await import('ws')", 'wire → ws, dynamically'],
  ['packages/common/src/mux/credit.ts', "import { systemClock } from '../clock.js'", 'credit → clock'],
  ['packages/common/src/policy/policy.ts', "import * as net from 'node:net'", 'policy → all of net'],
  [
    'packages/common/src/policy/policy.ts',
    "import { dial } from '../dial.js'",
    'policy → more than the type of dial'
  ],
  [
    'packages/common/src/transport/websocket.ts',
    "import { Session } from '../mux/session.js'",
    'transport → mux'
  ],
  ['packages/common/src/log.ts', "import forge from 'node-forge'", 'forge outside of identity'],
  [
    'packages/seed-server/src/identity/authority.ts',
    "import forge from 'node-forge'",
    "forge in the server's identity"
  ],
  ['packages/seed-server/src/front/front.ts', "import WebSocket from 'ws'", 'front → ws'],
  [
    'packages/seed-server/src/front/front.ts',
    "import { Registry } from '../registry/registry.js'",
    'front → registry'
  ],
  [
    'packages/seed-server/src/front/front.ts',
    "import { Session } from '@tendril/common/mux/session'",
    'front → mux'
  ],
  [
    'packages/seed-server/src/front/front.ts',
    "import { x } from '../../../common/src/errors.js'",
    'another package by path'
  ],
  [
    'packages/seed-server/src/acceptor/acceptor.ts',
    "import { listenFront } from '../front/front.js'",
    'acceptor → front'
  ],
  ['packages/seed-server/src/registry/registry.ts', "import fastify from 'fastify'", 'registry → fastify'],
  ['packages/seed-server/src/config.ts', "import { Server } from './server.js'", 'config → the service'],
  [
    'packages/seed-server/src/admin/server-admin.ts',
    "import { Registry } from '../registry/registry.js'",
    'admin → more than a view'
  ],
  ['packages/shoot-client/src/targets/dial-target.ts', "import WebSocket from 'ws'", 'targets → ws'],
  [
    'packages/shoot-client/src/transport/dial.ts',
    "import { createTargetDial } from '../targets/dial-target.js'",
    'transport → targets'
  ],
  [
    'packages/common/src/tunnel/tunnel-manager.ts',
    "import { shakeHands } from '../link/handshake.js'",
    'tunnel manager → link'
  ],
  ['packages/shoot-client/src/nowhere/x.ts', "import 'node:fs'", 'a folder without a row']
]

const kept: [file: string, source: string][] = [
  [
    'packages/common/src/wire/host-port.ts',
    "import { isIP } from 'node:net'\nimport { TunnelError } from '../errors.js'"
  ],
  [
    'packages/common/src/mux/session.ts',
    "import { Duplex } from 'node:stream'\nimport { decode } from '../wire/decode.js'"
  ],
  ['packages/common/src/policy/policy.ts', "import type { Target } from '../dial.js'"],
  ['packages/common/src/transport/websocket.ts', "import WebSocket from 'ws'"],
  ['packages/common/src/identity/certificate.ts', "import forge from 'node-forge'"],
  [
    'packages/seed-server/src/front/front.ts',
    "import { splice } from '@tendril/common/splice'\nimport { route } from './route.js'"
  ],
  [
    'packages/seed-server/src/server.ts',
    "import { Session } from '@tendril/common/mux/session'\nimport './front/front.js'"
  ],
  ['packages/seed-server/src/main.ts', "import { Server } from './server.js'"],
  [
    'packages/seed-server/src/admin/server-admin.ts',
    "import fastify from 'fastify'\nimport type { Registry } from '../registry/registry.js'"
  ],
  ['packages/common/test/mux/session.test.ts', "import '../../src/link/link.js'"]
]

t.test('an import that the table does not list is refused', async t => {
  for (const [file, source, what] of refused) {
    const messages = await refusals(file, source)

    t.match(messages.join('\n'), /import table|another package/, what)
  }
})

t.test('an import that the table lists passes', async t => {
  for (const [file, source] of kept) {
    const messages = await refusals(file, source)

    t.strictSame(messages, [], `${file}: ${source}`)
  }
})

t.test('every row speaks of files that exist, and allows imports of files that exist', async t => {
  const packages = resolve(root, 'packages')
  const names = readdirSync(packages).flatMap(name => {
    const sources = resolve(packages, name, 'src')
    if (!existsSync(sources)) return []
    return readdirSync(sources, { recursive: true }).map(
      path => `${name}/${String(path).replace(/\.ts$/, '')}`
    )
  })
  const { table, matches } = (await import(tablePath)) as ImportTable

  const patterns = table.flatMap(({ files, may }) => [
    ...files,
    ...may.map(entry => entry.replace(/^type:|#.*/g, ''))
  ])
  const ours = patterns.filter(pattern => /^(common|seed-server|shoot-client)\//.test(pattern))
  t.ok(ours.length > 100)
  t.strictSame(
    ours.filter(pattern => !names.some(name => matches(pattern, name))),
    []
  )
})
