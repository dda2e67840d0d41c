/**
 * What lies between client and server in the chaos tests: a relay whose far end can be moved elsewhere, a haproxy that
 * is reloaded as operators do it (`-sf`), and a hop that leads through squid.
 */
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { requestHop } from '@tendril/shoot-client/transport/hop'
import { type Cuttable, cuttable } from '../support/cuttable.js'
import { type Child, accepting, start, startForTest } from '../support/child-process.js'
import { reservePort } from '../support/ports.js'
import type { Address } from '../support/proxies.js'

export type NetworkPath = Cuttable & {
  /** New connections go there from now on; those there are stay where they are. */
  lead(to: Address): void
}

/** A relay to `to` that can be cut, frozen, and moved. */
export async function networkPath(t: Test, to: Address): Promise<NetworkPath> {
  let current = to
  const relay = await cuttable(t, {
    get host() {
      return current.host
    },
    get port() {
      return current.port
    }
  })
  return Object.assign(relay, { lead: (next: Address) => void (current = next) })
}

/** haproxy in TCP mode before `to`. A reload ends connections of the old process within 200 ms, as `hard-stop-after` does. */
export async function reloadingHaproxy(
  t: Test,
  to: Address
): Promise<Address & { reload(): Promise<void>; log(): string }> {
  const directory = mkdtempSync(join(tmpdir(), 'tendril-haproxy-'))
  const port = await reservePort()
  const config = join(directory, 'haproxy.cfg')
  writeFileSync(
    config,
    [
      'global',
      '  hard-stop-after 200ms',
      'defaults',
      '  mode tcp',
      '  timeout connect 5s',
      '  timeout client 1h',
      '  timeout server 1h',
      'listen tunnel',
      `  bind 127.0.0.1:${port}`,
      `  server seed ${to.host}:${to.port}`,
      ''
    ].join('\n')
  )
  const children: Child[] = []
  t.teardown(async () => {
    for (const child of children) await child.stop()
    rmSync(directory, { recursive: true, force: true })
  })
  const launch = async (old?: Child): Promise<void> => {
    const child = start('haproxy', 'haproxy', ['-db', '-f', config, ...(old ? ['-sf', String(old.pid)] : [])])
    children.push(child)
    await accepting({ host: '127.0.0.1', port }, child)
  }
  await launch()
  return {
    host: '127.0.0.1',
    port,
    log: () => children.map(child => child.log()).join(''),
    async reload() {
      const old = children.at(-1) as Child
      await launch(old)
      await old.exited
    }
  }
}

/** A server of a balancer; with `admin` it is asked there every 200 ms whether it may be sent anybody. */
export type Backend = Address & { admin?: { base: string; path: string } }

/**
 * haproxy on `port`, which sends each connection to any of `servers`, as a Service with several endpoints does. One that
 * refuses a connection, or does not answer 200 when asked, is passed over.
 */
export async function randomHaproxy(t: Test, port: number, servers: readonly Backend[]): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'tendril-haproxy-'))
  const config = join(directory, 'haproxy.cfg')
  const check = ({ admin }: Backend): string =>
    admin ? ` check port ${new URL(admin.base).port} inter 200ms fall 1 rise 1` : ''
  const asked = servers.find(({ admin }) => admin)?.admin
  const lines = [
    'defaults',
    '  mode tcp',
    '  option redispatch',
    '  retries 3',
    '  timeout connect 5s',
    '  timeout client 1h',
    '  timeout server 1h',
    // Slow is not unready: a machine at its limit answers late, and somebody must be left to send callers to.
    '  timeout check 5s',
    'listen tunnel',
    `  bind 127.0.0.1:${port}`,
    '  balance random',
    ...(asked ? [`  option httpchk GET ${asked.path}`] : []),
    ...servers.map((server, at) => `  server s${at} ${server.host}:${server.port}${check(server)}`),
    ''
  ]
  writeFileSync(config, lines.join('\n'))
  const child = startForTest(t, 'haproxy', 'haproxy', ['-db', '-f', config])
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  await accepting({ host: '127.0.0.1', port }, child)
}

/** Whoever connects here gets to `to` through the forward proxy, with a CONNECT of its own. */
export async function hopThrough(t: Test, proxy: Address, to: Address): Promise<Address> {
  const sockets = new Set<Socket>()
  const keep = (socket: Socket): void => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.once('close', () => sockets.delete(socket))
  }
  const server = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, near => {
    keep(near)
    const far = connect({ ...proxy, allowHalfOpen: true, noDelay: true })
    keep(far)
    far.once('connect', () => {
      requestHop(far, {
        name: 'squid',
        destination: to,
        headers: {},
        signal: new AbortController().signal
      }).then(
        through => {
          near.pipe(through)
          through.pipe(near)
        },
        () => near.destroy()
      )
    })
    near.once('close', () => far.destroy())
    far.once('close', () => near.destroy())
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(async () => {
    for (const socket of sockets) socket.destroy()
    server.close()
    await once(server, 'close')
  })
  return { host: '127.0.0.1', port: (server.address() as AddressInfo).port }
}
