/**
 * The admin listener of both programs: `/livez`, `/readyz`, `/metrics` over plain HTTP, only to be read. Knows nothing
 * of what it reports; readiness and metrics come in as functions. Kubernetes probes are its first readers.
 */
import type { Socket } from 'node:net'
import { networkInterfaces } from 'node:os'
import { fastify, type FastifyReply, type FastifyRequest } from 'fastify'
import { listenFailure, logListening } from '../listen-address.js'
import type { Log } from '../log.js'
import { AdminConnections } from './connections.js'
import { isHostAllowed } from './hosts.js'

/** Whether work can be done. `reasons` has one sentence for each thing that was looked at, good or bad. */
export type Readiness = { ok: boolean; reasons: string[] }

export type AdminOptions = {
  /** Name of the program, for the list of links at `/`. */
  program: string
  listen: { host: string; port: number }
  ready: () => Readiness | Promise<Readiness>
  /** Whether the program is alive beyond this listener. Default: it is. */
  live?: () => Promise<Readiness>
  /** A prom-client Registry, or anything that reads like one. */
  metrics: { readonly contentType: string; metrics(): Promise<string> }
  log: Log
  /** From connect to the end of a request's header. Then the answer is 408. Default 5000; looked at once a second. */
  headerTimeoutMs?: number
  /** Names that may stand in Host, beside addresses and names without a dot. Default none. */
  allowedHosts?: readonly string[]
  /** Connections at once; one more closes an idle one of the source address that has most. Default 256. */
  maxConnections?: number
  /** Connections at once from one address; one more closes its oldest idle one. Default 32. */
  maxConnectionsPerSource?: number
}

export type Admin = {
  /** Where it really listens, when port 0 was asked for. */
  readonly address: { host: string; port: number }
  /** Stops at once; open connections are cut. May be called twice. */
  close(): Promise<void>
}

/** A reader is near and simple: this is long enough for any, and short for a slowloris. */
export const ADMIN_HEADER_TIMEOUT_MS = 5_000
export const ADMIN_HEADER_LIMIT_BYTES = 8_192
export const ADMIN_MAX_CONNECTIONS = 256
export const ADMIN_MAX_CONNECTIONS_PER_SOURCE = 32
/** A connection on which nothing moves is closed, also one whose reader does not take the answer. */
export const ADMIN_IDLE_TIMEOUT_MS = 10_000
/** How often Node looks for connections past their timeout. */
const TIMEOUT_CHECK_MS = 1_000

const TEXT = 'text/plain; charset=utf-8'
const PAGES = { '/livez': 'the process runs', '/readyz': 'it can do its work', '/metrics': 'for Prometheus' }

/**
 * Serves until closed.
 *
 * @throws TunnelError LISTEN_FAILED
 */
export async function createAdmin(options: AdminOptions): Promise<Admin> {
  const { program, listen, ready, live, metrics, log } = options
  const { headerTimeoutMs = ADMIN_HEADER_TIMEOUT_MS, allowedHosts = [] } = options
  const connections = new AdminConnections({
    total: options.maxConnections ?? ADMIN_MAX_CONNECTIONS,
    perSource: options.maxConnectionsPerSource ?? ADMIN_MAX_CONNECTIONS_PER_SOURCE
  })
  const app = fastify({
    // Probes keep their connections open; they must not keep the process.
    forceCloseConnections: true,
    requestTimeout: headerTimeoutMs,
    keepAliveTimeout: headerTimeoutMs,
    connectionTimeout: ADMIN_IDLE_TIMEOUT_MS,
    bodyLimit: 1,
    http: {
      headersTimeout: headerTimeoutMs,
      connectionsCheckingInterval: TIMEOUT_CHECK_MS,
      maxHeaderSize: ADMIN_HEADER_LIMIT_BYTES,
      insecureHTTPParser: false
    }
  })
  app.server.on('connection', (socket: Socket) => connections.add(socket))

  app.addHook('onRequest', async (request, reply) => {
    reply.raw.once('close', connections.begin(request.raw.socket))
    void reply.headers({ 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' })
    return refuseUnknownHosts(request, reply, allowedHosts) ?? refuseWriters(request, reply)
  })
  app.get('/', (_, reply) => reply.type('text/html; charset=utf-8').send(index(program)))
  app.get('/livez', async (request, reply) =>
    live ? answer(await live(), 'not alive', request, reply) : reply.type(TEXT).send('ok\n')
  )
  app.get('/readyz', async (request, reply) => answer(await ready(), 'not ready', request, reply))
  app.get('/metrics', async (_, reply) => reply.type(metrics.contentType).send(await metrics.metrics()))
  app.setNotFoundHandler((_, reply) =>
    reply
      .code(404)
      .type(TEXT)
      .send(`not found; there is ${Object.keys(PAGES).join(', ')}\n`)
  )
  app.setErrorHandler((error: Error & { statusCode?: number }, _, reply) => {
    const status = error.statusCode ?? 500
    if (status >= 500) log.error({ err: error }, 'admin request failed')
    return reply
      .code(status)
      .type(TEXT)
      .send(status >= 500 ? 'internal error; the log has the cause\n' : `${error.message}\n`)
  })

  try {
    await app.listen({ port: listen.port, host: listen.host || everywhere() })
  } catch (error) {
    await app.close()
    throw listenFailure('admin', listen, error)
  }
  // Not fatal: those inside are served on.
  app.server.on('error', error => log.error({ err: error }, 'cannot accept'))
  const bound = app.server.address()
  const address = { host: listen.host, port: typeof bound === 'object' && bound ? bound.port : listen.port }
  logListening(log, 'admin', address)
  return { address, close: () => app.close() }
}

/** No host means every address; fastify would read it as localhost, and `::` fails where IPv6 is switched off. */
function everywhere(): string {
  const hasIpv6 = Object.values(networkInterfaces()).some(list =>
    list?.some(({ family }) => family === 'IPv6')
  )
  return hasIpv6 ? '::' : '0.0.0.0'
}

function refuseUnknownHosts(
  { headers: { host } }: FastifyRequest,
  reply: FastifyReply,
  allowed: readonly string[]
): FastifyReply | undefined {
  if (isHostAllowed(host, allowed)) return undefined
  // RFC 9110 §15.5.20: not able to answer for this authority.
  return reply
    .code(421)
    .header('connection', 'close')
    .type(TEXT)
    .send('this name is not served here: ask by address, or add the name to admin.allowedHosts\n')
}

function refuseWriters(request: FastifyRequest, reply: FastifyReply): FastifyReply | undefined {
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    return reply
      .code(405)
      .headers({ allow: 'GET, HEAD', connection: 'close' })
      .type(TEXT)
      .send('only GET and HEAD are served here\n')
  }
  const { 'content-length': length = '0', 'transfer-encoding': encoding } = request.headers
  if (length === '0' && encoding === undefined) return undefined
  return reply.code(413).header('connection', 'close').type(TEXT).send('a body has no place here\n')
}

function answer(
  { ok, reasons }: Readiness,
  otherwise: string,
  request: FastifyRequest,
  reply: FastifyReply
): FastifyReply {
  const isVerbose = !ok || Object.hasOwn(request.query as object, 'verbose')
  const lines = [ok ? 'ok' : otherwise, ...(isVerbose ? reasons : [])]
  return reply
    .code(ok ? 200 : 503)
    .type(TEXT)
    .send(`${lines.join('\n')}\n`)
}

function index(program: string): string {
  const links = Object.entries(PAGES).map(
    ([path, about]) => `<li><a href="${path}">${path}</a> ${about}</li>`
  )
  return `<!doctype html><title>${program}</title><h1>${program}</h1><ul>${links.join('')}</ul>\n`
}
