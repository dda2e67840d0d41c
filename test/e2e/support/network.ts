/**
 * The two networks of the end-to-end test and the router between them, as Linux network namespaces. The shoot may
 * open connections to one port of the seed; the router drops every new connection the other way, and the seed has
 * no route there either.
 *
 *     seed 10.1.0.2 ── 10.1.0.1 router 10.2.0.1 ── 10.2.0.2 shoot: nodes 10.250.0.0/24 and fd00:10:250::/64,
 *                                                                   pods 100.96.0.0/24
 */
import { must, run, type Namespace } from './namespace-process.js'

export const SEED_ADDRESS = '10.1.0.2'
/** One node of each family, so that kube-apiserver asks for IPv6 targets too. */
export const NODE_ADDRESSES = ['10.250.0.11', 'fd00:10:250::12'] as const
/** Nodes of both families, and pods. */
export const SHOOT_NETWORKS = ['10.250.0.0/24', 'fd00:10:250::/64', '100.96.0.0/24'] as const
/** The only port of the seed that the shoot may reach: the SNI proxy's. */
export const SEED_PORT = 443

const ROUTER_RULES = `
table inet e2e {
  counter into_shoot {}
  chain cut { type filter hook forward priority -10; policy accept; }
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "shoot" oifname "seed" tcp dport ${SEED_PORT} accept
    iifname "seed" oifname "shoot" counter name into_shoot drop
  }
  chain postrouting { type nat hook postrouting priority 100; oifname "seed" masquerade; }
}
`

export type Network = {
  seed: Namespace
  shoot: Namespace
  /** How many packets of new connections into the shoot the router has dropped. */
  droppedIntoShoot(): Promise<number>
  /** From here on the router passes nothing at all, and tells nobody. `heal` undoes it. */
  cut(): Promise<void>
  heal(): Promise<void>
  /** Lets the seed reach the shoot after all: for the run without a tunnel. */
  open(): Promise<void>
  /** Ends what still runs inside, and removes the namespaces. */
  close(): Promise<void>
}

/** Makes the namespaces, named after `prefix`; needs root. */
export async function createNetwork(prefix: string): Promise<Network> {
  const network = existingNetwork(prefix)
  const [seed, shoot, router] = [`${prefix}-seed`, `${prefix}-shoot`, `${prefix}-router`]
  try {
    for (const name of [seed, shoot, router]) {
      await must(['ip', 'netns', 'add', name])
      await must(['ip', '-n', name, 'link', 'set', 'lo', 'up'])
    }
    await connect(router, 'seed', ['10.1.0.1/24', 'fd00:10:1::1/64'], seed, [
      `${SEED_ADDRESS}/24`,
      'fd00:10:1::2/64'
    ])
    await connect(router, 'shoot', ['10.2.0.1/24', 'fd00:10:2::1/64'], shoot, [
      '10.2.0.2/24',
      'fd00:10:2::2/64'
    ])
    await must(['ip', '-n', shoot, 'route', 'add', 'default', 'via', '10.2.0.1'])
    await must(['ip', '-n', shoot, 'route', 'add', 'default', 'via', 'fd00:10:2::1'])
    // Every address of these networks is the shoot's own: processes there listen on them.
    for (const own of SHOOT_NETWORKS) {
      await must(['ip', '-n', shoot, 'route', 'add', 'local', own, 'dev', 'lo'])
      await must(['ip', '-n', router, 'route', 'add', own, 'via', isV6(own) ? 'fd00:10:2::2' : '10.2.0.2'])
    }
    // Unlike IPv4, IPv6 lets a socket listen only on an address that a device has.
    for (const address of NODE_ADDRESSES.filter(isV6))
      await must(['ip', '-n', shoot, 'address', 'add', `${address}/128`, 'dev', 'lo', 'nodad'])
    await must(['sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1'], {
      namespace: { name: router }
    })
    await must(['nft', '-f', '-'], { namespace: { name: router }, input: ROUTER_RULES })
    return network
  } catch (error) {
    await network.close()
    throw error
  }
}

/** The network that `createNetwork` made under this name, for a process that runs inside it. */
export function existingNetwork(prefix: string): Network {
  const [seed, shoot, router] = [`${prefix}-seed`, `${prefix}-shoot`, `${prefix}-router`]
  const nft = (...rule: string[]): Promise<string> => must(['nft', ...rule], { namespace: { name: router } })
  return {
    seed: { name: seed },
    shoot: { name: shoot },
    async droppedIntoShoot() {
      const counter = await nft('list', 'counter', 'inet', 'e2e', 'into_shoot')
      return Number(/packets (\d+)/.exec(counter)?.[1])
    },
    async cut() {
      await nft('add', 'rule', 'inet', 'e2e', 'cut', 'drop')
    },
    async heal() {
      await nft('flush', 'chain', 'inet', 'e2e', 'cut')
    },
    async open() {
      await nft('insert', 'rule', 'inet', 'e2e', 'forward', 'iifname', 'seed', 'accept')
      for (const to of SHOOT_NETWORKS)
        await must(['ip', '-n', seed, 'route', 'add', to, 'via', isV6(to) ? 'fd00:10:1::1' : '10.1.0.1'])
    },
    async close() {
      for (const name of [seed, shoot, router]) {
        // Only what was started inside a namespace of ours is found here.
        const { stdout } = await run(['ip', 'netns', 'pids', name])
        for (const pid of stdout.toString().split('\n').filter(Boolean)) {
          if (Number(pid) !== process.pid) await run(['kill', '-KILL', pid])
        }
        await run(['ip', 'netns', 'delete', name])
      }
    }
  }
}

/** A cable: `device` in the router, `uplink` at the other end. */
async function connect(
  router: string,
  device: string,
  near: string[],
  other: string,
  far: string[]
): Promise<void> {
  const peer = ['type', 'veth', 'peer', 'name', 'uplink', 'netns', other]
  await must(['ip', '-n', router, 'link', 'add', device, ...peer])
  await plug(router, device, near)
  await plug(other, 'uplink', far)
}

async function plug(namespace: string, device: string, addresses: string[]): Promise<void> {
  for (const address of addresses) {
    // Nobody else is on the cable: no need to wait until nobody objects to the address.
    const unasked = isV6(address) ? ['nodad'] : []
    await must(['ip', '-n', namespace, 'address', 'add', address, 'dev', device, ...unasked])
  }
  await must(['ip', '-n', namespace, 'link', 'set', device, 'up'])
}

const isV6 = (address: string): boolean => address.includes(':')
