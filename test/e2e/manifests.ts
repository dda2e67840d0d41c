/** Writes deploy/manifests from the Helm charts. Builds helm where it is not in the cache of the end-to-end test. */
import { fileURLToPath } from 'node:url'
import { writeManifests } from './support/helm.js'
import { buildTools } from './support/tools.js'

const { helm } = await buildTools(fileURLToPath(new URL('../../e2e', import.meta.url)), line =>
  process.stderr.write(`${line}\n`)
)
await writeManifests(helm)
