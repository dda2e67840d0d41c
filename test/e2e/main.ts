/**
 * The end-to-end test against the real kube-apiserver: builds the tools, makes the networks, and runs inside.ts in
 * the seed's. Takes everything down again however that ends. Started by run-e2e.mjs, which has checked the machine.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { definitionFiles } from './support/definitions.js'
import { createNetwork } from './support/network.js'
import { inside } from './support/namespace-process.js'
import { buildTools, toolVersions } from './support/tools.js'

const say = (line: string): void => void process.stdout.write(`${line}\n`)
const sources = fileURLToPath(new URL('../../e2e', import.meta.url))
const args = process.argv.slice(2)

const notRun = (error: unknown): never => {
  say(`e2e: not run: ${error instanceof Error ? error.message : String(error)}`)
  process.exit(1)
}
const tools = await buildTools(sources, say).catch(notRun)
const definitions = await definitionFiles(sources).catch(notRun)
say([`node: ${process.version}`, ...(await toolVersions(tools))].join('\n'))
if (args.includes('--build')) process.exit(0)

const dir = await mkdtemp(join(tmpdir(), 'tendril-e2e-'))
// Device and namespace names are short; the process id keeps two runs on one machine apart.
const prefix = `e2e${process.pid}`
const network = await createNetwork(prefix)
let code = 1
try {
  const argv = inside(network.seed, [
    process.execPath,
    fileURLToPath(new URL('inside.js', import.meta.url)),
    ...args
  ])
  const child = spawn(argv[0]!, argv.slice(1), {
    stdio: 'inherit',
    env: {
      ...process.env,
      E2E_DIR: dir,
      E2E_NETWORK: prefix,
      E2E_TOOLS: JSON.stringify(tools),
      E2E_DEFINITIONS: JSON.stringify(definitions)
    }
  })
  // The terminal sends ^C to both; this one waits for the other and then cleans up.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
  const [ended] = (await once(child, 'exit')) as [number | null]
  code = ended ?? 1
} finally {
  await network.close()
  if (code === 0) await rm(dir, { recursive: true, force: true })
  else say(`logs: ${join(dir, 'logs')}`)
}
process.exit(code)
