// Who may import whom: the table of ARCHITECTURE.md as an ESLint rule. A row gives the files it speaks of and
// everything they may import; the first row that fits a file counts, and what is not listed is refused. Tests are
// free: the rule runs over packages/*/src only.
import { dirname, join, relative, resolve, sep } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(fileURLToPath(import.meta.url), '../../..')

/** The files that both ends share. */
const shared = [
  'common/index',
  'common/errors',
  'common/dial',
  'common/principal',
  'common/carrier',
  'common/clock',
  'common/message-buffer',
  'common/queue',
  'common/fair-scheduler'
]
/** What holds bytes, lists and promises, but opens nothing. */
const pure = ['node:buffer', 'node:events', 'node:stream', 'node:util']

/**
 * Patterns: `common/mux/credit` is a file of a package (packages/common/src/mux/credit.ts), `*` stands for one
 * path segment, `**` for any number, anything else is a module name. `#a,b` allows only those names of a module;
 * `type:` allows only types.
 * @type {{ files: string[], may: string[] }[]}
 */
export const table = [
  // Pure: bytes and numbers in, bytes and numbers out.
  {
    files: ['common/wire/**'],
    may: [
      'common/wire/**',
      'common/errors',
      'type:common/dial',
      'type:common/principal',
      'node:buffer',
      'node:net#isIP,isIPv4,isIPv6'
    ]
  },
  {
    files: ['common/fair-budget', 'common/counted-limit', 'common/token-bucket'],
    may: ['common/errors', 'type:common/clock']
  },
  {
    files: ['common/mux/credit', 'common/mux/stream-scheduler'],
    may: ['common/mux/*', 'common/errors', 'type:common/fair-budget']
  },
  {
    files: ['common/link/replay'],
    may: ['common/link/*', 'common/errors', 'type:common/fair-budget', 'common/message-buffer', 'node:buffer']
  },
  {
    files: ['common/policy/**'],
    may: [
      'common/policy/**',
      'common/errors',
      'type:common/dial',
      'ipaddr.js',
      'node:net#isIP,isIPv4,isIPv6,BlockList,SocketAddress'
    ]
  },

  // mux and link both know Carrier and never each other.
  {
    files: ['common/mux/**'],
    may: [
      'common/mux/**',
      'common/wire/**',
      'common/linger',
      'type:common/fair-budget',
      'type:common/send-share',
      ...shared,
      'type:common/log',
      ...pure
    ]
  },
  {
    files: ['common/link/**'],
    may: [
      'common/link/**',
      'common/wire/**',
      'common/fair-budget',
      'common/counted-limit',
      ...shared,
      'type:common/log',
      ...pure,
      'node:crypto'
    ]
  },
  {
    files: ['common/transport/websocket'],
    may: [...shared, 'type:common/log', ...pure, 'common/transport/sliced-reads', 'ws']
  },
  {
    files: ['common/transport/**'],
    may: [
      'common/transport/**',
      ...shared,
      'common/tls',
      'common/owned',
      'common/race',
      'common/remember',
      'common/resolve',
      'common/identity/dns-name',
      'common/identity/peer',
      'common/wire/host-port',
      'node:http',
      'node:net',
      'node:tls',
      ...pure,
      'ws'
    ]
  },
  {
    files: ['common/tunnel/tunnel-manager'],
    may: ['type:common/tunnel/tunnel', ...shared, 'type:common/backoff']
  },
  {
    files: ['common/tunnel/**'],
    may: ['common/tunnel/**', 'common/link/**', 'type:common/mux/session', ...shared]
  },

  {
    files: ['common/identity/**'],
    may: ['common/identity/**', ...shared, 'type:common/log', 'node:*', 'node:*/*', 'node-forge', 'ipaddr.js']
  },
  {
    files: ['common/admin/**'],
    may: ['common/admin/**', ...shared, 'common/*', 'node:*', 'fastify', 'prom-client']
  },
  { files: ['common/index'], may: ['common/**'] },
  { files: ['common/serve'], may: [...shared, 'common/splice', 'type:common/mux/session'] },
  {
    files: ['common/config/**'],
    may: [
      'common/config/**',
      'common/listen-address',
      'common/resolver-files',
      'type:common/resolve',
      ...shared,
      'node:*',
      'node:*/*',
      'yaml',
      'zod'
    ]
  },
  { files: ['common/config'], may: ['common/config/**', ...shared, 'node:*', 'node:*/*', 'yaml', 'zod'] },
  {
    files: ['common/command'],
    may: ['common/config', 'common/log', 'common/log-output', ...shared, 'commander']
  },
  { files: ['common/*'], may: ['common/*', 'node:*', 'node:*/*', 'pino', 'prom-client'] },

  // The listeners of the server.
  {
    files: ['seed-server/acceptor/**'],
    may: [
      'seed-server/acceptor/**',
      'seed-server/party',
      'common/*',
      'common/identity/**',
      'common/transport/**',
      'node:*',
      'ws'
    ]
  },
  {
    files: ['seed-server/front/**'],
    may: [
      'seed-server/front/**',
      'common/*',
      'common/identity/**',
      'common/wire/host-port',
      'node:*',
      'node:*/*'
    ]
  },
  {
    files: ['seed-server/registry/**'],
    may: [
      'seed-server/registry/**',
      ...shared,
      'common/policy/route-index',
      'type:common/policy/routes',
      'type:common/log',
      ...pure
    ]
  },
  { files: ['seed-server/peers/lease-api'], may: ['@kubernetes/client-node'] },
  {
    files: ['seed-server/peers/**'],
    may: [
      'seed-server/peers/**',
      'common/*',
      'common/tunnel/**',
      'common/link/**',
      'common/wire/host-port',
      'node:crypto'
    ]
  },
  {
    files: ['seed-server/identity/**'],
    may: ['seed-server/identity/**', 'common/*', 'common/identity/**', 'node:*', 'node:*/*']
  },
  {
    files: ['seed-server/admin/**'],
    may: [
      'seed-server/admin/**',
      'common/*',
      'common/admin/**',
      'type:seed-server/registry/**',
      'type:seed-server/peers/**',
      'seed-server/server-metrics',
      'node:*',
      'fastify',
      'prom-client'
    ]
  },

  // Several workers: a primary that carries no byte, and workers that each run a server.
  {
    files: ['seed-server/workers/workers'],
    may: [
      'seed-server/workers/**',
      'seed-server/front/unix',
      'seed-server/server-metrics',
      'type:seed-server/config',
      'common/*',
      'common/admin/**',
      'node:*',
      'node:*/*'
    ]
  },
  {
    files: ['seed-server/workers/worker'],
    may: [
      'seed-server/workers/**',
      'seed-server/server',
      'seed-server/admin/server-readiness',
      'common/*',
      'node:*'
    ]
  },
  {
    files: ['seed-server/workers/**'],
    may: [
      'seed-server/workers/**',
      'type:seed-server/config',
      ...shared,
      'type:common/admin/admin-listener',
      'node:*',
      'prom-client'
    ]
  },

  // The client: outwards and inwards.
  {
    files: ['shoot-client/transport/**'],
    may: [
      'shoot-client/transport/**',
      'common/*',
      'common/config/fields',
      'common/identity/**',
      'common/transport/**',
      'common/wire/host-port',
      'node:*',
      'node:*/*',
      'ws'
    ]
  },
  {
    files: ['shoot-client/targets/**'],
    may: [
      'shoot-client/targets/**',
      'common/*',
      'common/policy/**',
      'common/wire/host-port',
      'node:*',
      'node:*/*'
    ]
  },
  {
    files: ['shoot-client/admin/**'],
    may: [
      'shoot-client/admin/**',
      'common/*',
      'common/admin/**',
      'shoot-client/client-metrics',
      'node:*',
      'fastify',
      'prom-client'
    ]
  },

  // The services: the only two files that may import everything; started by main (or a worker).
  {
    files: ['seed-server/server'],
    may: ['seed-server/**', 'common/**', 'node:*', 'node:*/*', 'ws', 'prom-client']
  },
  {
    files: ['shoot-client/client'],
    may: ['shoot-client/**', 'common/**', 'node:*', 'node:*/*', 'ws', 'prom-client']
  },
  {
    files: ['seed-server/main', 'seed-server/cli'],
    may: [
      'seed-server/*',
      'seed-server/identity/**',
      'seed-server/workers/**',
      'common/*',
      'common/config/memory-bounds',
      'node:*',
      'commander',
      'yaml'
    ]
  },
  {
    files: ['shoot-client/main', 'shoot-client/cli'],
    may: ['shoot-client/*', 'common/*', 'common/config/memory-bounds', 'node:*', 'commander', 'yaml']
  },

  {
    files: ['shoot-client/chosen-proxies'],
    may: [
      'shoot-client/transport/proxy',
      'common/transport/destination',
      'common/config/fields',
      'type:shoot-client/config'
    ]
  },

  {
    files: ['seed-server/client-dials'],
    may: [...shared, 'type:common/log-limiter', 'common/wire/host-port']
  },

  // What is left beside them: config, metrics, egress.
  {
    files: ['seed-server/*'],
    may: [
      'seed-server/config',
      'seed-server/peers-config',
      'seed-server/server-metrics',
      'seed-server/egress',
      'seed-server/limits',
      'seed-server/party',
      'seed-server/server-bounds',
      'common/*',
      'common/config/**',
      'common/identity/**',
      'common/policy/**',
      'node:*',
      'node:*/*',
      'prom-client',
      'yaml',
      'zod'
    ]
  },
  {
    files: ['shoot-client/*'],
    may: [
      'shoot-client/config',
      'shoot-client/client-metrics',
      'common/*',
      'common/config/**',
      'common/identity/role',
      'common/policy/**',
      'node:*',
      'prom-client',
      'yaml',
      'zod'
    ]
  }
]

/** @type {import('eslint').Rule.RuleModule} */
export const importTable = {
  meta: {
    type: 'problem',
    schema: [],
    messages: {
      refused:
        '{{from}} may not import {{to}}: see the import table (test/support/import-table.mjs, ARCHITECTURE.md).',
      homeless: '{{from}} stands in no row of the import table (test/support/import-table.mjs): add one.',
      outside: '{{from}} reaches into another package by a relative path: import @tendril/… instead.'
    }
  },
  create(context) {
    const from = moduleOf(relative(root, context.filename))
    if (!from) return {}
    const row = table.find(({ files }) => files.some(pattern => matches(pattern, from)))

    const check = (node, specifier, names, typeOnly) => {
      if (!row) return context.report({ node, messageId: 'homeless', data: { from } })
      const to = targetOf(specifier, context.filename)
      if (!to) return context.report({ node, messageId: 'outside', data: { from } })
      if (!row.may.some(entry => allows(entry, to, names, typeOnly))) {
        context.report({ node, messageId: 'refused', data: { from, to } })
      }
    }

    return {
      ImportDeclaration(node) {
        const typeOnly =
          node.importKind === 'type' ||
          (node.specifiers.length > 0 && node.specifiers.every(one => one.importKind === 'type'))
        check(
          node,
          node.source.value,
          node.specifiers.map(one => one.imported?.name),
          typeOnly
        )
      },
      ExportNamedDeclaration(node) {
        if (node.source)
          check(
            node,
            node.source.value,
            node.specifiers.map(one => one.local.name),
            node.exportKind === 'type'
          )
      },
      ExportAllDeclaration(node) {
        check(node, node.source.value, [undefined], node.exportKind === 'type')
      },
      ImportExpression(node) {
        if (node.source.type === 'Literal') check(node, node.source.value, [undefined], false)
      },
      TSImportType(node) {
        check(node, node.source?.value ?? node.argument.literal.value, [], true)
      }
    }
  }
}

/** packages/common/src/mux/credit.ts → common/mux/credit. Undefined for files outside of packages/x/src. */
function moduleOf(path) {
  const [packages, name, src, ...rest] = path.split(sep)
  if (packages !== 'packages' || src !== 'src') return undefined
  return [name, ...rest].join('/').replace(/\.[jt]s$/, '')
}

/** The name of what is imported, as the table writes it. Undefined when a relative path leaves the package. */
function targetOf(specifier, filename) {
  if (specifier.startsWith('@tendril/')) {
    const [, name, ...rest] = specifier.split('/')
    return [name, ...(rest.length > 0 ? rest : ['index'])].join('/')
  }
  if (!specifier.startsWith('.')) return specifier
  const here = relative(root, filename)
  const there = moduleOf(join(dirname(here), specifier))
  return there?.split('/')[0] === moduleOf(here)?.split('/')[0] ? there : undefined
}

function allows(entry, to, names, typeOnly) {
  if (entry.startsWith('type:')) return typeOnly && matches(entry.slice('type:'.length), to)
  const [pattern, only] = entry.split('#')
  if (!matches(pattern, to)) return false
  return only === undefined || typeOnly || names.every(name => only.split(',').includes(name))
}

/** Does this pattern of the table fit the name of a module? */
export function matches(pattern, name) {
  const source = pattern
    .replace(/[.+?^${}()|[\]\\]/g, '\\$&')
    .replace(/\*+/g, stars => (stars === '**' ? '.*' : '[^/]*'))
  return new RegExp(`^${source}$`).test(name)
}
