// Every stream, socket, server and child process has an error path, as an ESLint rule: a file that opens one listens to
// 'error', and nothing is joined by `.pipe()`, which passes no error on. What it does not see is whether the listener is
// on the right object: that is for tests. Runs over packages/*/src.

/** What opens a handle, by module. `default` is the default import. */
const openers = {
  'node:fs': ['createReadStream', 'createWriteStream', 'watch', 'watchFile'],
  'node:child_process': ['spawn', 'exec', 'execFile', 'fork'],
  'node:cluster': ['default'],
  'node:http': ['createServer', 'request', 'get'],
  'node:https': ['createServer', 'request', 'get'],
  'node:net': ['createServer', 'connect', 'createConnection'],
  'node:tls': ['createServer', 'connect'],
  'node:worker_threads': ['Worker'],
  fastify: ['fastify'],
  ws: ['WebSocket', 'WebSocketServer']
}

/** Files whose handles have their errors awaited, or are the process's own: why. */
const excused = {
  'packages/common/src/config/document.ts': 'for await rejects with the error',
  'packages/seed-server/src/workers/worker.ts': 'the channel to the primary: every send has its callback'
}

/** @type {import('eslint').Rule.RuleModule} */
export const handleErrors = {
  meta: {
    type: 'problem',
    schema: [],
    messages: {
      deaf: "{{name}} opens a handle, and nothing in this file listens to its 'error': it would end the process.",
      pipe: '.pipe() passes no error on: use pipeline() or splice().',
      stdio: 'process.{{name}} as a stream ends the process when it is broken: use the log or Io.'
    }
  },
  create(context) {
    const isExcused = Object.keys(excused).some(file => context.filename.endsWith(file))
    const opened = []
    let listens = false
    return {
      ImportDeclaration(node) {
        const names = openers[node.source.value]
        if (!names || node.importKind === 'type') return
        for (const one of node.specifiers) {
          const name = one.type === 'ImportSpecifier' ? one.imported.name : 'default'
          if (one.importKind !== 'type' && names.includes(name))
            opened.push({ node: one, name: one.local.name })
        }
      },
      CallExpression({ callee, arguments: [event] }) {
        if (callee.type !== 'MemberExpression') return
        const { name } = callee.property
        if (name === 'pipe') context.report({ node: callee, messageId: 'pipe' })
        if ((name === 'on' || name === 'once') && event?.value === 'error') listens = true
      },
      MemberExpression({ object, property }) {
        const isStdio = object.name === 'process' && /^std(in|out|err)$/.test(property.name ?? '')
        if (isStdio) context.report({ node: property, messageId: 'stdio', data: { name: property.name } })
      },
      'Program:exit'() {
        if (listens || isExcused) return
        for (const { node, name } of opened) context.report({ node, messageId: 'deaf', data: { name } })
      }
    }
  }
}
