// `npm run test:node24 [filter]`: the tests under the Node that the container image ships. The binary comes out of the
// packages that the npm package `node` chooses from, by test/node24's own lockfile: `node` itself would fetch it in an
// install script that no lockfile binds, and every `npm ci` of this repository would fetch it too.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { delimiter, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(fileURLToPath(import.meta.url), '../../..')
const home = join(root, 'test/node24')

run(process.execPath, [join(root, 'test/support/ready.mjs'), '--proxies'])
const node = installed()
console.log(`Node ${readVersion(node)}`)
run(node, [join(root, 'test/support/run.mjs'), ...process.argv.slice(2)], {
  ...process.env,
  // The programs' first line asks env for `node`.
  PATH: `${dirname(node)}${delimiter}${process.env.PATH}`
})

/** Path of the binary, which is fetched when the lockfile is newer than what is there. */
function installed() {
  const binary = join(home, 'node_modules', `node-${process.platform}-${process.arch}`, 'bin/node')
  const stamp = join(home, 'node_modules/.tendril-lock')
  const hash = createHash('sha256')
    .update(readFileSync(join(home, 'package-lock.json')))
    .digest('hex')
  if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== hash) {
    console.error('ready: fetching Node 24 (npm ci in test/node24)')
    run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], process.env, home)
    writeFileSync(stamp, hash)
  }
  if (existsSync(binary)) return binary
  console.error(`node24: test/node24/package.json names no Node for ${process.platform} on ${process.arch}`)
  process.exit(1)
}

function readVersion(binary) {
  return spawnSync(binary, ['-p', 'process.versions.node'], { encoding: 'utf8' }).stdout.trim()
}

function run(command, args, env = process.env, cwd = root) {
  const { status, error } = spawnSync(command, args, { cwd, env, stdio: ['ignore', 'inherit', 'inherit'] })
  if (status === 0) return
  if (error) console.error(`node24: ${command}: ${error.message}`)
  process.exit(status ?? 1)
}
