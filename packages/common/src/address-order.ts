/**
 * Puts the addresses of a name in the order in which they should be tried: RFC 6724 section 6, rules 1, 2, 5 and 6 with
 * the policy table of section 2.1. What those rules need of source addresses is taken from the interfaces of this
 * machine, where getaddrinfo asks the kernel for the route to each: enough to put an address last that nothing here can
 * reach. Order is a hint: race.ts tries the next after 250 ms anyway. /etc/gai.conf is not read.
 */
import { BlockList, isIPv6 } from 'node:net'
import { networkInterfaces } from 'node:os'

type Kind = { network: BlockList; precedence: number; label: number }

function kind(address: string, bits: number, precedence: number, label: number): Kind {
  const network = new BlockList()
  network.addSubnet(address, bits, 'ipv6')
  return { network, precedence, label }
}

/** RFC 6724 section 2.1, longest prefix first. */
const KINDS = [
  kind('::1', 128, 50, 0),
  kind('2001::', 32, 5, 5),
  kind('2002::', 16, 30, 2),
  kind('3ffe::', 16, 1, 12),
  kind('fec0::', 10, 1, 11),
  kind('fe80::', 10, 40, 1),
  kind('fc00::', 7, 3, 13),
  kind('::', 0, 40, 1)
]
const IPV4: Pick<Kind, 'precedence' | 'label'> = { precedence: 35, label: 4 }

const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8, 'ipv4')
loopback.addAddress('::1', 'ipv6')
const linkLocal = new BlockList()
linkLocal.addSubnet('169.254.0.0', 16, 'ipv4')
linkLocal.addSubnet('fe80::', 10, 'ipv6')

const familyOf = (address: string) => (isIPv6(address) ? 'ipv6' : 'ipv4')

function kindOf(address: string): Pick<Kind, 'precedence' | 'label'> {
  if (!isIPv6(address)) return IPV4
  return KINDS.find(({ network }) => network.check(address, 'ipv6')) ?? IPV4
}

/** How far an address reaches: this machine (0), this network (1) or beyond (2). */
function scopeOf(address: string): 0 | 1 | 2 {
  if (loopback.check(address, familyOf(address))) return 0
  return linkLocal.check(address, familyOf(address)) ? 1 : 2
}

/** The addresses of this machine, without zones. */
export function localAddresses(): string[] {
  return Object.values(networkInterfaces()).flatMap(list => (list ?? []).map(({ address }) => address))
}

/** Addresses that are alike stay as they came. `sources`: where connections may come from. */
export function inOrder(
  addresses: readonly string[],
  sources: readonly string[] = localAddresses()
): string[] {
  const rank = (address: string): number[] => {
    const { precedence, label } = kindOf(address)
    const candidates = sources.filter(
      source => familyOf(source) === familyOf(address) && scopeOf(source) >= scopeOf(address)
    )
    const sameLabel = candidates.some(source => kindOf(source).label === label)
    return [Number(candidates.length > 0), Number(sameLabel), precedence]
  }
  return addresses
    .map(address => ({ address, rank: rank(address) }))
    .sort((a, b) => b.rank.map((value, at) => value - (a.rank[at] ?? 0)).find(by => by !== 0) ?? 0)
    .map(({ address }) => address)
}
