/**
 * A time limit for any Dial: it settles in time and when the caller leaves, even if the inner dial never settles.
 * kube-apiserver sets no deadline on a CONNECT, so this is the last place that can.
 */
import { type Clock, type Dial, TunnelError } from '@tendril/common'
import { formatHostPort } from '@tendril/common/wire/host-port'

/**
 * The same Dial, settled after `timeoutMs` at the latest (DIAL_TIMEOUT), at once when the signal aborts
 * (DIAL_CANCELLED); either aborts the inner dial, and a stream that comes too late is destroyed. When the time is over
 * the inner dial hears DIAL_TIMEOUT, and a reason of its own that it has at once counts instead: it knows whether the
 * target was asked at all.
 */
export function bounded(dial: Dial, clock: Clock): Dial {
  return (target, context) =>
    new Promise((resolve, reject) => {
      const { signal, timeoutMs } = context
      const inner = new AbortController()
      let settled = false

      const settle = (): boolean => {
        if (settled) return false
        settled = true
        timer.cancel()
        signal.removeEventListener('abort', onAbort)
        return true
      }
      const fail = (error: TunnelError): void => {
        if (!settle()) return
        inner.abort(error)
        reject(error)
      }
      const onAbort = (): void => fail(TunnelError.from(signal.reason, 'DIAL_CANCELLED'))
      let late: TunnelError | undefined
      const timer = clock.after(timeoutMs, () => {
        const reason = `${formatHostPort(target)} did not answer within ${timeoutMs} ms`
        const error = (late = new TunnelError('DIAL_TIMEOUT', reason))
        inner.abort(error)
        setImmediate(() => fail(error))
      })

      signal.addEventListener('abort', onAbort)
      if (signal.aborted) return onAbort()
      dial(target, { ...context, signal: inner.signal }).then(
        stream => {
          if (settle()) return resolve(stream)
          stream.on('error', () => {})
          stream.destroy()
        },
        (error: unknown) => {
          const failure = TunnelError.from(error)
          fail(late && failure.code === 'DIAL_CANCELLED' ? late : failure)
        }
      )
    })
}
