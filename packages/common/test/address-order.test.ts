import t from 'tap'
import { inOrder } from '../src/address-order.js'

const here4 = ['127.0.0.1', '10.0.0.7', '::1', 'fe80::7']
const hereBoth = [...here4, '2001:db8:7::1']
const hereUla = [...here4, 'fd00:7::1']

t.test('an address that nothing here can reach comes last', async t => {
  t.same(inOrder(['2001:db8::1', '192.0.2.1'], here4), ['192.0.2.1', '2001:db8::1'])
  t.same(inOrder(['192.0.2.1', '2001:db8::1'], ['::1', '2001:db8:7::1']), ['2001:db8::1', '192.0.2.1'])
})

t.test('IPv6 comes first where there is IPv6, unless the addresses are of different kinds', async t => {
  t.same(inOrder(['192.0.2.1', '2001:db8::1'], hereBoth), ['2001:db8::1', '192.0.2.1'])
  t.same(inOrder(['192.0.2.1', '2001:db8::1'], hereUla), ['192.0.2.1', '2001:db8::1'], 'unlike labels')
  t.same(inOrder(['192.0.2.1', 'fd00:1::1'], hereUla), ['192.0.2.1', 'fd00:1::1'], 'precedence of fc00::/7')
  t.same(inOrder(['2001::1', '2002::1', '2001:db8::1'], hereBoth), ['2001:db8::1', '2002::1', '2001::1'])
})

t.test('addresses that are alike stay as they came', async t => {
  const addresses = ['10.0.0.3', '10.0.0.1', '10.0.0.2']
  t.same(inOrder(addresses, hereBoth), addresses)
  t.same(inOrder(['127.0.0.1', '::1'], []), ['::1', '127.0.0.1'])
  t.same(inOrder([]), [])
})
