/**
 * OpenVPN over TCP between two network namespaces: Gardener's data path (TUN, AES-256-GCM, TLS with certificates)
 * without its Envoy and its gateway, so faster than what runs there. Callers and server are in the first
 * namespace, client and target in the second; a veth pair is the network between them.
 */
import { existsSync, readFileSync } from 'node:fs'
import { program, type Contender, type Pki } from '../contender.js'
import { reservePort } from '../../support/ports.js'
import { ensureInstalled, runToEnd, type Child } from '../processes.js'

const NAMESPACE = 'tendril-bench'
/** RFC 5737 and RFC 2544 ranges: nothing real is shadowed, and the namespaces see nothing else anyway. */
const VETH = { near: '192.0.2.1', far: '192.0.2.2' }
const TUNNEL = { near: '198.18.0.1', far: '198.18.0.2' }
const READY_TIMEOUT_MS = 30_000

const namespaceOf = (side: 'near' | 'far'): string => `${NAMESPACE}-${side}-${process.pid}`
const inside = (side: 'near' | 'far'): string[] => ['ip', 'netns', 'exec', namespaceOf(side)]

export const openvpn: Contender = {
  name: 'openvpn',
  title:
    'OpenVPN over TCP between two network namespaces, TUN, AES-256-GCM, data channel in user space; callers use the ' +
    'target’s address, without the CONNECT front and the second TLS hop that Gardener puts before it',
  async available() {
    if (process.getuid?.() !== 0) return 'needs root for network namespaces'
    if (!existsSync('/dev/net/tun')) return 'no /dev/net/tun'
    for (const [command, debianPackage] of [
      ['openvpn', 'openvpn'],
      ['ip', 'iproute2']
    ] as const) {
      const installed = ensureInstalled(command, debianPackage)
      if (installed !== true) return installed
    }
    try {
      removeStale()
      runToEnd(['ip', 'netns', 'add', namespaceOf('near')])
      runToEnd(['ip', 'netns', 'del', namespaceOf('near')])
    } catch (error) {
      return `no network namespaces: ${(error as Error).message}`
    }
    return true
  },

  async start({ pki, processes, target, line }) {
    layNetwork()
    process.once('exit', removeNetwork)
    const stop = async (): Promise<void> => {
      process.off('exit', removeNetwork)
      removeNetwork()
    }
    try {
      const port = await reservePort()
      const startMs = performance.now()
      const near = processes.program('openvpn-server', [
        ...inside('near'),
        ...openvpnCommand(pki, 'near', [
          '--proto',
          'tcp-server',
          '--local',
          VETH.near,
          '--port',
          `${port}`,
          '--tls-server',
          '--dh',
          'none'
        ])
      ])
      await processes.until(near, async () => /Listening for incoming TCP/.test(logOf(near)))
      const nearMs = performance.now() - startMs

      const hop = await line({ host: VETH.near, port }, { host: VETH.near, prefix: inside('near') })
      const farStartMs = performance.now()
      const far = processes.program('openvpn-client', [
        ...inside('far'),
        ...openvpnCommand(pki, 'far', [
          '--proto',
          'tcp-client',
          '--remote',
          hop.host,
          `${hop.port}`,
          '--nobind',
          '--tls-client'
        ])
      ])
      for (const end of [near, far]) {
        await processes.until(
          end,
          async () => /Initialization Sequence Completed/.test(logOf(end)),
          READY_TIMEOUT_MS
        )
      }
      const farMs = performance.now() - farStartMs

      const address = await target({ host: TUNNEL.far, prefix: inside('far') })
      return {
        endpoint: { kind: 'tcp', ...address },
        loadPrefix: inside('near'),
        programs: [program(near, 'near'), program(far, 'far')],
        readyMs: { near: nearMs, far: farMs },
        stop
      }
    } catch (error) {
      await processes.stop()
      await stop()
      throw error
    }
  }
}

function openvpnCommand(pki: Pki, side: 'near' | 'far', role: readonly string[]): string[] {
  const files = side === 'near' ? pki.server : pki.client
  const [here, there] = side === 'near' ? [TUNNEL.near, TUNNEL.far] : [TUNNEL.far, TUNNEL.near]
  return [
    'openvpn',
    ...['--dev', 'tun', '--ifconfig', here, there],
    ...role,
    ...['--ca', files.ca, '--cert', files.cert, '--key', files.key],
    ...['--data-ciphers', 'AES-256-GCM', '--cipher', 'AES-256-GCM', '--auth', 'SHA256'],
    ...['--disable-dco', '--keepalive', '10', '60', '--persist-tun', '--verb', '3']
  ]
}

const logOf = (child: Child): string => (child.log ? readFileSync(child.log, 'utf8') : '')

function layNetwork(): void {
  removeNetwork()
  const [near, far] = [namespaceOf('near'), namespaceOf('far')]
  for (const command of [
    `ip netns add ${near}`,
    `ip netns add ${far}`,
    `ip -n ${near} link add veth0 type veth peer name veth0 netns ${far}`,
    `ip -n ${near} addr add ${VETH.near}/30 dev veth0`,
    `ip -n ${far} addr add ${VETH.far}/30 dev veth0`,
    ...[near, far].flatMap(name => [`ip -n ${name} link set lo up`, `ip -n ${name} link set veth0 up`])
  ]) {
    runToEnd(command.split(' '))
  }
}

/** Safe to call twice, and when nothing was laid. Interfaces go with their namespaces. */
function removeNetwork(): void {
  for (const side of ['near', 'far'] as const) removeNamespace(namespaceOf(side))
}

function removeNamespace(name: string): void {
  if (!existsSync(`/run/netns/${name}`)) return
  try {
    runToEnd(['ip', 'netns', 'del', name])
  } catch {
    // Someone else removed it between the two lines.
  }
}

/** Namespaces of a bench that was killed before it could clean up. */
function removeStale(): void {
  for (const line of runToEnd(['ip', 'netns', 'list']).split('\n')) {
    const [name = ''] = line.split(' ')
    const owner = /^tendril-bench-(?:near|far)-(\d+)$/.exec(name)?.[1]
    if (owner && !existsSync(`/proc/${owner}`)) removeNamespace(name)
  }
}
