/**
 * The seed's load balancer, a real haproxy: passes the tunnel's TLS on unopened by the name in its ClientHello, and
 * spreads kube-apiserver's connections over the fronts of several servers.
 */
import { connect } from 'node:net'
import { SEED_ADDRESS, SEED_PORT } from './network.js'
import { SERVER_NAME } from './pki.js'

/** One server behind the balancer. Those that do not run are found out by health checks. */
export type Backend = {
  name: string
  /** `host:port` of its tunnel listener. */
  tunnel: string
  /** `host:port` of its front; undefined where kube-apiserver does without the balancer. */
  front: string | undefined
  /** `host:port` of its probes. */
  admin: { host: string; port: number }
}

export type BalancerOptions = {
  controlSocket: string
  /** `host:port` for kube-apiserver. */
  front: string | undefined
  backends: readonly Backend[]
}

/** Often enough that no planned restart is noticed. */
const CHECK = 'check inter 200ms fall 1 rise 1'

export function balancerConfig({ controlSocket, front, backends }: BalancerOptions): string {
  return `
global
  stats socket ${controlSocket} mode 600 level admin
  log stdout format raw local0
defaults
  mode tcp
  log global
  option tcplog
  # A server that is on its way out refuses: the next one is asked.
  option redispatch 1
  retries 5
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout queue 5s
frontend sni
  bind ${SEED_ADDRESS}:${SEED_PORT}
  tcp-request inspect-delay 5s
  tcp-request content accept if { req.ssl_hello_type 1 }
  use_backend tunnel if { req.ssl_sni -i ${SERVER_NAME} }
# Not by readiness: a server is ready when a client has come through here.
backend tunnel
  balance random
${backends.map(({ name, tunnel }) => `  server ${name} ${tunnel} ${CHECK}`).join('\n')}
${front === undefined ? '' : frontConfig(front, backends)}`
}

/** Whoever is ready; and when nobody is, whoever is there, because its answer says why. */
function frontConfig(front: string, backends: readonly Backend[]): string {
  const servers = (more: (backend: Backend) => string): string =>
    backends.map(backend => `  server ${backend.name} ${backend.front!} ${CHECK}${more(backend)}`).join('\n')
  return `
frontend kube-apiserver
  bind ${front}
  use_backend ready if { nbsrv(ready) gt 0 }
  default_backend present
backend ready
  balance roundrobin
  option httpchk GET /readyz
${servers(({ admin }) => ` addr ${admin.host} port ${admin.port}`)}
backend present
  balance roundrobin
${servers(() => '')}
`
}

/** Ends every connection of the tunnel, as a load balancer that restarts does. */
export async function killConnections(controlSocket: string, backends: readonly Backend[]): Promise<void> {
  for (const { name } of backends) await sendCommand(controlSocket, `shutdown sessions server tunnel/${name}`)
}

async function sendCommand(controlSocket: string, command: string): Promise<void> {
  let answer = ''
  const socket = connect(controlSocket)
  socket.setEncoding('utf8').on('data', (part: string) => (answer += part))
  socket.end(`${command}\n`)
  await new Promise((resolve, reject) => socket.on('close', resolve).on('error', reject))
  if (answer.trim() !== '') throw new Error(`haproxy answered "${command}" with: ${answer.trim()}`)
}
