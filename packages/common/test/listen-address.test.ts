import t from 'tap'
import { TunnelError } from '../src/errors.js'
import { createLog } from '../src/log.js'
import {
  formatListen,
  isLoopback,
  type ListenAddress,
  listenFailure,
  logListening,
  parseListen,
  UNIX_PATH_LIMIT_BYTES
} from '../src/listen-address.js'

t.test('addresses are read, and written back as they were', async t => {
  const table: [string, ListenAddress][] = [
    ['127.0.0.1:9443', { host: '127.0.0.1', port: 9443 }],
    ['[::1]:9443', { host: '::1', port: 9443 }],
    ['[2001:db8::5]:0', { host: '2001:db8::5', port: 0 }],
    [':9443', { host: '', port: 9443 }],
    ['localhost:1', { host: 'localhost', port: 1 }],
    ['vpn.example.org:65535', { host: 'vpn.example.org', port: 65_535 }],
    ['unix:/run/tendril.sock', { path: '/run/tendril.sock' }],
    ['unix:relative.sock', { path: 'relative.sock' }]
  ]
  for (const [text, address] of table) {
    t.same(parseListen(text), address, text)
    t.equal(formatListen(address), text)
  }
})

t.test('what is no address is refused with a sentence that shows a right one', async t => {
  const table: [string, RegExp][] = [
    ['9443', /"9443" has no port/],
    ['', /has no port/],
    ['127.0.0.1', /has no port/],
    ['127.0.0.1:', /"" is not a port/],
    ['127.0.0.1:65536', /"65536" is not a port/],
    ['127.0.0.1:-1', /is not a port/],
    ['127.0.0.1:http', /"http" is not a port/],
    ['::1:9443', /in brackets: \[::1\]/],
    ['[127.0.0.1]:9443', /not an IPv6 address/],
    ['[fe80::1:9443', /in brackets/],
    ['127.1:9443', /neither an IP address nor a host name/],
    ['256.0.0.1:1', /neither/],
    ['a b:1', /neither/],
    ['*:9443', /neither/],
    ['unix:', /names no file/],
    ['unix:///run/x.sock', /is a URL: write unix:\/run\/x\.sock/],
    [`unix:/${'x'.repeat(UNIX_PATH_LIMIT_BYTES)}`, /at most 107 bytes/]
  ]
  for (const [text, message] of table) t.throws(() => parseListen(text), { message }, text)
  t.doesNotThrow(() => parseListen(`unix:/${'x'.repeat(UNIX_PATH_LIMIT_BYTES - 1)}`))
})

t.test('loopback is what only this machine reaches', async t => {
  for (const text of [
    '127.0.0.1:1',
    '127.9.9.9:1',
    '[::1]:1',
    '[::ffff:127.0.0.1]:1',
    'localhost:1',
    'a.localhost:1',
    'unix:/x'
  ]) {
    t.ok(isLoopback(parseListen(text)), text)
  }
  for (const text of [
    ':1',
    '0.0.0.0:1',
    '[::]:1',
    '10.0.0.1:1',
    '[fe80::1]:1',
    '[::ffff:10.0.0.1]:1',
    'localhost.example.org:1',
    'notlocalhost:1'
  ]) {
    t.notOk(isLoopback(parseListen(text)), text)
  }
})

t.test('a listener that could not start says who, where and why', async t => {
  const error = listenFailure(
    'admin',
    { host: '::1', port: 80 },
    Object.assign(new Error('x'), { code: 'EADDRINUSE' })
  )

  t.ok(error instanceof TunnelError)
  t.equal(error.code, 'LISTEN_FAILED')
  t.equal(error.message, 'cannot listen on [::1]:80 (admin): the address is in use by another program')
  t.match(listenFailure('x', { path: '/y' }, new Error('odd')).message, /on unix:\/y \(x\): odd/)
})

t.test('a listener is announced in the log by fields, in a form that is read back', t => {
  const lines: string[] = []
  const log = createLog({ destination: { write: line => lines.push(line) } })
  const address = { host: '::1', port: 9443 }

  logListening(log, 'front kube-apiserver', address)
  logListening(log, 'siblings', { path: '/run/1.sock' })

  const [first, second] = lines.map(line => JSON.parse(line) as Record<string, string>)
  t.match(first, { event: 'listening', name: 'front kube-apiserver', msg: 'listening for connections' })
  t.same(parseListen(first!['address']!), address)
  t.match(second, { event: 'listening', name: 'siblings', address: 'unix:/run/1.sock' })
  t.end()
})
