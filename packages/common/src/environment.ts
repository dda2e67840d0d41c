/**
 * What the environment could switch off in Node and OpenSSL, seen from a program that must not be switched off. Where a
 * setting is given explicitly wherever it counts (tls.ts, transport/secure, every HTTP parser) the environment has no
 * effect, and the warning says so; where nothing helps, it says what the setting does. Whoever sets the environment of a
 * process may run any code in it: this is against accidents, not against them.
 */

type Row = {
  /** A variable that counts when it is set, or a flag of node. */
  name: string
  /** Set like this it does harm. Default: set at all. */
  harms?: (value: string) => boolean
  warning: string
}

const VARIABLES: Row[] = [
  {
    name: 'NODE_TLS_REJECT_UNAUTHORIZED',
    harms: value => value === '0',
    warning: 'has no effect here: certificates are verified always'
  },
  {
    name: 'NODE_DEBUG',
    harms: value => /\b(?:http|net|tls)\b|\*/i.test(value),
    warning: 'writes headers and payload to standard error, secrets included'
  }
]

const FLAGS: Row[] = [
  { name: '--insecure-http-parser', warning: 'has no effect here: HTTP is parsed strictly' },
  { name: '--tls-min-v1.0', warning: 'has no effect here: TLS 1.2 is the least' },
  { name: '--tls-min-v1.1', warning: 'has no effect here: TLS 1.2 is the least' },
  { name: '--tls-max-v1.2', warning: 'has no effect here: TLS 1.3 is spoken' },
  { name: '--tls-cipher-list', warning: 'has no effect here: the ciphers are those of docs/protocol.md' },
  {
    name: '--tls-keylog',
    warning: 'writes the keys of all connections to a file: whoever reads it reads them'
  },
  { name: '--security-revert', warning: 'takes back a fix of a known vulnerability' },
  { name: '--inspect', warning: 'opens a debugger, which may run any code here' },
  { name: '--inspect-brk', warning: 'opens a debugger, which may run any code here' },
  { name: '--inspect-wait', warning: 'opens a debugger, which may run any code here' }
]

/**
 * Takes away what libraries would obey, and returns a sentence for everything that deserves one, for the log.
 * `execArgv`: the flags that node itself was given.
 */
export function secureEnvironment(
  env: NodeJS.ProcessEnv = process.env,
  execArgv: readonly string[] = process.execArgv
): string[] {
  const variables = VARIABLES.flatMap(({ name, harms = () => true, warning }) => {
    const value = env[name]
    return value !== undefined && harms(value) ? [`${name} ${warning}`] : []
  })
  // The client library of Kubernetes asks for it, with a token in its hands.
  delete env['NODE_TLS_REJECT_UNAUTHORIZED']
  // Node takes an underscore for a dash, and a value behind "=".
  const given = [...(env['NODE_OPTIONS'] ?? '').split(/\s+/), ...execArgv].map(flag =>
    flag.replace(/^"|=.*$/g, '').replaceAll('_', '-')
  )
  const flags = FLAGS.filter(({ name }) => given.includes(name))
  return [...variables, ...flags.map(({ name, warning }) => `${name} ${warning}`)]
}
