import t from 'tap'
import { chooseProxy, ignoredVariables, isExempt } from '../../src/transport/proxy.js'

const server = { host: 'vpn.demo.test', port: 443 }
const https = { HTTPS_PROXY: 'http://proxy.test:3128' }
const proxyFor = (...args: Parameters<typeof chooseProxy>) => chooseProxy(...args).proxy
const chosen = (env: Record<string, string>, destination = server, secure = true) =>
  proxyFor([destination], secure, 'env', env)?.href

t.test('the variable for the scheme counts, then ALL_PROXY, lower case first', async t => {
  t.equal(chosen(https), 'http://proxy.test:3128/')
  t.equal(chosen({ https_proxy: 'http://a', HTTPS_PROXY: 'http://b' }), 'http://a/')
  t.equal(chosen({ HTTP_PROXY: 'http://plain' }), undefined)
  t.equal(chosen({ HTTP_PROXY: 'http://plain' }, server, false), 'http://plain/')
  t.equal(chosen({ ALL_PROXY: 'https://all:8443' }), 'https://all:8443/')
  t.equal(chosen({ https_proxy: '', all_proxy: 'http://all' }), 'http://all/')
  t.equal(
    chosen({ HTTPS_PROXY: 'proxy.test:3128' }),
    'http://proxy.test:3128/',
    'without a scheme it is http'
  )
  t.equal(chosen({}), undefined)
  t.equal(chosen({ ALL_PROXY: 'socks5://all:1080' }), undefined, 'SOCKS there is for other programs')
  t.equal(chosen({ all_proxy: 'socks5h://all:1080', ALL_PROXY: 'http://all' }), 'http://all/')
})

t.test('HTTP_PROXY is not believed inside CGI, where a request header can set it', async t => {
  t.equal(chosen({ HTTP_PROXY: 'http://evil', REQUEST_METHOD: 'GET' }, server, false), undefined)
  t.equal(chosen({ http_proxy: 'http://good', REQUEST_METHOD: 'GET' }, server, false), 'http://good/')
})

t.test('the setting beats the environment', async t => {
  t.equal(proxyFor([server], true, 'none', https), undefined)
  t.equal(
    proxyFor([{ host: '127.0.0.1', port: 1 }], true, 'http://set', { NO_PROXY: '*' })?.href,
    'http://set/'
  )
})

t.test('this machine is not looked for behind a proxy of the environment', async t => {
  for (const host of ['localhost', 'LOCALHOST.', '127.0.0.1', '127.9.9.9', '::1']) {
    t.equal(chosen({ ALL_PROXY: 'http://all' }, { host, port: 443 }), undefined, host)
  }
})

t.test('an unusable proxy is a configuration error that does not show the password', async t => {
  for (const text of ['socks5://user:secret@proxy', 'http://user:secret@:bad', 'http://user:secret@[::1']) {
    t.throws(
      () => chosen({ HTTPS_PROXY: text }),
      { code: 'BAD_CONFIG', detail: /^HTTPS_PROXY is (?!.*secret)/ },
      text
    )
  }
})

t.test('NO_PROXY covers by name, address, network and port', async t => {
  const covered: [string, string, number?][] = [
    ['*', 'anything.test'],
    ['demo.test', 'demo.test'],
    ['demo.test', 'vpn.demo.test'],
    ['.demo.test', 'vpn.demo.test'],
    ['.demo.test', 'demo.test'],
    ['*.demo.test', 'vpn.demo.test'],
    ['DEMO.test.', 'vpn.Demo.TEST.'],
    ['demo.test:443', 'vpn.demo.test'],
    ['a.test, ,b.test demo.test', 'vpn.demo.test'],
    ['10.0.0.0/8', '10.255.0.1'],
    ['10.0.0.1', '10.0.0.1'],
    ['10.0.0.1:443', '10.0.0.1'],
    ['fd00::/8', 'fd12::1'],
    ['fd00:0::1', 'fd00::1'],
    ['[fd00::1]:443', 'fd00::1'],
    ['[fd00::1]', 'fd00::1']
  ]
  for (const [entry, host, port = 443] of covered)
    t.ok(isExempt({ host, port }, entry), `${entry} covers ${host}`)

  const others: [string, string, number?][] = [
    ['', 'demo.test'],
    ['demo.test', 'evildemo.test'],
    ['demo.test', 'demo.test.evil'],
    ['*.demo.test', 'demo.test'],
    ['demo.test:8443', 'demo.test'],
    ['10.0.0.0/8', '11.0.0.1'],
    ['10.0.0.0/8', 'fd00::1'],
    ['10.0.0.0/33', '10.0.0.1'],
    ['10.0.0.0/x', '10.0.0.1'],
    ['10.0.0.1:80', '10.0.0.1'],
    ['[fd00::1]:80', 'fd00::1'],
    ['10.0.0', '10.0.0.1'],
    ['0.0.1', '10.0.0.1'],
    [':443', 'demo.test']
  ]
  for (const [entry, host, port = 443] of others)
    t.notOk(isExempt({ host, port }, entry), `${entry} leaves ${host}`)
})

t.test('NO_PROXY may know the other end by any of its names', async t => {
  const both = [server, { host: '192.0.2.7', port: 10_443 }]
  t.equal(proxyFor(both, true, 'env', { ...https, NO_PROXY: 'demo.test' }), undefined)
  t.equal(proxyFor(both, true, 'env', { ...https, NO_PROXY: '192.0.2.0/24' }), undefined)
  t.ok(proxyFor(both, true, 'env', { ...https, NO_PROXY: 'other.test' }))
})

t.test('what decided is named: the key, a variable, or what exempts from it', async t => {
  const source = (env: Record<string, string>, setting = 'env', destination = server) =>
    chooseProxy([destination], true, setting, env).source
  t.equal(source({}), undefined)
  t.equal(source(https), 'HTTPS_PROXY')
  t.equal(source({ ...https, https_proxy: 'http://a' }), 'https_proxy')
  t.equal(source({ ...https, NO_PROXY: 'demo.test' }), 'NO_PROXY')
  t.equal(source({ ...https, NO_PROXY: 'x', no_proxy: 'demo.test' }), 'no_proxy')
  t.equal(source(https, 'env', { host: '127.0.0.1', port: 1 }), 'loopback')
  t.equal(source(https, 'none'), 'proxy')
  t.equal(source(https, 'http://set'), 'proxy')
})

t.test('a SOCKS proxy in ALL_PROXY is ignored, and only where the environment counts', async t => {
  const env = { ALL_PROXY: 'socks5h://a:1080', all_proxy: 'SOCKS4://b', ...https }
  t.same(ignoredVariables('env', env), ['all_proxy', 'ALL_PROXY'])
  t.same(ignoredVariables('none', env), [])
  t.same(ignoredVariables('http://set', env), [])
  t.same(ignoredVariables('env', { ALL_PROXY: 'http://a' }), [])
})
