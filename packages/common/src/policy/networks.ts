/**
 * IP addresses and CIDR blocks as numbers that can be compared, and the list of ranges that are special. Pure:
 * knows no rules and no sockets. Only canonical literals are read, because `127.1`, `0177.0.0.1` and `fe80::1%eth0`
 * mean one thing to a check and another to the kernel. Ranges: RFC 6890 and the IANA special-purpose registries.
 */
import { isIPv4, isIPv6 } from 'node:net'

export type Address = { family: 4 | 6; value: bigint }
export type Network = Address & { bits: number }

const widthOf = { 4: 32, 6: 128 } as const

function readIpv4(text: string): bigint {
  return text.split('.').reduce((value, part) => (value << 8n) | BigInt(part), 0n)
}

function readIpv6(text: string): bigint {
  const [head = '', tail] = text.split('::')
  const groupsOf = (part: string) =>
    part === ''
      ? []
      : part.split(':').flatMap(group => {
          if (!group.includes('.')) return [BigInt(`0x${group}`)]
          const ipv4 = readIpv4(group)
          return [ipv4 >> 16n, ipv4 & 0xffffn]
        })
  const before = groupsOf(head)
  const after = tail === undefined ? [] : groupsOf(tail)
  const zeros = new Array<bigint>(8 - before.length - after.length).fill(0n)
  return [...before, ...zeros, ...after].reduce((value, group) => (value << 16n) | group, 0n)
}

/** Reads an IP literal, no brackets. Undefined when it is not one, or not canonical (short, octal, hex, with a zone). */
export function readAddress(text: string): Address | undefined {
  if (isIPv4(text)) return { family: 4, value: readIpv4(text) }
  if (isIPv6(text) && !text.includes('%')) return { family: 6, value: readIpv6(text) }
  return undefined
}

/** Reads `10.0.0.0/8`, `fd00::/8` or a single address. Undefined when it is neither, or has bits set behind its mask. */
export function readNetwork(text: string): Network | undefined {
  const [literal = '', mask, ...rest] = text.split('/')
  const address = readAddress(literal)
  if (!address || rest.length > 0) return undefined
  const width = widthOf[address.family]
  if (mask !== undefined && !/^(0|[1-9][0-9]{0,2})$/.test(mask)) return undefined
  const bits = mask === undefined ? width : Number(mask)
  if (bits > width) return undefined
  const network = { ...address, bits }
  if ((address.value & hostMask(network)) !== 0n) return undefined
  // ::ffff:10.0.0.0/104 is 10.0.0.0/8 in disguise; as such it is compared.
  if (mapped.family === address.family && bits >= mapped.bits && contains(mapped, address)) {
    return { family: 4, value: address.value & 0xffff_ffffn, bits: bits - mapped.bits }
  }
  return network
}

function hostMask(network: Network): bigint {
  return (1n << BigInt(widthOf[network.family] - network.bits)) - 1n
}

export function contains(network: Network, address: Address): boolean {
  if (network.family !== address.family) return false
  const shift = BigInt(widthOf[network.family] - network.bits)
  return network.value >> shift === address.value >> shift
}

/** Whether all of `inner` lies in `outer`; a network lies inside itself. */
export function isInside(inner: Network, outer: Network): boolean {
  return inner.bits >= outer.bits && contains(outer, inner)
}

function networkOf(text: string): Network {
  const [literal = '', bits] = text.split('/')
  const address = readAddress(literal)
  if (!address) throw new RangeError(`${text} is not a network`)
  return { ...address, bits: Number(bits) }
}

const mapped = networkOf('::ffff:0:0/96')

/** How an IPv6 address can carry an IPv4 one: where, and how far from its right end. */
const disguises = [
  { network: networkOf('::ffff:0:0:0/96'), shift: 0n }, // IPv4-translated, RFC 7915
  { network: networkOf('64:ff9b::/96'), shift: 0n }, // NAT64, RFC 6052
  { network: networkOf('::/96'), shift: 0n }, // IPv4-compatible, RFC 4291 section 2.5.5.1
  { network: networkOf('2002::/16'), shift: 80n } // 6to4, RFC 3056
]

/**
 * The address as the kernel will use it, and the IPv4 address inside it when it only wraps one. An IPv4-mapped
 * address is IPv4 (that is what goes over the wire); the other disguises are two addresses at once.
 */
export function facesOf(address: Address): [Address, ...Address[]] {
  if (address.family === 4) return [address]
  if (contains(mapped, address)) return [{ family: 4, value: address.value & 0xffff_ffffn }]
  // :: and ::1 are addresses of their own, not IPv4 0.0.0.0 and 0.0.0.1.
  if (address.value <= 1n) return [address]
  const disguise = disguises.find(({ network }) => contains(network, address))
  if (!disguise) return [address]
  return [address, { family: 4, value: (address.value >> disguise.shift) & 0xffff_ffffn }]
}

/** Ranges where a dial would reach the dialler itself, its node, or many at once. No ordinary allow rule opens them. */
const special = [
  ['unspecified', '0.0.0.0/8'], // "this network"; Linux connects 0.0.0.0 to loopback
  ['loopback', '127.0.0.0/8'],
  ['link-local', '169.254.0.0/16'], // 169.254.169.254: credentials of the cloud's node
  ['multicast', '224.0.0.0/4'],
  ['broadcast', '255.255.255.255/32'],
  ['unspecified', '::/128'],
  ['loopback', '::1/128'],
  ['link-local', 'fe80::/10'],
  ['multicast', 'ff00::/8']
].map(([name = '', cidr = '']) => ({ name, network: networkOf(cidr) }))

export function specialRangeOf(address: Address): { name: string; network: Network } | undefined {
  return special.find(({ network }) => contains(network, address))
}
