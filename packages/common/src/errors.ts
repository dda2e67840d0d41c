/**
 * Every way a dial, a stream, a session or a link can fail: one table that the code, the wire, the HTTP status
 * lines, the metric labels and docs/errors.md are all made of. A new row is the only way to a new error.
 */

type Row = {
  /** Number on the wire: REFUSED, RESET, GOAWAY and the WebSocket close code (4000 + reset). Never reused. */
  reset: number
  /** What an HTTP caller gets when the error ends its CONNECT. */
  httpStatus: number
  /** The same attempt may succeed later or through another client, with nobody changing anything. */
  retryable: boolean
  message: string
}

export const errors = {
  CLOSED: { reset: 0, httpStatus: 502, retryable: false, message: 'closed' },

  BAD_REQUEST: { reset: 1, httpStatus: 400, retryable: false, message: 'bad request' },
  BAD_TARGET: { reset: 2, httpStatus: 400, retryable: false, message: 'bad target' },
  NOT_IDENTIFIED: { reset: 3, httpStatus: 407, retryable: false, message: 'caller not identified' },
  CALLER_DENIED: { reset: 4, httpStatus: 403, retryable: false, message: 'caller not allowed' },
  UNKNOWN_CLUSTER: { reset: 5, httpStatus: 404, retryable: false, message: 'unknown cluster' },
  NOT_CONNECT: { reset: 6, httpStatus: 405, retryable: false, message: 'only CONNECT is served here' },
  HEADER_TIMEOUT: { reset: 7, httpStatus: 408, retryable: false, message: 'request header took too long' },
  HEADER_TOO_LARGE: { reset: 8, httpStatus: 431, retryable: false, message: 'request header too large' },

  TARGET_DENIED: { reset: 16, httpStatus: 403, retryable: false, message: 'target denied' },
  TARGET_REFUSED: { reset: 17, httpStatus: 502, retryable: false, message: 'connection refused' },
  TARGET_UNREACHABLE: { reset: 18, httpStatus: 502, retryable: false, message: 'target unreachable' },
  TARGET_NOT_FOUND: { reset: 19, httpStatus: 502, retryable: false, message: 'no such host' },
  TARGET_RESET: { reset: 20, httpStatus: 502, retryable: false, message: 'connection reset by target' },
  DIAL_TIMEOUT: { reset: 21, httpStatus: 504, retryable: false, message: 'dial timed out' },
  DIAL_CANCELLED: { reset: 22, httpStatus: 499, retryable: false, message: 'caller left' },
  CALLER_RESET: { reset: 23, httpStatus: 502, retryable: false, message: 'connection reset by caller' },

  NO_CLIENT: { reset: 32, httpStatus: 503, retryable: true, message: 'no client connected' },
  LINK_LOST: { reset: 33, httpStatus: 503, retryable: true, message: 'link lost' },
  DRAINING: { reset: 34, httpStatus: 503, retryable: true, message: 'draining' },
  OVERLOADED: { reset: 35, httpStatus: 503, retryable: true, message: 'overloaded' },
  RESUME_EXPIRED: { reset: 36, httpStatus: 503, retryable: true, message: 'link not resumed in time' },
  RESUME_REFUSED: { reset: 37, httpStatus: 503, retryable: true, message: 'link cannot be resumed' },
  SUPERSEDED: { reset: 38, httpStatus: 503, retryable: true, message: 'replaced by a newer connection' },

  PROTOCOL_ERROR: { reset: 48, httpStatus: 502, retryable: true, message: 'protocol error' },
  VERSION_MISMATCH: { reset: 49, httpStatus: 502, retryable: false, message: 'no common protocol version' },
  FLOW_CONTROL_ERROR: { reset: 50, httpStatus: 502, retryable: true, message: 'more data than credit' },
  ONE_WAY: { reset: 51, httpStatus: 502, retryable: true, message: 'the peer takes no dials from this side' },

  CLIENT_NOT_IDENTIFIED: { reset: 64, httpStatus: 401, retryable: false, message: 'client not identified' },
  CLUSTER_DENIED: { reset: 65, httpStatus: 403, retryable: false, message: 'not a client of this cluster' },
  SERVER_NOT_IDENTIFIED: { reset: 66, httpStatus: 502, retryable: true, message: 'server not identified' },
  SERVER_UNREACHABLE: { reset: 67, httpStatus: 502, retryable: true, message: 'server unreachable' },
  PROXY_REFUSED: { reset: 68, httpStatus: 502, retryable: true, message: 'proxy refused' },

  BAD_CONFIG: { reset: 80, httpStatus: 500, retryable: false, message: 'bad configuration' },
  BAD_IDENTITY: { reset: 81, httpStatus: 500, retryable: false, message: 'certificate or key unusable' },
  LISTEN_FAILED: { reset: 82, httpStatus: 500, retryable: true, message: 'cannot listen' },
  INTERNAL: { reset: 127, httpStatus: 500, retryable: true, message: 'internal error' }
} as const satisfies Record<string, Row>

export type ErrorCode = keyof typeof errors

const codeByReset = new Map<number, ErrorCode>(
  Object.entries(errors).map(([code, row]) => [row.reset, code as ErrorCode])
)

/** The code behind a number from the wire. A number that this version does not know reads as `INTERNAL`. */
export function errorCodeOf(reset: number): ErrorCode {
  return codeByReset.get(reset) ?? 'INTERNAL'
}

/** The one error that crosses a border between folders. Match on `code`, never on text. */
export class TunnelError extends Error {
  override readonly name = 'TunnelError'
  readonly code: ErrorCode
  /** One sentence for the outside: which name, which rule, which limit. Never a secret, never a stack. */
  readonly detail: string | undefined

  constructor(code: ErrorCode, detail?: string, options?: { cause?: unknown }) {
    super(sentence(errors[code].message, detail), options)
    this.code = code
    this.detail = detail
  }

  get httpStatus(): number {
    return errors[this.code].httpStatus
  }

  get reset(): number {
    return errors[this.code].reset
  }

  get retryable(): boolean {
    return errors[this.code].retryable
  }

  /** Wraps what is not a TunnelError yet: once, at the border where it is met. */
  static from(error: unknown, code: ErrorCode = 'INTERNAL'): TunnelError {
    if (error instanceof TunnelError) return error
    return new TunnelError(code, error instanceof Error ? error.message : String(error), { cause: error })
  }
}

/** A detail that begins with "for" or "on" goes on with the message ("no client connected for cluster demo"). */
function sentence(message: string, detail: string | undefined): string {
  if (!detail) return message
  return /^(for|on) /.test(detail) ? `${message} ${detail}` : `${message}: ${detail}`
}
