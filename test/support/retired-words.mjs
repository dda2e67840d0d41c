// Words that only the authors of the project understood, and what to write instead. An ESLint rule refuses them in
// identifiers and file names. The glossary of ARCHITECTURE.md lists the words to use.
import { basename } from 'node:path'

/** Retired word, in each form that it has → what to write. */
export const retiredWords = {
  house: 'service, program, deployment',
  houses: 'services, programs, deployments',
  guest: 'remote identity',
  guests: 'remote identities',
  tenant: 'hosted client',
  tenants: 'hosted clients',
  applicant: 'upgrade request',
  applicants: 'upgrade requests',
  arrival: 'established connection, pending connection, receive queue',
  arrivals: 'established connections, pending connections',
  keeper: 'tunnel manager',
  keepers: 'tunnel managers',
  slot: 'connection index',
  slots: 'connections',
  door: 'endpoint, listener',
  doors: 'endpoints, listeners',
  tend: 'run',
  journey: 'connector, path',
  journeys: 'connectors, paths',
  inhabitant: 'program',
  inhabitants: 'programs',
  city: 'simulation',
  nudge: 'retryNow',
  nudged: 'retryRequested',
  bury: 'deleteExpired',
  buried: 'deleted',
  mend: 'recover',
  mends: 'recovers',
  wake: 'notify',
  wakes: 'notifies',
  farewell: 'close grace period',
  tell: 'send, announce, log',
  tells: 'sends, announces, logs',
  told: 'sent, announced, logged',
  hear: 'receive',
  hears: 'receives',
  heard: 'received',
  spent: 'charge',
  stranger: 'untrusted peer',
  strangers: 'untrusted peers',
  disguise: 'embedded address',
  disguises: 'embedded forms',
  disguised: 'embedded',
  elsewhere: 'remote',
  note: 'announcement, control message'
}

/** @type {import('eslint').Rule.RuleModule} */
export const noRetiredWords = {
  meta: {
    type: 'problem',
    schema: [],
    messages: {
      name: '{{name}}: “{{word}}” is retired, write: {{instead}} (test/support/retired-words.mjs).',
      file: 'The file name {{name}}: “{{word}}” is retired, write: {{instead}} (test/support/retired-words.mjs).'
    }
  },
  create(context) {
    const check = (node, name, messageId) => {
      for (const word of wordsOf(name)) {
        if (!Object.hasOwn(retiredWords, word)) continue
        context.report({ node, messageId, data: { name, word, instead: retiredWords[word] } })
      }
    }
    return {
      Program: node => check(node, basename(context.filename), 'file'),
      Identifier: node => check(node, node.name, 'name'),
      PrivateIdentifier: node => check(node, node.name, 'name')
    }
  }
}

/** newLinkTimer → new, link, timer; MAX_LINKS → max, links; link-host.test.ts → link, host, test, ts */
function wordsOf(name) {
  return name
    .replace(/([a-z0-9])([A-Z])/g, '$1 $2')
    .replace(/([A-Z])([A-Z][a-z])/g, '$1 $2')
    .toLowerCase()
    .split(/[^a-z]+/)
}
