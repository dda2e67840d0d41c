/**
 * Ports for what must know its address before it starts, or must come back at the same one: a proxy's configuration, the
 * list of peers, a server that is started twice. Whatever can be asked for its address listens on port 0 instead.
 *
 * A port that the kernel gave to port 0 a moment ago may be anybody's by the time it is used: of another listener, or of
 * any outgoing connection. The ports given here lie below all that the kernel gives away by itself, and each is held until
 * this process ends by a UDP socket of the same number, which TCP does not notice and no other test can have.
 */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'

/** Below it are the ports of well-known services. */
const FIRST_PORT = 10_240
/** The lowest port that the kernel gives away, where it cannot be asked: Linux's default. */
const FIRST_EPHEMERAL_PORT = 32_768

const ports = Math.max(1, firstEphemeralPort() - FIRST_PORT)
/** Processes that run at the same time begin at different places. */
let next = (process.pid * 97) % ports

/** A port that nobody listens on, that no other test takes, and no connection. */
export async function reservePort(host = '127.0.0.1'): Promise<number> {
  for (let tried = 0; tried < ports; tried += 1) {
    const port = FIRST_PORT + next
    next = (next + 1) % ports
    if ((await hold(host, port)) && (await isFree(host, port))) return port
  }
  throw new Error(`no port from ${FIRST_PORT} on is free`)
}

export async function reserveAddress(): Promise<{ host: string; port: number }> {
  return { host: '127.0.0.1', port: await reservePort() }
}

/** False: somebody else holds it. */
async function hold(address: string, port: number): Promise<boolean> {
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4')
  try {
    socket.bind({ address, port, exclusive: true })
    await once(socket, 'listening')
  } catch {
    socket.close()
    return false
  }
  // Held until this process ends, and no reason for it not to end.
  socket.unref()
  return true
}

async function isFree(host: string, port: number): Promise<boolean> {
  const server = createServer()
  try {
    server.listen(port, host)
    await once(server, 'listening')
  } catch {
    return false
  }
  server.close()
  await once(server, 'close')
  return true
}

function firstEphemeralPort(): number {
  try {
    return Number.parseInt(readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8'), 10)
  } catch {
    return FIRST_EPHEMERAL_PORT
  }
}
