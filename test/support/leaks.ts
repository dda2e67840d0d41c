/**
 * "Nothing is left open" as a check: what keeps the event loop alive after a test is compared with what did before.
 * Sockets, listeners, timers, watchers and child processes count; what was unref'd does not keep anybody.
 */
import type { Test } from 'tap'
import { PATIENCE_MS } from './child-process.js'

/** Open things by kind, such as `{ TCPSocketWrap: 2 }`. Immediates and file requests are over before anyone could look. */
export function openResources(): Map<string, number> {
  const counts = new Map<string, number>()
  for (const kind of process.getActiveResourcesInfo()) {
    if (kind === 'Immediate' || kind.startsWith('FSReq') || kind === 'CloseReq') continue
    counts.set(kind, (counts.get(kind) ?? 0) + 1)
  }
  return counts
}

/**
 * Call first in a test: teardown runs in reverse order, so that this looks last. The test fails when something that
 * it opened stays open after everything was torn down.
 */
export function nothingLeft(t: Test): void {
  const before = openResources()
  t.teardown(async () => {
    const giveUpAt = performance.now() + PATIENCE_MS
    for (;;) {
      const left = [...openResources()].filter(([kind, count]) => count > (before.get(kind) ?? 0))
      if (left.length === 0) return
      if (performance.now() > giveUpAt) {
        const kinds = left.map(([kind, count]) => `${count - (before.get(kind) ?? 0)} ${kind}`).join(', ')
        throw new Error(`left open: ${kinds}`)
      }
      // This timer is the one `Timeout` that is ours; it has fired when the next look is taken.
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  })
}
