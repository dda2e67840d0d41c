/** When a shoot-client is ready: a link to at least one server is up. Pure: the links come in as a list. */
import type { Readiness } from '@tendril/common/admin/admin-listener'

/**
 * One server of the configuration as the tunnel manager sees it. `detail` is a sentence fragment: since when, or why
 * not.
 */
export type LinkView = { server: string; up: boolean; detail?: string }

export function readiness(links: readonly LinkView[]): Readiness {
  return { ok: links.some(({ up }) => up), reasons: links.map(sentenceOf) }
}

function sentenceOf({ server, up, detail }: LinkView): string {
  return `server ${server}: link is ${up ? 'up' : 'down'}${detail ? `, ${detail}` : ''}`
}
