// `npm run test:e2e`: makes the checkout ready, says what this machine lacks for the end-to-end test, and runs it.
// Plain JavaScript without imports from npm, because it runs before there is a node_modules.
import { spawnSync } from 'node:child_process'
import { delimiter, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(fileURLToPath(import.meta.url), '../../..')
// Where Go's own installer puts it, and Debian its network tools: not on everyone's PATH.
const path = [process.env.PATH, '/usr/local/go/bin', '/usr/local/sbin', '/usr/sbin', '/sbin'].join(delimiter)
const env = { ...process.env, PATH: path }

/** Commands, how to ask whether they are there, and where they come from. ready.mjs has installed what it may. */
const NEEDED = [
  ['ip', ['-V'], 'iproute2'],
  ['nft', ['--version'], 'nftables'],
  ['nsenter', ['--version'], 'util-linux'],
  ['curl', ['--version'], 'curl'],
  ['script', ['--version'], 'bsdutils'],
  ['openssl', ['version'], 'openssl'],
  ['haproxy', ['-v'], 'haproxy'],
  ['go', ['version'], 'Go >= 1.26 from https://go.dev/dl']
]

if (process.getuid?.() !== 0) stop('it makes network namespaces, and so needs root')
run(['test/support/ready.mjs', '--proxies'])
const missing = NEEDED.filter(([command, args]) => spawnSync(command, args, { env, stdio: 'ignore' }).error)
if (missing.length > 0)
  stop(`missing: ${missing.map(([command, , from]) => `${command} (${from})`).join(', ')}`)
run(['test/dist/e2e/main.js', ...process.argv.slice(2)])

function run(args) {
  const { status } = spawnSync(process.execPath, args, { cwd: root, env, stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
}

function stop(why) {
  console.error(`e2e: not run: ${why}`)
  process.exit(1)
}
