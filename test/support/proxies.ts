/**
 * Real proxies between client and server, each a child process with a configuration written for the test: haproxy and
 * nginx choosing by SNI without touching TLS, squid as a forward proxy. And an imitation of Gardener's Istio gateway, which
 * takes a plaintext CONNECT and routes by a header. Call `requireTool` before the real ones.
 */
import { once } from 'node:events'
import { chownSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { spawnSync } from 'node:child_process'
import type { Test } from 'tap'
import { reservePort } from './ports.js'
import { TEARDOWN_MS, accepting, start, type Child } from './child-process.js'

export type Address = { host: string; port: number }

export type Proxy = Address & {
  child: Child
  log(): string
  stop(): Promise<void>
}

/** Routes by SNI name. `fallback` gets what names nobody knows; without it they are refused. */
export type SniRoutes = { routes: Record<string, Address>; fallback?: Address; proxyProtocol?: 'v1' | 'v2' }

/** haproxy in `mode tcp` that looks into the ClientHello (`req.ssl_sni`). */
export function haproxy(t: Test, { routes, fallback, proxyProtocol }: SniRoutes): Promise<Proxy> {
  const send = proxyProtocol === 'v1' ? ' send-proxy' : proxyProtocol === 'v2' ? ' send-proxy-v2' : ''
  const names = Object.entries(routes)
  const backend = (name: string, to: Address) => [`backend ${name}`, `  server one ${authority(to)}${send}`]
  return startProxy(t, 'haproxy', (_, port) => ({
    command: 'haproxy',
    args: ['-db', '-f', 'haproxy.cfg'],
    files: {
      'haproxy.cfg': [
        'global',
        '  log stdout format raw local0',
        'defaults',
        '  mode tcp',
        '  log global',
        '  option tcplog',
        '  timeout connect 5s',
        '  timeout client 1h',
        '  timeout server 1h',
        'frontend sni',
        `  bind 127.0.0.1:${port}`,
        '  tcp-request inspect-delay 5s',
        '  tcp-request content accept if { req.ssl_hello_type 1 }',
        '  tcp-request content reject',
        ...names.map(([name], index) => `  use_backend route${index} if { req.ssl_sni -i ${name} }`),
        ...(fallback ? ['  default_backend fallback'] : []),
        ...names.flatMap(([, to], index) => backend(`route${index}`, to)),
        ...(fallback ? backend('fallback', fallback) : [])
      ].join('\n')
    }
  }))
}

/** nginx's stream module with `ssl_preread`. Its PROXY protocol is v1 only. */
export function nginx(t: Test, { routes, fallback, proxyProtocol }: SniRoutes): Promise<Proxy> {
  if (proxyProtocol === 'v2') throw new Error('nginx sends PROXY protocol v1 only')
  // A name without a route goes to a port that refuses: nginx has no "reject" for streams.
  const nowhere = '127.0.0.1:1'
  return startProxy(t, 'nginx', (directory, port) => ({
    command: 'nginx',
    args: ['-p', directory, '-e', 'stderr', '-c', join(directory, 'nginx.conf')],
    files: {
      'nginx.conf': [
        'load_module /usr/lib/nginx/modules/ngx_stream_module.so;',
        'daemon off;',
        'master_process off;',
        'error_log stderr info;',
        `pid ${join(directory, 'nginx.pid')};`,
        'events { worker_connections 4096; }',
        'stream {',
        '  map $ssl_preread_server_name $route {',
        ...Object.entries(routes).map(([name, to]) => `    ${name} ${authority(to)};`),
        `    default ${fallback ? authority(fallback) : nowhere};`,
        '  }',
        '  server {',
        `    listen 127.0.0.1:${port};`,
        '    ssl_preread on;',
        '    proxy_pass $route;',
        '    proxy_connect_timeout 5s;',
        '    proxy_timeout 1h;',
        ...(proxyProtocol ? ['    proxy_protocol on;'] : []),
        '  }',
        '}'
      ].join('\n')
    }
  }))
}

export type SquidOptions = {
  /** Basic authentication; absent: everybody on loopback may. */
  auth?: { user: string; password: string }
  /** Ports that CONNECT may go to; absent: all. */
  allowedPorts?: number[]
}

/** A forward proxy as companies run it. `url` holds no credentials. */
export async function squid(
  t: Test,
  { auth, allowedPorts }: SquidOptions = {}
): Promise<Proxy & { url: string; accessLog(): string }> {
  let accessLogPath = ''
  const proxy = await startProxy(t, 'squid', (directory, port) => {
    accessLogPath = join(directory, 'access.log')
    const hash =
      auth && spawnSync('openssl', ['passwd', '-apr1', auth.password], { encoding: 'utf8' }).stdout.trim()
    return {
      command: 'squid',
      args: ['-N', '-f', join(directory, 'squid.conf')],
      // Started as root squid becomes the user `proxy`, which must be able to write here.
      owner: 'proxy',
      files: {
        ...(auth ? { passwords: `${auth.user}:${hash ?? ''}\n` } : {}),
        'access.log': '',
        'squid.conf': [
          `http_port 127.0.0.1:${port}`,
          'pid_filename none',
          'cache deny all',
          'pinger_enable off',
          'netdb_filename none',
          'coredump_dir none',
          'shutdown_lifetime 0 seconds',
          `access_log stdio:${accessLogPath}`,
          `cache_log ${join(directory, 'cache.log')}`,
          `buffered_logs off`,
          ...(auth
            ? [
                `auth_param basic program /usr/lib/squid/basic_ncsa_auth ${join(directory, 'passwords')}`,
                'auth_param basic children 1',
                'acl known proxy_auth REQUIRED'
              ]
            : []),
          ...(allowedPorts
            ? [`acl allowed_ports port ${allowedPorts.join(' ')}`, 'http_access deny CONNECT !allowed_ports']
            : []),
          auth ? 'http_access allow known' : 'http_access allow localhost',
          'http_access deny all',
          ''
        ].join('\n')
      }
    }
  })
  return { ...proxy, url: `http://${authority(proxy)}`, accessLog: () => readFileSync(accessLogPath, 'utf8') }
}

type Plan = { command: string; args: string[]; files: Record<string, string>; owner?: string }

/** Writes the configuration, starts the program, waits until it accepts. */
async function startProxy(
  t: Test,
  name: string,
  plan: (directory: string, port: number) => Plan
): Promise<Proxy> {
  const directory = mkdtempSync(join(tmpdir(), `tendril-${name}-`))
  const state: { child?: Child } = {}
  t.teardown(async () => {
    await state.child?.stop(TEARDOWN_MS)
    if (!t.passing() && state.child) t.comment(`log of ${name}:\n${state.child.log()}`)
    rmSync(directory, { recursive: true, force: true })
  })
  const port = await reservePort()
  const { command, args, files, owner } = plan(directory, port)
  for (const [file, text] of Object.entries(files)) writeFileSync(join(directory, file), `${text}\n`)
  if (owner) giveTo(owner, directory, Object.keys(files))
  // The paths in a configuration may be relative to its directory.
  const inDirectory = args.map(arg => (arg in files ? join(directory, arg) : arg))
  const child = start(name, command, inDirectory)
  state.child = child
  await accepting({ host: '127.0.0.1', port }, child)
  return { host: '127.0.0.1', port, child, log: () => child.log(), stop: () => child.stop() }
}

function giveTo(user: string, directory: string, files: string[]): void {
  if (process.getuid?.() !== 0) return
  const entry = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find(line => line.startsWith(`${user}:`))
  if (!entry) return
  const [, , uid, gid] = entry.split(':')
  for (const path of [directory, ...files.map(file => join(directory, file))])
    chownSync(path, Number(uid), Number(gid))
}

function authority({ host, port }: Address): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

export type UpstreamProxy = Address & {
  url: string
  /** Heads it was sent, the newest last. */
  heads: string[]
  connections(): number
  close(): Promise<void>
}

/** Most bytes of a request head before the upstream proxy hangs up. */
const UPSTREAM_HEAD_LIMIT_BYTES = 64 * 1024

/**
 * Gardener's Istio gateway: plaintext, HTTP/1.0 or 1.1 CONNECT, whose target is thrown away. The header's value must match the
 * pattern and names the upstream; anything else is a redirect, as Istio's filter does to make probing painful.
 */
export async function upstreamProxy(
  t: { teardown(action: () => unknown): void },
  options: { header?: string; pattern: RegExp; route: (value: string) => Address | undefined }
): Promise<UpstreamProxy> {
  const { header = 'X-Gardener-Destination', pattern, route } = options
  const sockets = new Set<Socket>()
  const heads: string[] = []

  const serve = (near: Socket, head: string, rest: Buffer) => {
    heads.push(head)
    const [requestLine = '', ...fields] = head.split('\r\n')
    const field = fields.find(one => one.toLowerCase().startsWith(`${header.toLowerCase()}:`))
    const value = field?.slice(field.indexOf(':') + 1).trim() ?? ''
    const upstream =
      /^CONNECT \S+ HTTP\/1\.[01]$/.test(requestLine) && pattern.test(value) ? route(value) : undefined
    if (!upstream) {
      near.end(
        'HTTP/1.1 301 Moved Permanently\r\nlocation: https://localhost/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n'
      )
      return
    }
    const far = connect({ ...upstream, allowHalfOpen: true, noDelay: true })
    keep(far)
    far.once('connect', () => {
      near.write('HTTP/1.1 200 OK\r\n\r\n')
      if (rest.length > 0) far.write(rest)
      near.pipe(far)
      far.pipe(near)
    })
    far.once('error', () => {
      if (far.connecting || far.bytesRead === 0)
        near.end('HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n')
      else near.destroy()
    })
    near.once('close', () => far.destroy())
    far.once('close', () => near.destroySoon())
  }
  const keep = (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.once('close', () => sockets.delete(socket))
  }
  const server = createServer({ allowHalfOpen: true, noDelay: true }, near => {
    keep(near)
    let seen = Buffer.alloc(0)
    const onData = (chunk: Buffer) => {
      seen = Buffer.concat([seen, chunk])
      const end = seen.indexOf('\r\n\r\n')
      if (end === -1) {
        if (seen.length > UPSTREAM_HEAD_LIMIT_BYTES) near.destroy()
        return
      }
      near.off('data', onData).off('end', leave)
      near.pause()
      serve(near, seen.subarray(0, end).toString('latin1'), seen.subarray(end + 4))
    }
    // Who leaves before he has asked is not waited for.
    const leave = () => near.destroy()
    near.on('data', onData).on('end', leave)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const close = async () => {
    for (const socket of sockets) socket.destroy()
    if (!server.listening) return
    server.close()
    await once(server, 'close')
  }
  t.teardown(close)
  return {
    host: '127.0.0.1',
    port,
    url: `http://127.0.0.1:${port}`,
    heads,
    connections: () => sockets.size,
    close
  }
}
