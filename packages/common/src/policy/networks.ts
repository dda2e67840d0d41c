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

/**
 * Reads an IP literal, no brackets. Undefined when it is not one, or not canonical (short, octal, hex, with a zone).
 */
export function readAddress(text: string): Address | undefined {
  if (isIPv4(text)) return { family: 4, value: readIpv4(text) }
  if (isIPv6(text) && !text.includes('%')) return { family: 6, value: readIpv6(text) }
  return undefined
}

/**
 * Reads `10.0.0.0/8`, `fd00::/8` or a single address. Undefined when it is neither, or has bits set behind its mask.
 */
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
  // ::ffff:10.0.0.0/104 is 10.0.0.0/8 in IPv4-mapped form, and is compared as that.
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

const IPV4_BITS = 0xffff_ffffn

/** How an IPv6 address can carry IPv4 ones: which, of a network or of addresses that fit a pattern. */
const embeddedForms: { fits: (value: bigint) => boolean; inside: (value: bigint) => bigint[] }[] = [
  { fits: within('::ffff:0:0:0/96'), inside: last }, // IPv4-translated, RFC 7915
  { fits: within('64:ff9b::/96'), inside: last }, // NAT64, RFC 6052
  { fits: within('64:ff9b:1::/48'), inside: anywhere }, // NAT64 with a local prefix, RFC 8215
  { fits: value => value > 1n && within('::/96')(value), inside: last }, // IPv4-compatible, RFC 4291 section 2.5.5.1
  { fits: within('2002::/16'), inside: value => [(value >> 80n) & IPV4_BITS] }, // 6to4, RFC 3056
  // Teredo, RFC 4380 section 4: the server, and the client with every bit turned over.
  {
    fits: within('2001::/32'),
    inside: value => [(value >> 64n) & IPV4_BITS, (value & IPV4_BITS) ^ IPV4_BITS]
  },
  // ISATAP, RFC 5214 section 6.1: an interface identifier behind any prefix.
  { fits: value => ((value >> 32n) & 0xfdff_ffffn) === 0x5efen, inside: last }
]

function within(cidr: string): (value: bigint) => boolean {
  const network = networkOf(cidr)
  return value => contains(network, { family: 6, value })
}

function last(value: bigint): bigint[] {
  return [value & IPV4_BITS]
}

/**
 * RFC 6052 section 2.2: an address does not show which prefix length a network has chosen inside 64:ff9b:1::/48, so the
 * IPv4 address of every possible length is checked. Lengths that are not used give an address in 0.0.0.0/8, which no
 * machine has.
 */
function anywhere(value: bigint): bigint[] {
  return [
    value & IPV4_BITS, // /96
    (value >> 24n) & IPV4_BITS, // /64
    (((value >> 64n) & 0xffn) << 24n) | ((value >> 32n) & 0xff_ffffn), // /56
    (((value >> 64n) & 0xffffn) << 16n) | ((value >> 40n) & 0xffffn) // /48
  ].filter(ipv4 => ipv4 >> 24n !== 0n)
}

/**
 * The address as the kernel will use it, and the IPv4 addresses inside it when it only wraps them. An IPv4-mapped
 * address is IPv4 (that is what goes over the wire); any other form of embedded IPv4 is checked as each of its
 * addresses.
 */
export function addressFormsOf(address: Address): [Address, ...Address[]] {
  if (address.family === 4) return [address]
  if (contains(mapped, address)) return [{ family: 4, value: address.value & IPV4_BITS }]
  const inside = embeddedForms.find(({ fits }) => fits(address.value))?.inside(address.value) ?? []
  return [address, ...inside.map(value => ({ family: 4 as const, value }))]
}

/**
 * Ranges where a dial would reach the client itself, its node, a service that gives out the node's credentials, or many
 * machines at once. Only an allow rule inside such a range opens it.
 */
const special = [
  ['unspecified', '0.0.0.0/8'], // "this network"; Linux connects 0.0.0.0 to loopback
  ['loopback', '127.0.0.0/8'],
  ['link-local', '169.254.0.0/16'], // most clouds: 169.254.169.254; AWS ECS and EKS 169.254.170.2 and .23; Tencent 169.254.0.23
  ['multicast', '224.0.0.0/4'],
  ['broadcast', '255.255.255.255/32'],
  ['reserved', '240.0.0.0/4'], // RFC 1112 section 4
  ['unspecified', '::/128'],
  ['loopback', '::1/128'],
  ['link-local', 'fe80::/10'], // OpenStack, Akamai: fe80::a9fe:a9fe
  ['site-local', 'fec0::/10'], // RFC 3879: kernels still route it, nobody may use it
  ['multicast', 'ff00::/8'],
  // Metadata services that are not link-local; docs/metadata-services.md says where each is documented.
  ['cloud metadata', '100.100.100.200/32'], // Alibaba Cloud
  ['cloud metadata', 'fd00:100::100:200/128'], // Alibaba Cloud
  ['cloud metadata', '168.63.129.16/32'], // Azure WireServer, a public address
  ['cloud metadata', '192.0.0.192/32'], // Oracle Cloud Classic
  ['cloud metadata', 'fd00:c1::a9fe:a9fe/128'], // Oracle Cloud Infrastructure
  ['cloud metadata', 'fd00:ec2::/32'], // AWS: metadata ::254, credentials of EKS pods ::23, DNS, time
  ['cloud metadata', 'fd20:ce::254/128'], // Google Cloud
  ['cloud metadata', 'fd00:42::42/128'], // Scaleway
  ['cloud metadata', 'fd00:a9fe:a9fe::1/128'] // Akamai (Linode)
].map(([name = '', cidr = '']) => ({ name, network: networkOf(cidr) }))

export function specialRangeOf(address: Address): { name: string; network: Network } | undefined {
  return special.find(({ network }) => contains(network, address))
}
