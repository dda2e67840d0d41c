// Makes a checkout ready to run: dependencies from the lockfile, compiled sources, and with `--proxies` the real
// proxies that the tests stand behind. Plain JavaScript without imports from npm, because it runs before there is
// a node_modules. Says something only when it does something; a second call costs a few milliseconds.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { accessSync, constants, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { delimiter, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildAll, transpileChanged } from './build.mjs'

const root = resolve(fileURLToPath(import.meta.url), '../../..')

const NODE_MINIMUM = [20, 11]

/** What the system tests use, and the Debian packages it comes in. */
const TOOLS = [
  { name: 'haproxy', packages: ['haproxy'] },
  { name: 'nginx', packages: ['nginx', 'libnginx-mod-stream'] },
  {
    name: 'nginx stream module',
    packages: ['libnginx-mod-stream'],
    present: () => existsSync('/usr/lib/nginx/modules/ngx_stream_module.so') || nginxHasStream()
  },
  { name: 'squid', packages: ['squid'] },
  { name: 'openssl', packages: ['openssl'] },
  { name: 'curl', packages: ['curl'] },
  { name: 'ip', packages: ['iproute2'] },
  { name: 'nft', packages: ['nftables'] }
]

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    makeReady({ proxies: process.argv.includes('--proxies') })
  } catch (error) {
    console.error(`ready: ${error.message}`)
    process.exitCode = 1
  }
}

/** `types: false` compiles what changed and checks no types. Throws a sentence when something cannot be had. */
export function makeReady({ proxies = false, types = true } = {}) {
  checkNode()
  installDependencies()
  if (types) buildAll(root, say)
  else transpileChanged(root, say)
  if (proxies) installProxies()
}

function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  const [needMajor, needMinor] = NODE_MINIMUM
  if (major > needMajor || (major === needMajor && minor >= needMinor)) return
  throw new Error(
    `Node ${process.versions.node} is too old: Tendril needs ${NODE_MINIMUM.join('.')} or newer (https://nodejs.org).`
  )
}

/** The lockfile is the truth; a stamp with its hash inside node_modules makes the usual case one small read. */
function installDependencies() {
  const modules = join(root, 'node_modules')
  const stamp = join(modules, '.tendril-lock')
  const lockText = readFileSync(join(root, 'package-lock.json'))
  const hash = createHash('sha256').update(lockText).digest('hex')
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return
  if (!installedAs(JSON.parse(lockText))) {
    say('installing dependencies from package-lock.json (npm ci)')
    // No scripts: none of the dependencies needs one, and the build is the next step anyway.
    run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], {
      otherwise: 'npm ci failed: is there a network, and does package-lock.json fit package.json?'
    })
  }
  writeFileSync(stamp, hash)
}

/** Does node_modules hold what the lockfile names? npm keeps its own record of what it put there. */
function installedAs(lock) {
  const record = join(root, 'node_modules/.package-lock.json')
  if (!existsSync(record)) return false
  const installed = JSON.parse(readFileSync(record, 'utf8')).packages
  return Object.entries(lock.packages)
    .filter(([path, entry]) => path.startsWith('node_modules/') && !entry.optional)
    .every(([path, entry]) => installed[path]?.version === entry.version)
}

function installProxies() {
  const missing = () => TOOLS.filter(tool => !(tool.present ?? (() => onPath(tool.name)))())
  const absent = missing()
  if (absent.length === 0) return
  if (process.getuid?.() === 0 && onPath('apt-get')) {
    const packages = [...new Set(absent.flatMap(tool => tool.packages))]
    say(`installing Debian packages: ${packages.join(' ')}`)
    withoutStartingServices(() => {
      const install = ['install', '-y', '-qq', '--no-install-recommends', ...packages]
      if (!apt(install)) {
        apt(['update', '-qq'])
        apt(install)
      }
    })
  }
  for (const tool of missing()) {
    console.error(
      `!!! MISSING ${tool.name}: the tests that need it will be skipped. Install: ${tool.packages.join(', ')}`
    )
  }
}

function apt(args) {
  const environment = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' }
  return spawnSync('apt-get', args, { stdio: ['ignore', 'ignore', 'inherit'], env: environment }).status === 0
}

/** Debian asks policy-rc.d before it starts a freshly installed service; 101 means no. */
function withoutStartingServices(action) {
  const policy = '/usr/sbin/policy-rc.d'
  const ours = !existsSync(policy)
  if (ours) writeFileSync(policy, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
  try {
    action()
  } finally {
    if (ours) rmSync(policy, { force: true })
  }
}

function nginxHasStream() {
  if (!onPath('nginx')) return false
  const { stderr } = spawnSync('nginx', ['-V'], {
    encoding: 'utf8',
    env: { ...process.env, PATH: searchPath() }
  })
  return /--with-stream(?!=dynamic)\b/.test(stderr ?? '')
}

/** Debian keeps servers in the sbin directories, which are not on everyone's PATH. */
function searchPath() {
  return [process.env.PATH, '/usr/local/sbin', '/usr/sbin', '/sbin'].join(delimiter)
}

function onPath(name) {
  return searchPath()
    .split(delimiter)
    .some(directory => {
      try {
        accessSync(join(directory, name), constants.X_OK)
        return true
      } catch {
        return false
      }
    })
}

function run(command, args, { otherwise }) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
  if (status !== 0) throw new Error(error ? `${otherwise} (${error.message})` : otherwise)
}

function say(text) {
  console.error(`ready: ${text}`)
}
