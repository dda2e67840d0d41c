/**
 * The client's ways out to a server: direct, through a proxy, through a gateway, or through a gateway behind a proxy.
 * What comes after the way, TLS and the WebSocket upgrade under one bound, is common/transport/connect.
 *
 *   resolve, connect  →  CONNECT to the proxy  →  CONNECT to the gateway  →  (TLS to the server  →  WebSocket)
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

export type Gateway = {
  /** `http://host:port`, or `https://` with a certificate from one of `hopCa`. */
  url: string
  /** Headers of its CONNECT, such as `X-Gardener-Destination`. */
  headers?: Record<string, string>
}

export type WayOptions = {
  /** Default `env`. */
  proxy?: ProxySetting
  /** Complete value of `Proxy-Authorization`; beats user and password in the proxy's URL. */
  proxyAuthorization?: string
  /** Authorities of an `https:` proxy or gateway. Default: those built into Node (NODE_EXTRA_CA_CERTS adds to them). */
  hopCa?: ConnectionOptions['ca']
  gateway?: Gateway
  /** Where proxies are looked up. Default process.env. */
  env?: Environment
}

export type ConnectOptions = Omit<CommonOptions, 'way'> & WayOptions

/** One attempt. Rejects as common's `connect` does, and with `PROXY_REFUSED`. */
export function connectServer(server: ServerAddress, options: ConnectOptions): Promise<Connected> {
  return connect(server, {
    ...options,
    way: (connectTarget, attempt) => way(connectTarget, attempt, options)
  })
}

/** A socket that leads to the destination, by whatever is in between. */
async function way(connectTarget: ConnectTarget, attempt: Attempt, options: WayOptions): Promise<Socket> {
  const { proxyAuthorization, gateway } = options
  const { destination } = connectTarget
  const { signal, progress } = attempt
  const gatewayUrl = gateway && new URL(gateway.url)
  const next = gatewayUrl ? destinationOf(gatewayUrl) : destination
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
    const name = gatewayUrl ? `gateway ${gatewayUrl.origin}` : formatHostPort(destination)
    socket = await openSocket(next, name, gateway ? 'PROXY_REFUSED' : 'SERVER_UNREACHABLE', attempt)
  }
  if (!gatewayUrl) return socket

  const name = `gateway ${gatewayUrl.origin}`
  progress.code = 'PROXY_REFUSED'
  progress.waitingFor = name
  socket = await owned(socket, raw => secureHop(raw, gatewayUrl, name, options, signal))
  return owned(socket, secured =>
    requestHop(secured, {
      name,
      destination,
      signal,
      ...(gateway?.headers && { headers: gateway.headers })
    })
  )
}

/** TLS to a proxy or gateway, if it is asked for by https. Its failures are the hop's, not the server's. */
async function secureHop(
  socket: Socket,
  url: URL,
  name: string,
  { hopCa }: WayOptions,
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
