/**
 * Which proxy leads to a server: the configured one, or what HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say.
 * Decides only; opens nothing. The variables have no standard: where curl and Go agree we do as they do, and lower
 * case wins as in curl.
 */
import { BlockList, isIP, isIPv6 } from 'node:net'
import { TunnelError } from '@tendril/common'
import { PERCENT_RULE, isPercentEncoded } from '@tendril/common/config/fields'
import { type ConnectTarget, type Destination, destinationOf } from '@tendril/common/transport/destination'

export type Environment = Record<string, string | undefined>

/** `env`: by the environment; `none`: never; else the URL of the proxy. */
export type ProxySetting = 'env' | 'none' | (string & {})

/** Which proxy leads to a destination, and what decided it. */
export type ProxyChoice = {
  /** Undefined: a direct connection. */
  proxy: URL | undefined
  /** `proxy` (the key), the variable that decided, or `loopback`; undefined when nothing is set. */
  source: string | undefined
}

/** The proxy on the way to a server, or to the upstream proxy in front of it. Throws as `chooseProxy` does. */
export function proxyTo(
  { destination, host, secured }: ConnectTarget,
  {
    proxy = 'env',
    upstreamProxy,
    env
  }: { proxy?: ProxySetting; upstreamProxy?: { url: string }; env?: Environment }
): ProxyChoice {
  // An upstream proxy is asked with CONNECT and carries TLS: that is what HTTPS_PROXY is about.
  if (upstreamProxy) return chooseProxy([destinationOf(new URL(upstreamProxy.url))], true, proxy, env)
  return chooseProxy([{ host, port: destination.port }, destination], secured, proxy, env)
}

/**
 * The proxy for a connection, and what decided it.
 * @param destinations every name of the other end (the server's, and the address dialled in its place): NO_PROXY may
 * know it by any of them
 * @param secure whether TLS goes through it (`wss:`): then HTTPS_PROXY counts, else HTTP_PROXY
 * @throws TunnelError `BAD_CONFIG` when what is set is no usable proxy URL. The URL may hold a password and is not
 * shown.
 */
export function chooseProxy(
  destinations: readonly Destination[],
  secure: boolean,
  setting: ProxySetting,
  env: Environment = process.env
): ProxyChoice {
  if (setting === 'none') return { proxy: undefined, source: 'proxy' }
  if (setting !== 'env') return { proxy: readProxy(setting, 'proxy'), source: 'proxy' }
  const named = secure ? ['https_proxy', 'HTTPS_PROXY'] : ['http_proxy', 'HTTP_PROXY']
  const source = [...named, ...ALL_PROXY].find(
    name => env[name] && !isForged(name, env) && !isForOthers(name, env)
  )
  if (source === undefined) return { proxy: undefined, source }
  if (destinations.some(({ host }) => isLocal(host))) return { proxy: undefined, source: 'loopback' }
  const exempting = env['no_proxy'] ? 'no_proxy' : 'NO_PROXY'
  if (destinations.some(one => isExempt(one, env[exempting] ?? '')))
    return { proxy: undefined, source: exempting }
  return { proxy: readProxy(env[source] ?? '', source), source }
}

const ALL_PROXY = ['all_proxy', 'ALL_PROXY']

/** Variables that name a SOCKS proxy and are ignored for it. */
export function ignoredVariables(setting: ProxySetting, env: Environment = process.env): string[] {
  return setting === 'env' ? ALL_PROXY.filter(name => isForOthers(name, env)) : []
}

/** A CGI server puts the request header `Proxy:` into HTTP_PROXY (CVE-2016-5385, "httpoxy"). */
function isForged(name: string, env: Environment): boolean {
  return name === 'HTTP_PROXY' && env['REQUEST_METHOD'] !== undefined
}

/**
 * ALL_PROXY is for every program and scheme: a SOCKS proxy there is for those that can use it, as for Go it is for
 * none.
 */
function isForOthers(name: string, env: Environment): boolean {
  return /^all_proxy$/i.test(name) && /^socks/i.test(env[name] ?? '')
}

function readProxy(text: string, source: string): URL {
  const written = text.includes('://') ? text : `http://${text}`
  if (!URL.canParse(written)) throw new TunnelError('BAD_CONFIG', `${source} is not the URL of a proxy`)
  const url = new URL(written)
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new TunnelError(
      'BAD_CONFIG',
      `${source} is a ${url.protocol}// proxy, only http:// and https:// are supported`
    )
  }
  if (!isPercentEncoded(url.username) || !isPercentEncoded(url.password))
    throw new TunnelError('BAD_CONFIG', `${source}: ${PERCENT_RULE}`)
  return url
}

/**
 * `Proxy-Authorization: Basic` from the user and password of a proxy's URL (RFC 7617). They are bytes, percent-encoded:
 * whatever the proxy takes for a password can be written.
 * @throws TunnelError `BAD_CONFIG` for a % that encodes nothing. Neither is shown.
 */
export function basicAuthorization(url: URL): string | undefined {
  if (url.username === '' && url.password === '') return undefined
  const credentials = Buffer.concat([
    decodePercent(url.username),
    Buffer.from(':'),
    decodePercent(url.password)
  ])
  return `Basic ${credentials.toString('base64')}`
}

function decodePercent(text: string): Buffer {
  if (!isPercentEncoded(text)) throw new TunnelError('BAD_CONFIG', `the proxy's URL: ${PERCENT_RULE}`)
  // A URL is ASCII once it is parsed.
  const bytes = text.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16))
  )
  return Buffer.from(bytes, 'latin1')
}

const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8, 'ipv4')
loopback.addAddress('::1', 'ipv6')

function familyOf(address: string): 'ipv4' | 'ipv6' {
  return isIPv6(address) ? 'ipv6' : 'ipv4'
}

/** As in Go: the environment's proxy is never asked for this machine, which is another one there. */
function isLocal(host: string): boolean {
  return /^localhost\.?$/i.test(host) || (isIP(host) !== 0 && loopback.check(host, familyOf(host)))
}

/**
 * Whether NO_PROXY covers a destination. Entries, by commas or spaces: `*`; a name, which covers its subdomains
 * (`example.com`, and the same with a leading `.`; `*.example.com` covers only those); an address; a CIDR; the
 * last but the CIDR also with `:port`.
 */
export function isExempt({ host, port }: Destination, noProxy: string): boolean {
  const name = host.toLowerCase().replace(/\.$/, '')
  return noProxy
    .toLowerCase()
    .split(/[\s,]+/)
    .filter(entry => entry !== '')
    .some(
      entry =>
        entry === '*' || (isIP(name) ? coversAddress(entry, name, port) : coversName(entry, name, port))
    )
}

function coversName(entry: string, name: string, port: number): boolean {
  const [, pattern = '', onlyPort] = /^([^:]*?)\.?(?::(\d+))?$/.exec(entry) ?? []
  if (pattern === '' || (onlyPort !== undefined && Number(onlyPort) !== port)) return false
  if (pattern.startsWith('*.')) return name.endsWith(pattern.slice(1))
  const domain = pattern.replace(/^\./, '')
  return name === domain || name.endsWith(`.${domain}`)
}

function coversAddress(entry: string, address: string, port: number): boolean {
  const [network = '', bits] = entry.split('/')
  if (bits !== undefined) return coversNetwork(network, Number(bits), address)
  if (isIP(entry) !== 0) return sameAddress(entry, address)
  const [, bracketed, plain = '', onlyPort] = /^(?:\[(.+)\]|([^:]+))(?::(\d+))?$/.exec(entry) ?? []
  return sameAddress(bracketed ?? plain, address) && (onlyPort === undefined || Number(onlyPort) === port)
}

function coversNetwork(network: string, bits: number, address: string): boolean {
  const width = isIPv6(network) ? 128 : 32
  if (isIP(network) === 0 || familyOf(network) !== familyOf(address) || !(bits >= 0 && bits <= width))
    return false
  const list = new BlockList()
  list.addSubnet(network, bits, familyOf(network))
  return list.check(address, familyOf(address))
}

function sameAddress(entry: string, address: string): boolean {
  return coversNetwork(entry, isIPv6(entry) ? 128 : 32, address)
}
