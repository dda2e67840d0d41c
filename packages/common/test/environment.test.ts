import t from 'tap'
import { secureEnvironment } from '@tendril/common/environment'

t.test('what switches verification off is taken away, and said', async t => {
  const env = { NODE_TLS_REJECT_UNAUTHORIZED: '0', PATH: '/bin' }

  t.match(secureEnvironment(env, []), [/^NODE_TLS_REJECT_UNAUTHORIZED has no effect here/])
  t.same(env, { PATH: '/bin' }, 'libraries would obey it')
  t.same(secureEnvironment({ NODE_TLS_REJECT_UNAUTHORIZED: '1' }, []), [])
})

t.test('flags are found in NODE_OPTIONS and on the command line, however they are written', async t => {
  const table: [options: string, argv: string[], warnings: RegExp[]][] = [
    ['', [], []],
    ['--max-old-space-size=256', ['--max-semi-space-size=4', '--enable-source-maps'], []],
    ['--tls-min-v1.0  --insecure_http_parser', [], [/^--insecure-http-parser has/, /^--tls-min-v1\.0 has/]],
    ['"--tls-cipher-list=ALL"', [], [/^--tls-cipher-list has no effect/]],
    ['', ['--inspect=0.0.0.0:9229'], [/^--inspect opens a debugger/]],
    ['', ['--tls-keylog=/tmp/k'], [/^--tls-keylog writes the keys/]]
  ]

  for (const [NODE_OPTIONS, argv, warnings] of table)
    t.match(secureEnvironment({ NODE_OPTIONS }, argv), warnings, `${NODE_OPTIONS} ${argv.join(' ')}`)
  t.equal(secureEnvironment({ NODE_OPTIONS: '' }, []).length, 0)
  t.match(secureEnvironment({ NODE_DEBUG: 'fs,http' }, []), [/^NODE_DEBUG writes headers/])
  t.same(secureEnvironment({ NODE_DEBUG: 'fs' }, []), [])
})
