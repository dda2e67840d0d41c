/**
 * `npm run demo`: one request on its whole way, each step told as it happens. Makes certificates, starts seed-server
 * and shoot-client as processes of their own and a small HTTP pod, asks for the pod the way kube-apiserver does, and
 * succeeds only if the pod was called by the client. `-- --keep` stays up and prints commands to try.
 */
import { randomUUID } from 'node:crypto'
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  writeFileSync
} from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join, relative, resolve } from 'node:path'
import { performance } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { apiserverDial, httpGet } from '../support/apiserver.js'
import { ask } from '../support/ask.js'
import { start, until, type Child } from '../support/child-process.js'

const root = resolve(fileURLToPath(import.meta.url), '../../../..')
const serverBin = join(root, 'packages/seed-server/bin/seed-server.js')
const clientBin = join(root, 'packages/shoot-client/bin/shoot-client.js')

const CLUSTER = 'demo'
/** Lines of a child's log that are shown when it fails. */
const LOG_LINES = 15

const keep = process.argv.includes('--keep')
const colour = process.stdout.isTTY && !process.env['NO_COLOR']
const paint = (code: number, text: string) => (colour ? `\u001b[${code}m${text}\u001b[0m` : text)
const startedAt = performance.now()

/** Undone in reverse order, whatever happens. */
const cleanUps: (() => unknown)[] = []
const children: Child[] = []
let leaving = false

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (keep) console.log('\nstopping')
    void leave(keep && signal === 'SIGINT' ? 0 : 130)
  })
}

try {
  await demo()
  if (keep) await new Promise(() => setInterval(() => {}, 3_600_000))
  else await leave(0)
} catch (error) {
  if (!leaving) {
    console.error(
      `\n${paint(31, 'The demo failed:')} ${error instanceof Error ? error.message : String(error)}`
    )
    for (const child of children) showLog(child)
  }
  await leave(1)
}

async function demo(): Promise<void> {
  console.log(
    `\n${paint(1, 'Tendril demo')}: a request from kube-apiserver to a pod in a network that nothing may dial into\n`
  )
  const directory = mkdtempSync(join(tmpdir(), 'tendril-demo-'))
  cleanUps.push(() => {
    rmSync(directory, { recursive: true, force: true })
  })
  const pki = join(directory, 'pki')

  await run(
    serverBin,
    'pki',
    '--dir',
    pki,
    '--host',
    '127.0.0.1',
    '--host',
    'localhost',
    '--cluster',
    CLUSTER
  )
  step(
    'certificates',
    `made by seed-server pki: ${readdirSync(pki)
      .filter(file => file.endsWith('.crt'))
      .sort()
      .join(', ')}`
  )

  const pod = await startPod(() => [process.pid, ...children.map(child => child.pid)])
  step('pod', `an HTTP server on 127.0.0.1:${pod.port}; it answers with a number nobody can guess`)

  const seedConfig = join(directory, 'seed.yaml')
  writeFileSync(
    seedConfig,
    `tunnel:
  listen: 127.0.0.1:0
  tls: { cert: pki/server.crt, key: pki/server.key, clientCa: pki/ca.crt }
fronts:
  - name: kube-apiserver
    listen: 127.0.0.1:0
    tls: { cert: pki/server.crt, key: pki/server.key, clientCa: pki/ca.crt }
    callers: [kube-apiserver]
    cluster: ${CLUSTER}
clusters: [{ name: ${CLUSTER} }]
admin: { listen: 127.0.0.1:0 }
`
  )
  const server = launch('seed-server', serverBin, seedConfig)
  const [tunnel, front, serverAdmin] = (await Promise.all(
    ['tunnel', 'front kube-apiserver', 'admin'].map(name => server.listening(name))
  )) as [string, string, string]
  step('seed-server', `process ${server.pid}: clients arrive at ${tunnel}, kube-apiserver at ${front} (mTLS)`)

  const shootConfig = join(directory, 'shoot.yaml')
  writeFileSync(
    shootConfig,
    `cluster: ${CLUSTER}
servers:
  - url: wss://localhost:${portOf(tunnel)}
    address: ${tunnel}
tls: { ca: pki/ca.crt, cert: pki/client-${CLUSTER}.crt, key: pki/client-${CLUSTER}.key }
proxy: none
targets: { allow: [127.0.0.0/8] }
admin: { listen: 127.0.0.1:0 }
`
  )

  const client = launch('shoot-client', clientBin, shootConfig)
  const clientAdmin = await client.listening('admin')
  await up(client, 'is connected', `http://${clientAdmin}/readyz`)
  await up(server, 'knows its client', `http://${serverAdmin}/readyz`)
  step(
    'shoot-client',
    `process ${client.pid}: dialled out to the server, identified as a client of cluster ${CLUSTER}`
  )

  const addr = `127.0.0.1:${pod.port}`
  step(
    'kube-apiserver',
    `CONNECT ${addr} HTTP/1.1   (TLS 1.3, its own certificate, nothing but Host: 127.0.0.1)`
  )
  const stream = await apiserverDial({
    front: { host: '127.0.0.1', port: portOf(front) },
    tls: {
      ca: readFileSync(join(pki, 'ca.crt')),
      cert: readFileSync(join(pki, 'kube-apiserver.crt')),
      key: readFileSync(join(pki, 'kube-apiserver.key'))
    },
    addr
  })
  step('seed-server', 'HTTP/1.1 200   the client has connected to the pod')

  const answer = await httpGet(stream, { path: '/' })
  step('pod', `${answer.status} ${answer.body.toString().trim()}`)

  if (answer.status !== 200 || !answer.body.toString().includes(pod.nonce))
    throw new Error('the answer is not the pod’s')
  const [caller, ...others] = pod.callers
  if (!caller || others.length > 0)
    throw new Error(`the pod was called ${pod.callers.length} times, expected once`)
  if (caller.process !== undefined && caller.process !== client.pid) {
    throw new Error(`the pod was called by process ${caller.process}, which is not shoot-client`)
  }
  const carried = await sample(
    `http://${serverAdmin}/metrics`,
    /^tendril_server_connects_total\{.*code="OK".*\} (\d+)$/m
  )
  if (carried !== 1) throw new Error(`seed-server has carried ${carried ?? 'no'} connections, expected one`)
  const whose =
    caller.process === undefined ? '' : `, which belongs to process ${caller.process}: shoot-client`
  step('proof', `the pod’s only caller came from port ${caller.port}${whose}`)

  const took = ((performance.now() - startedAt) / 1000).toFixed(1)
  console.log(`\n${paint(32, 'The answer came through the tunnel.')} (${took} s)\n`)
  if (keep) printWhatToTry(directory, { front, pod: `127.0.0.1:${pod.port}`, serverAdmin, clientAdmin })
  else printWhatNext()
}

function printWhatToTry(
  directory: string,
  { front, pod, serverAdmin, clientAdmin }: Record<'front' | 'pod' | 'serverAdmin' | 'clientAdmin', string>
): void {
  const pki = join(directory, 'pki')
  console.log(`Everything stays up until Ctrl-C. Paste these into another terminal:

  # the pod, through the tunnel, with kube-apiserver's certificate
  curl -p -x https://${front} --proxy-cacert ${pki}/ca.crt --proxy-cert ${pki}/kube-apiserver.crt --proxy-key ${pki}/kube-apiserver.key http://${pod}/

  # a port where nobody listens: the reason stands in the status line
  curl -sv -p -x https://${front} --proxy-cacert ${pki}/ca.crt --proxy-cert ${pki}/kube-apiserver.crt --proxy-key ${pki}/kube-apiserver.key http://127.0.0.1:1/ 2>&1 | grep '< HTTP'

  # how the two are
  curl http://${serverAdmin}/readyz
  curl http://${clientAdmin}/readyz
  curl -s http://${serverAdmin}/metrics | grep ^tendril_

  # what kube-apiserver needs to use this front
  npx seed-server egress-config --config ${join(directory, 'seed.yaml')} --front kube-apiserver
`)
}

function printWhatNext(): void {
  console.log(`Next:
  npm run demo -- --keep       the same, but it stays up and prints curl lines to paste
  npx seed-server --help       run the two yourself
  npx shoot-client --help
  npm test                     the same path behind real haproxy, nginx and squid, and everything else
`)
}

/** Who called: the port, and whose it was where the system tells. */
type Caller = { port: number; process: number | undefined }
type Pod = { port: number; nonce: string; callers: Caller[] }

/** `suspects` are the processes among which the caller is looked for, while it is still connected. */
async function startPod(suspects: () => number[]): Promise<Pod> {
  const nonce = randomUUID()
  const callers: Caller[] = []
  const server: Server = createServer((_, response) => {
    response.setHeader('content-type', 'text/plain')
    response.end(`hello from the pod, ${nonce}\n`)
  })
  server.on('connection', socket => {
    const port = socket.remotePort ?? 0
    callers.push({ port, process: processOfPort(port, suspects()) })
  })
  cleanUps.push(() => {
    server.closeAllConnections()
    server.close()
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', resolve)
  })
  return { port: (server.address() as AddressInfo).port, nonce, callers }
}

function launch(name: string, bin: string, config: string): Child {
  const child = start(name, process.execPath, [bin, 'run', '--config', config])
  children.push(child)
  cleanUps.push(() => child.stop())
  return child
}

/** Runs a command to its end; its words are shown only when it fails. */
async function run(bin: string, ...args: string[]): Promise<void> {
  const child = start(relative(root, bin), process.execPath, [bin, ...args])
  const { code } = await child.exited
  if (code !== 0)
    throw new Error(`${child.name} ${args[0] ?? ''} ended with ${code ?? 'a signal'}:\n${child.log()}`)
}

function portOf(address: string): number {
  return Number(address.slice(address.lastIndexOf(':') + 1))
}

/** Waits until a health address answers 200; a child that ends before is the end of the demo. */
async function up(child: Child, what: string, url: string): Promise<void> {
  const state = { ended: false }
  void child.exited.then(() => (state.ended = true))
  await until(`${child.name} ${what}`, async () => {
    if (state.ended) throw new Error(`${child.name} ended before it ${what}`)
    return (await ask(url)).status === 200
  })
}

/** One number out of a page of metrics. */
async function sample(url: string, pattern: RegExp): Promise<number | undefined> {
  const found = pattern.exec((await ask(url)).body)?.[1]
  return found === undefined ? undefined : Number(found)
}

/** Which of these processes holds the socket with this local port? Linux tells in /proc; elsewhere undefined. */
function processOfPort(port: number, pids: number[]): number | undefined {
  const table = '/proc/net/tcp'
  if (!existsSync(table)) return undefined
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  const inodes = readFileSync(table, 'utf8')
    .split('\n')
    .map(line => line.trim().split(/\s+/))
    .filter(columns => columns[1]?.endsWith(`:${hex}`))
    .map(columns => `socket:[${columns[9] ?? ''}]`)
  return pids.find(pid => openFiles(pid).some(file => inodes.includes(file)))
}

function openFiles(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map(fd => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`)
      } catch {
        // Closed since it was listed.
        return ''
      }
    })
  } catch {
    return []
  }
}

function step(who: string, what: string): void {
  const at = ((performance.now() - startedAt) / 1000).toFixed(2).padStart(6)
  console.log(`${paint(2, `${at} s`)}  ${paint(36, who.padEnd(14))}  ${what}`)
}

function showLog(child: Child): void {
  const lines = child.log().trimEnd().split('\n').slice(-LOG_LINES)
  console.error(`\nThe last lines of ${child.name}:\n${lines.map(line => `  ${line}`).join('\n')}`)
}

async function leave(code: number): Promise<void> {
  if (leaving) return
  leaving = true
  for (const cleanUp of cleanUps.reverse()) {
    try {
      await cleanUp()
    } catch (error) {
      console.error(error)
    }
  }
  process.exit(code)
}
