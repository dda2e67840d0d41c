/**
 * Environment variables and flags of Node that weaken the security of Node or OpenSSL. Where the program sets the same
 * option on every connection (tls.ts, transport/secure, every HTTP parser) they have no effect, and the warning says
 * so. Otherwise the warning says what they do. This protects against mistakes only: who sets the environment of a
 * process can run any code in it.
 */

type Row = {
  /** An environment variable, or a flag of node. */
  name: string
  /** Whether this value is harmful. Default: every value is. */
  harms?: (value: string) => boolean
  warning: string
}

const VARIABLES: Row[] = [
  {
    name: 'NODE_TLS_REJECT_UNAUTHORIZED',
    harms: value => value === '0',
    warning: 'has no effect here: certificates are always verified'
  },
  {
    name: 'NODE_DEBUG',
    harms: value => /\b(?:http|net|tls)\b|\*/i.test(value),
    warning: 'writes headers and payload to standard error, secrets included'
  }
]

const FLAGS: Row[] = [
  { name: '--insecure-http-parser', warning: 'has no effect here: HTTP is parsed strictly' },
  { name: '--tls-min-v1.0', warning: 'has no effect here: the lowest version is TLS 1.2' },
  { name: '--tls-min-v1.1', warning: 'has no effect here: the lowest version is TLS 1.2' },
  { name: '--tls-max-v1.2', warning: 'has no effect here: the highest version is TLS 1.3' },
  { name: '--tls-cipher-list', warning: 'has no effect here: the ciphers are those of docs/protocol.md' },
  {
    name: '--tls-keylog',
    warning: 'writes the keys of all connections to a file: who can read it can decrypt them'
  },
  { name: '--security-revert', warning: 'removes the fix of a known vulnerability' },
  { name: '--inspect', warning: 'opens a debugger, which may run any code here' },
  { name: '--inspect-brk', warning: 'opens a debugger, which may run any code here' },
  { name: '--inspect-wait', warning: 'opens a debugger, which may run any code here' }
]

/**
 * Deletes variables that libraries would obey, and returns a warning for each harmful variable or flag, for the log.
 * `execArgv`: the flags given to node itself.
 */
export function secureEnvironment(
  env: NodeJS.ProcessEnv = process.env,
  execArgv: readonly string[] = process.execArgv
): string[] {
  const variables = VARIABLES.flatMap(({ name, harms = () => true, warning }) => {
    const value = env[name]
    return value !== undefined && harms(value) ? [`${name} ${warning}`] : []
  })
  // The client library of Kubernetes reads it, and sends a token over the connection.
  delete env['NODE_TLS_REJECT_UNAUTHORIZED']
  // Node takes an underscore for a dash, and a value behind "=".
  const given = [...(env['NODE_OPTIONS'] ?? '').split(/\s+/), ...execArgv].map(flag =>
    flag.replace(/^"|=.*$/g, '').replaceAll('_', '-')
  )
  const flags = FLAGS.filter(({ name }) => given.includes(name))
  return [...variables, ...flags.map(({ name, warning }) => `${name} ${warning}`)]
}
