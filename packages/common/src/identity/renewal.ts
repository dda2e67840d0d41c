/** When connections that were made with a bundle's files are replaced after these have changed. */
import type { Bundle } from './bundle.js'

/** Longest wait before a connection is replaced, in milliseconds: with time to connect it is done within 60 s. */
export const RENEWAL_MS = 50_000

/**
 * Calls `renew` when the files have changed, with the time over which the replacing is to be spread: at most half of
 * what the certificate before is still good for, as the other side ends what was opened with it.
 * @returns the release; calling it twice is fine.
 */
export function followRenewals(
  bundle: Pick<Bundle, 'notAfter' | 'on' | 'off'>,
  renew: (withinMs: number) => void,
  today: () => Date = () => new Date()
): () => void {
  let { notAfter } = bundle
  const onChange = (): void => {
    const leftMs = notAfter.getTime() - today().getTime()
    notAfter = bundle.notAfter
    renew(Math.min(RENEWAL_MS, Math.max(leftMs / 2, 0)))
  }
  bundle.on('change', onChange)
  return () => void bundle.off('change', onChange)
}
