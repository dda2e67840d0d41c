/**
 * What a front answers to a CONNECT, as bytes. Pure. The form follows kube-apiserver's reader: only status 200
 * is success, nothing may follow its header in the same read, and of a refusal only the status line survives,
 * so the cause stands in the reason phrase.
 */
import { type ErrorCode, TunnelError } from '@tendril/common'

/** The whole success: RFC 9110 §9.3.6 allows no Content-Length in it. To be written alone. */
export const ESTABLISHED = Buffer.from('HTTP/1.1 200 Connection established\r\n\r\n', 'latin1')

/** Most characters of a reason phrase: kube-apiserver puts it whole into its log and its error. */
export const REASON_LIMIT = 200

/** RFC 9209 §2.3: the registered error types, so that callers which are not kube-apiserver can tell causes apart. */
const proxyErrorTypes: Partial<Record<ErrorCode, string>> = {
  BAD_REQUEST: 'http_request_error',
  BAD_TARGET: 'http_request_error',
  NOT_CONNECT: 'http_request_error',
  HEADER_TIMEOUT: 'http_request_error',
  HEADER_TOO_LARGE: 'http_request_error',
  NOT_IDENTIFIED: 'http_request_denied',
  CALLER_DENIED: 'http_request_denied',
  UNKNOWN_CLUSTER: 'destination_not_found',
  TARGET_DENIED: 'destination_ip_prohibited',
  TARGET_REFUSED: 'connection_refused',
  TARGET_UNREACHABLE: 'destination_ip_unroutable',
  TARGET_NOT_FOUND: 'dns_error',
  TARGET_RESET: 'connection_terminated',
  DIAL_TIMEOUT: 'connection_timeout',
  NO_CLIENT: 'destination_unavailable',
  LINK_LOST: 'destination_unavailable',
  DRAINING: 'destination_unavailable',
  OVERLOADED: 'connection_limit_reached'
}
const OTHER_ERROR_TYPE = 'proxy_internal_error'

/** What RFC 9110 asks for beside some statuses. The scheme of a 407 is not registered: there is none for mTLS. */
const extraFields: Partial<Record<ErrorCode, string>> = {
  NOT_CONNECT: 'Allow: CONNECT\r\n',
  NOT_IDENTIFIED: 'Proxy-Authenticate: TLS-Client-Certificate realm="tendril"\r\n'
}

/** The whole refusal. The connection is closed after it. */
export function refusal(error: TunnelError): Buffer {
  const body = `${visible(error.message)}\n`
  return Buffer.from(
    `HTTP/1.1 ${error.httpStatus} ${visible(error.message).slice(0, REASON_LIMIT)}\r\n` +
      'Content-Type: text/plain\r\n' +
      `Content-Length: ${body.length}\r\n` +
      'Connection: close\r\n' +
      (extraFields[error.code] ?? '') +
      `Proxy-Status: tendril; error=${proxyErrorTypes[error.code] ?? OTHER_ERROR_TYPE}; details="${error.code}"\r\n` +
      '\r\n' +
      body,
    'latin1'
  )
}

/** Visible ASCII and spaces only: a detail may quote a caller, and must not be able to write header lines. */
function visible(text: string): string {
  return text.replace(/[\t\r\n]+/g, ' ').replace(/[^\x20-\x7e]/g, '?')
}
