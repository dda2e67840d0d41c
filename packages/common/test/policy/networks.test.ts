import fc from 'fast-check'
import { BlockList } from 'node:net'
import t from 'tap'
import { contains, readAddress, readNetwork } from '../../src/policy/networks.js'

t.test('every way to write an IPv6 address reads as the same number', async t => {
  const same = ['2001:db8::a:b', '2001:DB8:0:0:0:0:a:b', '2001:db8:0::a:b', '2001:db8::0.10.0.11']
  for (const text of same) t.same(readAddress(text), readAddress('2001:db8:0:0:0:0:a:b'), text)
  t.same(readAddress('::'), { family: 6, value: 0n })
  t.same(readAddress('1::'), { family: 6, value: 1n << 112n })
})

t.test('membership agrees with net.BlockList', async () => {
  const ipv4 = fc.ipV4()
  const ipv6 = fc.ipV6()
  const pair = fc.oneof(
    fc.tuple(ipv4, ipv4, fc.integer({ min: 0, max: 32 }), fc.constant('ipv4' as const)),
    fc.tuple(ipv6, ipv6, fc.integer({ min: 0, max: 128 }), fc.constant('ipv6' as const))
  )
  fc.assert(
    fc.property(pair, fc.boolean(), ([network, other, bits, type], near) => {
      const base = readAddress(network)
      const width = type === 'ipv4' ? 32 : 128
      if (!base) throw new Error(network)
      const mask = (1n << BigInt(width - bits)) - 1n
      const list = new BlockList()
      list.addSubnet(network, bits, type)
      const address = readAddress(near ? network : other)
      if (!address) throw new Error(other)
      const ours = contains({ ...base, value: base.value & ~mask, bits }, address)
      return ours === list.check(near ? network : other, type)
    }),
    { numRuns: 1000 }
  )
})

t.test('a network with bits behind its mask is not one', async t => {
  t.equal(readNetwork('10.1.0.0/8'), undefined)
  t.same(readNetwork('10.0.0.0/8'), { family: 4, value: 10n << 24n, bits: 8 })
  t.same(readNetwork('10.0.0.1'), { family: 4, value: (10n << 24n) + 1n, bits: 32 })
  t.same(readNetwork('0.0.0.0/0'), { family: 4, value: 0n, bits: 0 })
})
