import t from 'tap'
import { errors } from '@tendril/common'
import { generateDocs, staleDocs } from './generate-docs.js'

t.test('docs/configuration.md and docs/errors.md are what the schemas and the table say', async t => {
  t.same(await staleDocs(), [], 'run: node test/dist/support/generate-docs.js')
})

t.test('every key of the contract and every error is described', async t => {
  const { 'configuration.md': configuration, 'errors.md': table } = generateDocs()

  for (const key of [
    'tunnel.tls.clientCa',
    'fronts[].listen',
    'clusters[].name',
    'admin.listen',
    'servers[].address',
    'upstreamProxy.headers',
    'targets.allow'
  ]) {
    t.match(configuration, `\`${key}\``)
  }
  t.match(configuration, '`TENDRIL_TUNNEL_TLS_CLIENT_CA`')
  for (const code of Object.keys(errors)) t.match(table, `\`${code}\``)
  // A row without a sentence would be a key that nobody can use.
  t.notMatch(configuration, /\| \s*\|$/m)
})
