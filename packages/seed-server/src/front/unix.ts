/**
 * The file of a Unix socket: its mode from the first moment on, and what lies in its way when a front starts.
 * A stale socket is one that a killed process has left. Anything else at that path is kept.
 */
import { chmodSync } from 'node:fs'
import { lstat, unlink } from 'node:fs/promises'
import { connect, type Server } from 'node:net'
import { dirname } from 'node:path'
import { TunnelError } from '@tendril/common'
import { listenOptions } from '@tendril/common/listen-address'

/** Owner and group may connect: kube-apiserver shares a group with its sidecar, or runs as the same user. */
export const SOCKET_MODE = 0o660

const ALL_MODE_BITS = 0o777

/**
 * Removes a socket file that nobody listens on. A missing file is fine.
 * @throws TunnelError LISTEN_FAILED when a process listens there, or when the file is not a socket.
 */
export async function removeStaleSocket(path: string): Promise<void> {
  const stats = await lstat(path).catch((error: unknown) => ignoreMissing(path, error))
  if (!stats) {
    // libuv calls a missing directory EACCES, which would send people looking for permissions.
    const parent = await lstat(dirname(path)).catch((error: unknown) => ignoreMissing(path, error))
    if (!parent) throw failed(path, 'the directory does not exist')
    return
  }
  if (!stats.isSocket())
    throw failed(path, 'a file that is not a socket is in the way, remove it or choose another path')
  const code = await tryToConnect(path)
  if (code === undefined) throw failed(path, 'already in use by another process')
  if (code !== 'ECONNREFUSED') throw failed(path, `cannot tell whether it is in use (${code})`)
  await unlink(path).catch((error: unknown) => ignoreMissing(path, error))
}

function ignoreMissing(path: string, error: unknown): undefined {
  const { code, message } = error as NodeJS.ErrnoException
  if (code !== 'ENOENT') throw failed(path, message, error)
}

/**
 * Listens with the file made in its mode, so that there is no moment at which others could connect. Node removes
 * the file when the server closes.
 */
export function listenUnix(server: Server, path: string, mode: number): void {
  // bind() takes the mode from the umask; Node binds before listen() returns, so nothing else runs meanwhile.
  const before = process.umask(ALL_MODE_BITS & ~mode)
  try {
    server.listen(listenOptions({ path }))
  } finally {
    process.umask(before)
  }
}

/**
 * The same for one of several workers: it is the primary that binds (workers.ts), once for all, with a umask that lets
 * in nobody else, and that removes the file when the last worker has closed.
 */
export function listenShared(server: Server, path: string, mode: number): void {
  server.prependOnceListener('listening', () => chmodSync(path, mode))
  server.listen(listenOptions({ path }))
}

/** The error code of a connection attempt; undefined when somebody accepted. */
function tryToConnect(path: string): Promise<string | undefined> {
  return new Promise(resolve => {
    const socket = connect({ path })
    socket.on('connect', () => {
      socket.destroy()
      resolve(undefined)
    })
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
  })
}

function failed(path: string, why: string, cause?: unknown): TunnelError {
  return new TunnelError('LISTEN_FAILED', `on unix:${path}: ${why}`, { cause })
}
