/**
 * What the files of the system say about names: /etc/resolv.conf, /etc/hosts and the `hosts:` line of
 * /etc/nsswitch.conf, read again when they change. Parsing only; who asks nameservers is dns-lookup.ts. Rules:
 * resolv.conf(5), hosts(5), nsswitch.conf(5).
 */
import { readFileSync, statSync } from 'node:fs'
import { isIP, isIPv6 } from 'node:net'
import type { Clock } from './clock.js'

/** `resolv.conf`: whom to ask, and in which domains. */
export type ResolvConf = {
  /** `address` or `address:port`, brackets around IPv6 with a port. Never empty. */
  nameservers: string[]
  /** Domains in which a short name is looked for, in order, without a final dot. */
  search: string[]
  /** A name with fewer dots than this is looked for in `search` first. */
  ndots: number
  /** How long one nameserver has for one answer. */
  timeoutMs: number
  /** How often the whole list of nameservers is asked. */
  attempts: number
  /** Each question begins with another nameserver. */
  rotate: boolean
  /** Ask for IPv4 addresses only. */
  noAaaa: boolean
  /** What is written there and a resolver inside this process cannot do. */
  unsupported: string[]
}

export type HostsSource = 'files' | 'dns'

/** Limits of resolv.conf(5), and a bound on how much of a file is read. */
const MAX_NAMESERVERS = 8
const MAX_SEARCH = 32
const MAX_NDOTS = 15
const MAX_TIMEOUT_S = 30
const MAX_ATTEMPTS = 5
const FILE_LIMIT_BYTES = 4 << 20

/** glibc waits 5 s for each answer, longer than a whole dial may take (4 s). */
const DEFAULT_TIMEOUT_MS = 2_000
const DEFAULT_ATTEMPTS = 2

/**
 * Reads the text of resolv.conf. `env` may override it, as in glibc: LOCALDOMAIN the domains, RES_OPTIONS the options.
 */
export function parseResolvConf(
  text: string,
  env: Readonly<Record<string, string | undefined>> = {}
): ResolvConf {
  const conf: ResolvConf = {
    nameservers: [],
    search: [],
    ndots: 1,
    timeoutMs: DEFAULT_TIMEOUT_MS,
    attempts: DEFAULT_ATTEMPTS,
    rotate: false,
    noAaaa: false,
    unsupported: []
  }
  for (const line of text.split('\n')) {
    const [keyword, ...values] = line.trim().split(/\s+/)
    if (keyword === 'nameserver' && values[0] !== undefined) readNameserver(conf, values[0])
    // The last of `domain` and `search` counts.
    else if (keyword === 'domain') conf.search = values.slice(0, 1)
    else if (keyword === 'search') conf.search = values
    else if (keyword === 'options') for (const option of values) readOption(conf, option)
  }
  const { LOCALDOMAIN: domains, RES_OPTIONS: options } = env
  if (domains) conf.search = domains.trim().split(/\s+/)
  if (options) for (const option of options.trim().split(/\s+/)) readOption(conf, option)
  conf.search = conf.search
    .map(domain => domain.replace(/\.$/, ''))
    .filter(domain => domain !== '')
    .slice(0, MAX_SEARCH)
  if (conf.nameservers.length === 0) conf.nameservers = ['127.0.0.1']
  return conf
}

function readNameserver({ nameservers, unsupported }: ResolvConf, text: string): void {
  const nameserver = nameserverOf(text)
  // Node drops the zone of a link-local address, and without it nobody is reached.
  if (nameserver === undefined || text.includes('%')) unsupported.push(`nameserver ${text}`)
  else if (nameservers.length < MAX_NAMESERVERS) nameservers.push(nameserver)
}

/** An address, or one with a port as `192.0.2.1:5353` or `[2001:db8::1]:5353`. Undefined when it is neither. */
export function nameserverOf(text: string): string | undefined {
  if (isIP(text) !== 0) return text
  const [, bracketed, plain = '', port] = /^(?:\[([^\]]+)\]|([0-9.]+)):([0-9]{1,5})$/.exec(text) ?? []
  const fits = bracketed === undefined ? isIP(plain) === 4 : isIPv6(bracketed)
  return fits && Number(port) >= 1 && Number(port) <= 65_535 ? text : undefined
}

function readOption(conf: ResolvConf, option: string): void {
  const [name = '', value = ''] = option.split(':')
  const number = /^[0-9]{1,6}$/.test(value) ? Number(value) : undefined
  if (name === 'ndots' && number !== undefined) conf.ndots = Math.min(number, MAX_NDOTS)
  else if (name === 'timeout' && number) conf.timeoutMs = Math.min(number, MAX_TIMEOUT_S) * 1000
  else if (name === 'attempts' && number) conf.attempts = Math.min(number, MAX_ATTEMPTS)
  else if (name === 'rotate') conf.rotate = true
  else if (name === 'no-aaaa') conf.noAaaa = true
  else if (name === 'use-vc') conf.unsupported.push('options use-vc')
}

/** Reads the text of a hosts file: addresses by name, in lower case and without a final dot. */
export function parseHosts(text: string): Map<string, string[]> {
  const hosts = new Map<string, string[]>()
  for (const line of text.split('\n')) {
    const [address = '', ...names] = line.replace(/#.*/, '').trim().split(/\s+/)
    if (isIP(address) === 0 || address.includes('%')) continue
    for (const written of names) {
      const name = written.toLowerCase().replace(/\.$/, '')
      const addresses = hosts.get(name)
      if (!addresses) hosts.set(name, [address])
      else if (!addresses.includes(address)) addresses.push(address)
    }
  }
  return hosts
}

/**
 * systemd's `resolve` is asked over its nameserver in resolv.conf; `myhostname` answers what hosts files of pods hold.
 */
const ANSWERED_HERE = ['files', 'dns', 'resolve', 'myhostname']

/** The `hosts:` line of nsswitch.conf: which sources in which order, and those that a resolver in here has not. */
export function parseNsswitch(text: string): { order: HostsSource[]; unsupported: string[] } {
  const line = /^[ \t]*hosts:(.*)$/m.exec(text)?.[1]?.replace(/#.*/, '') ?? ' files dns'
  const services = line
    .replace(/\[[^\]]*\]/g, ' ')
    .trim()
    .split(/\s+/)
    .filter(service => service !== '')
  const unsupported = services
    .filter(service => !ANSWERED_HERE.includes(service))
    .map(service => `nsswitch.conf "hosts: … ${service}"`)
  const order = services.map(service => (service === 'files' ? 'files' : 'dns'))
  return { order: [...new Set(order.filter((_, at) => services[at] !== 'myhostname'))], unsupported }
}

export type ResolverPaths = { resolvConf: string; hosts: string; nsswitch: string }

export const SYSTEM_PATHS: ResolverPaths = {
  resolvConf: '/etc/resolv.conf',
  hosts: '/etc/hosts',
  nsswitch: '/etc/nsswitch.conf'
}

/** How often the files are looked at, at most. */
const CHECK_INTERVAL_MS = 1_000

/** The three files as they are now. One that is not there is empty, as for glibc. */
export class ResolverFiles {
  readonly #paths: ResolverPaths
  readonly #clock: Clock
  readonly #env: Readonly<Record<string, string | undefined>>
  #checkedAtMs = -Infinity
  #stamp = ''
  #resolvConf!: ResolvConf
  #hosts!: Map<string, string[]>
  #nsswitch!: ReturnType<typeof parseNsswitch>

  constructor(
    clock: Clock,
    paths: ResolverPaths = SYSTEM_PATHS,
    env: Readonly<Record<string, string | undefined>> = process.env
  ) {
    this.#paths = paths
    this.#clock = clock
    this.#env = env
    this.#refresh()
  }

  get resolvConf(): ResolvConf {
    this.#refresh()
    return this.#resolvConf
  }

  get hosts(): ReadonlyMap<string, readonly string[]> {
    this.#refresh()
    return this.#hosts
  }

  get order(): readonly HostsSource[] {
    this.#refresh()
    return this.#nsswitch.order
  }

  /** What is asked for there that only getaddrinfo can do. */
  get unsupported(): readonly string[] {
    this.#refresh()
    return [...this.#nsswitch.unsupported, ...this.#resolvConf.unsupported]
  }

  #refresh(): void {
    const now = this.#clock.now()
    if (now - this.#checkedAtMs < CHECK_INTERVAL_MS) return
    this.#checkedAtMs = now
    const { resolvConf, hosts, nsswitch } = this.#paths
    const stamp = [resolvConf, hosts, nsswitch].map(stampOf).join()
    if (stamp === this.#stamp) return
    this.#stamp = stamp
    this.#resolvConf = parseResolvConf(readOrEmpty(resolvConf), this.#env)
    this.#hosts = parseHosts(readOrEmpty(hosts))
    this.#nsswitch = parseNsswitch(readOrEmpty(nsswitch))
  }
}

/** Changes when the file does. Kubernetes and editors replace files: another inode. */
function stampOf(path: string): string {
  const found = statSync(path, { throwIfNoEntry: false })
  return found ? `${found.ino} ${found.mtimeMs} ${found.size}` : 'none'
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, 'latin1').slice(0, FILE_LIMIT_BYTES)
  } catch {
    return ''
  }
}
