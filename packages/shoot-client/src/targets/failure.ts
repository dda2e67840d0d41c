/**
 * What the operating system said about a dial, as a row of the error table and a sentence that names the target.
 * The one place where errno names are known on this side.
 */
import { TunnelError } from '@tendril/common'
import type { ErrorCode } from '@tendril/common'
import type { Failure } from '@tendril/common/race'

const codeByErrno: Record<string, ErrorCode> = {
  ECONNREFUSED: 'TARGET_REFUSED',
  ECONNRESET: 'TARGET_RESET',
  EPIPE: 'TARGET_RESET',
  ETIMEDOUT: 'DIAL_TIMEOUT',
  EHOSTUNREACH: 'TARGET_UNREACHABLE',
  ENETUNREACH: 'TARGET_UNREACHABLE',
  EHOSTDOWN: 'TARGET_UNREACHABLE',
  ENETDOWN: 'TARGET_UNREACHABLE',
  EADDRNOTAVAIL: 'TARGET_UNREACHABLE',
  EAFNOSUPPORT: 'TARGET_UNREACHABLE',
  // A local firewall's verdict.
  EACCES: 'TARGET_UNREACHABLE',
  EPERM: 'TARGET_UNREACHABLE',
  // Our side ran out of something; another client may have it.
  EMFILE: 'OVERLOADED',
  ENFILE: 'OVERLOADED',
  ENOBUFS: 'OVERLOADED',
  ENOMEM: 'OVERLOADED'
}

/** When the addresses of one name fail differently, the failure that says most about the target is told. */
const mostSpecificFirst: ErrorCode[] = [
  'OVERLOADED',
  'TARGET_REFUSED',
  'TARGET_RESET',
  'DIAL_TIMEOUT',
  'TARGET_UNREACHABLE'
]

/** Most addresses named in one sentence. */
const MAX_NAMED = 4

export function codeOf(error: NodeJS.ErrnoException): ErrorCode {
  return codeByErrno[error.code ?? ''] ?? 'INTERNAL'
}

/** No address could be connected to. `where` is the target as it was asked for, `named` whether that was a name. */
export function connectFailed(
  where: string,
  named: boolean,
  failures: readonly Failure[],
  cause: unknown
): TunnelError {
  const codes = failures.map(({ error }) => codeOf(error))
  const code = mostSpecificFirst.find(code => codes.includes(code)) ?? 'INTERNAL'
  const each = failures.map(({ address, error }) => `${address} ${error.code ?? error.message}`)
  const more = each.length > MAX_NAMED ? `, and ${each.length - MAX_NAMED} more` : ''
  const detail = named ? `${where} (${each.slice(0, MAX_NAMED).join(', ')}${more})` : where
  return new TunnelError(code, detail, { cause })
}

/** The name could not be resolved. */
export function resolveFailed(name: string, error: NodeJS.ErrnoException): TunnelError {
  if (error instanceof TunnelError) return error
  const code = ['EMFILE', 'ENFILE', 'ENOMEM', 'EAI_MEMORY'].includes(error.code ?? '')
    ? 'OVERLOADED'
    : 'TARGET_NOT_FOUND'
  const sentence = error.name === 'NameError' ? error.message : (error.code ?? error.message)
  const why = error.code === 'ENOTFOUND' ? '' : ` (${sentence})`
  return new TunnelError(code, `${name}${why}`, { cause: error })
}
