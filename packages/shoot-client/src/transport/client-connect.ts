/**
 * The client's connections out to a server: direct, through a proxy, through an upstream proxy, or through an upstream
 * proxy behind a proxy. What comes after that, TLS and the WebSocket upgrade under one bound, is
 * common/transport/connect.
 *
 *   resolve, connect  →  CONNECT to the proxy  →  CONNECT to the upstream proxy  →  (TLS to the server  →  WebSocket)
 */
import type { Socket } from 'node:net'
import type { ConnectionOptions } from 'node:tls'
import { TunnelError } from '@tendril/common'
import { owned } from '@tendril/common/owned'
import {
  type Attempt,
  type ConnectOptions as CommonOptions,
  type Connected,
  type ServerAddress,
  connect,
  openSocket
} from '@tendril/common/transport/connect'
import { type ConnectTarget, destinationOf, hostOf } from '@tendril/common/transport/destination'
import { secure } from '@tendril/common/transport/secure'
import { formatHostPort } from '@tendril/common/wire/host-port'
import { requestHop } from './hop.js'
import { basicAuthorization, proxyTo } from './proxy.js'
import type { Environment, ProxySetting } from './proxy.js'

export type { ServerAddress } from '@tendril/common/transport/connect'

export type UpstreamProxy = {
  /** `http://host:port`, or `https://` with a certificate from one of `hopCa`. */
  url: string
  /** Headers of its CONNECT, such as `X-Gardener-Destination`. */
  headers?: Record<string, string>
}

export type ProxyOptions = {
  /** Default `env`. */
  proxy?: ProxySetting
  /** Complete value of `Proxy-Authorization`; beats user and password in the proxy's URL. */
  proxyAuthorization?: string
  /**
   * Authorities of an `https:` proxy or upstream proxy. Default: those built into Node (NODE_EXTRA_CA_CERTS adds to
   * them).
   */
  hopCa?: ConnectionOptions['ca']
  upstreamProxy?: UpstreamProxy
  /** Where proxies are looked up. Default process.env. */
  env?: Environment
}

export type ConnectOptions = Omit<CommonOptions, 'connector'> & ProxyOptions

/** One attempt. Rejects as common's `connect` does, and with `PROXY_REFUSED`. */
export function connectServer(server: ServerAddress, options: ConnectOptions): Promise<Connected> {
  return connect(server, {
    ...options,
    connector: (connectTarget, attempt) => connectThroughProxies(connectTarget, attempt, options)
  })
}

/** A socket that leads to the destination, by whatever is in between. */
async function connectThroughProxies(
  connectTarget: ConnectTarget,
  attempt: Attempt,
  options: ProxyOptions
): Promise<Socket> {
  const { proxyAuthorization, upstreamProxy } = options
  const { destination } = connectTarget
  const { signal, progress } = attempt
  const upstreamUrl = upstreamProxy && new URL(upstreamProxy.url)
  const next = upstreamUrl ? destinationOf(upstreamUrl) : destination
  const { proxy } = proxyTo(connectTarget, options)

  let socket: Socket
  if (proxy) {
    const name = `proxy ${proxy.protocol}//${proxy.host}`
    const authorization = proxyAuthorization ?? basicAuthorization(proxy)
    const headers: Record<string, string> =
      authorization === undefined ? {} : { 'Proxy-Authorization': authorization }
    socket = await openSocket(destinationOf(proxy), name, 'PROXY_REFUSED', attempt)
    socket = await owned(socket, raw => secureHop(raw, proxy, name, options, signal))
    socket = await owned(socket, secured => requestHop(secured, { name, destination: next, headers, signal }))
  } else {
    const name = upstreamUrl ? `upstream proxy ${upstreamUrl.origin}` : formatHostPort(destination)
    socket = await openSocket(next, name, upstreamProxy ? 'PROXY_REFUSED' : 'SERVER_UNREACHABLE', attempt)
  }
  if (!upstreamUrl) return socket

  const name = `upstream proxy ${upstreamUrl.origin}`
  progress.code = 'PROXY_REFUSED'
  progress.waitingFor = name
  socket = await owned(socket, raw => secureHop(raw, upstreamUrl, name, options, signal))
  return owned(socket, secured =>
    requestHop(secured, {
      name,
      destination,
      signal,
      ...(upstreamProxy?.headers && { headers: upstreamProxy.headers })
    })
  )
}

/** TLS to a proxy or upstream proxy, if it is asked for by https. Its failures are the hop's, not the server's. */
async function secureHop(
  socket: Socket,
  url: URL,
  name: string,
  { hopCa }: ProxyOptions,
  signal: AbortSignal
): Promise<Socket> {
  if (url.protocol !== 'https:') return socket
  try {
    return await secure(socket, {
      serverName: hostOf(url),
      signal,
      ...(hopCa === undefined
        ? { authoritiesAre: 'among those built into Node (proxyCa or NODE_EXTRA_CA_CERTS names others)' }
        : { ca: hopCa, authoritiesAre: 'in proxyCa' })
    })
  } catch (error) {
    if (signal.aborted) throw error
    throw new TunnelError('PROXY_REFUSED', `${name}: ${TunnelError.from(error).message}`, { cause: error })
  }
}
