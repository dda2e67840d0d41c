/** The context of a test's dial: what it does not say is that of a caller named `test` at a front named `test`. */
import { DIAL_TIMEOUT_MS, type DialContext } from '../../src/dial.js'

export function dialContext(context: Partial<DialContext> = {}): DialContext {
  return {
    signal: new AbortController().signal,
    timeoutMs: DIAL_TIMEOUT_MS,
    principal: { kind: 'caller', name: 'test' },
    front: 'test',
    hops: 0,
    ...context
  }
}
