/**
 * Looks up the addresses of a name as getaddrinfo does in a pod, but inside this process, so that a question can be
 * taken back: hosts file, search domains, ndots, nameservers in turn. Each question has a channel of its own (c-ares):
 * one that is not answered holds nobody else. Rules: resolv.conf(5), RFC 6761 section 6.3 (localhost); answers that are
 * cut short are asked for again over TCP by c-ares (RFC 1035 section 4.2.2).
 */
import { Resolver } from 'node:dns/promises'
import { inOrder } from './address-order.js'
import type { Clock } from './clock.js'
import type { ResolvConf, ResolverFiles } from './resolver-files.js'

/** All addresses of a name, most preferred first. Rejects with a NameError, or with the signal's reason. */
export type Lookup = (name: string, signal: AbortSignal) => Promise<string[]>

/** Codes of getaddrinfo: the name has no address, or no nameserver can answer now. */
export class NameError extends Error {
  override readonly name = 'NameError'
  readonly code: 'ENOTFOUND' | 'EAI_AGAIN'

  constructor(code: 'ENOTFOUND' | 'EAI_AGAIN', message: string) {
    super(message)
    this.code = code
  }
}

/** Most addresses of one name; more are left out. */
export const ADDRESS_LIMIT = 64
/** When one family has answered, how long the other may take. */
export const OTHER_FAMILY_MS = 1_000
/** A nameserver that did not answer is asked after the others for so long. */
const SILENT_MS = 30_000
/** RFC 1035 section 2.3.4, without the final dot. */
const NAME_LIMIT_CHARS = 253
/** Time-outs are ours: c-ares notices them late. */
const NEVER_MS = 3_600_000

type Answer =
  | { kind: 'found'; addresses: string[] }
  | { kind: 'none' }
  /** `answered`: the nameserver answered that it cannot resolve the name. */
  | { kind: 'failed'; answered: boolean; why: string }

export type DnsLookupOptions = {
  files: ResolverFiles
  /** Instead of those of resolv.conf. */
  nameservers?: readonly string[] | undefined
  clock: Clock
}

export function createDnsLookup({ files, nameservers, clock }: DnsLookupOptions): Lookup {
  /** When each nameserver was last silent. */
  const silentSinceMs = new Map<string, number>()
  let turn = 0

  function serversOf(conf: ResolvConf): string[] {
    const all = [...(nameservers && nameservers.length > 0 ? nameservers : conf.nameservers)]
    if (conf.rotate) all.push(...all.splice(0, turn++ % all.length))
    const isSilent = (server: string): boolean =>
      clock.now() - (silentSinceMs.get(server) ?? -Infinity) < SILENT_MS
    return [...all.filter(server => !isSilent(server)), ...all.filter(isSilent)]
  }

  async function askEach(name: string, conf: ResolvConf, signal: AbortSignal): Promise<Answer> {
    let answer: Answer = { kind: 'none' }
    for (let attempt = 0; attempt < conf.attempts; attempt++) {
      for (const server of serversOf(conf)) {
        answer = await ask(name, server, conf, { clock, signal })
        const silent = answer.kind === 'failed' && !answer.answered
        if (silent) silentSinceMs.set(server, clock.now())
        else silentSinceMs.delete(server)
        if (answer.kind !== 'failed') return answer
      }
    }
    return answer
  }

  async function askDns(name: string, signal: AbortSignal): Promise<string[] | undefined> {
    const conf = files.resolvConf
    let failure: string | undefined
    for (const candidate of candidatesOf(name, conf)) {
      const answer = await askEach(candidate, conf, signal)
      if (answer.kind === 'found') return inOrder(answer.addresses).slice(0, ADDRESS_LIMIT)
      if (answer.kind === 'none') continue
      failure ??= answer.why
      // As res_search(3): a nameserver that is silent is silent for the next domain as well.
      if (!answer.answered) break
    }
    if (failure !== undefined) throw new NameError('EAI_AGAIN', failure)
    return undefined
  }

  return async (name, signal) => {
    const bare = name.toLowerCase().replace(/\.$/, '')
    const local = bare === 'localhost' || bare.endsWith('.localhost') ? ['127.0.0.1', '::1'] : undefined
    for (const source of files.order) {
      const addresses = source === 'files' ? files.hosts.get(bare) : (local ?? (await askDns(name, signal)))
      if (addresses) return source === 'files' ? inOrder(addresses).slice(0, ADDRESS_LIMIT) : [...addresses]
    }
    if (local) return local
    throw new NameError('ENOTFOUND', `the name ${name} does not exist`)
  }
}

/** The names to ask for, in order: res_search(3). */
export function candidatesOf(
  name: string,
  { search, ndots }: Pick<ResolvConf, 'search' | 'ndots'>
): string[] {
  if (name.endsWith('.')) return [name.slice(0, -1)]
  const inDomains = search.map(domain => `${name}.${domain}`)
  const dots = name.split('.').length - 1
  const all = dots >= ndots ? [name, ...inDomains] : [...inDomains, name]
  return all.filter(candidate => candidate.length <= NAME_LIMIT_CHARS)
}

type Outcome = { addresses: string[] } | { error: string }

/** Codes of c-ares that say that the name has no such address; ENOTFOUND: it has none of any kind. */
const NONE = ['ENOTFOUND', 'ENODATA', 'EBADNAME']
const whyByCode: Record<string, string> = {
  ESERVFAIL: 'answered SERVFAIL',
  EREFUSED: 'answered REFUSED',
  ENOTIMP: 'answered NOTIMP',
  EFORMERR: 'answered FORMERR',
  EBADRESP: 'answered with something that is no DNS message',
  ECONNREFUSED: 'is not there (connection refused)'
}

/** One question to one nameserver: both families at once. Rejects only with the signal's reason. */
function ask(
  name: string,
  server: string,
  { timeoutMs, noAaaa }: ResolvConf,
  { clock, signal }: { clock: Clock; signal: AbortSignal }
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason)
    const resolver = new Resolver({ timeout: NEVER_MS, tries: 1 })
    resolver.setServers([server])
    const families = noAaaa ? 1 : 2
    const outcomes: Outcome[] = []

    const finish = (): void => {
      timer.cancel()
      soon?.cancel()
      signal.removeEventListener('abort', onAbort)
      resolver.cancel()
    }
    const onAbort = (): void => {
      finish()
      reject(signal.reason)
    }
    const settle = (): void => {
      finish()
      resolve(sum(outcomes, families, server))
    }
    const timer = clock.after(timeoutMs, settle)
    let soon: ReturnType<Clock['after']> | undefined
    signal.addEventListener('abort', onAbort, { once: true })
    const onOutcome = (outcome: Outcome): void => {
      outcomes.push(outcome)
      if (outcomes.length === families) settle()
      else if (!('error' in outcome) || NONE.includes(outcome.error)) {
        soon = clock.after(OTHER_FAMILY_MS, settle)
      }
    }
    const questions = [resolver.resolve4(name), ...(noAaaa ? [] : [resolver.resolve6(name)])]
    for (const question of questions) {
      question.then(
        addresses => onOutcome({ addresses }),
        (error: unknown) => {
          const { code = '' } = error as NodeJS.ErrnoException
          // ECANCELLED: it was us.
          if (code !== 'ECANCELLED') onOutcome({ error: code })
        }
      )
    }
  })
}

function sum(outcomes: readonly Outcome[], families: number, server: string): Answer {
  const addresses = outcomes.flatMap(outcome => ('addresses' in outcome ? outcome.addresses : []))
  if (addresses.length > 0) return { kind: 'found', addresses: [...new Set(addresses)] }
  const errors = outcomes.flatMap(outcome => ('error' in outcome ? [outcome.error] : []))
  const complete = outcomes.length === families && errors.every(error => NONE.includes(error))
  // RFC 8020: a name that does not exist has no address of the other family either.
  if (complete || errors.includes('ENOTFOUND') || errors.includes('EBADNAME')) return { kind: 'none' }
  const error = errors.find(error => !NONE.includes(error))
  const answered = error !== undefined && error !== 'ECONNREFUSED' && error !== 'ETIMEOUT'
  const why = (error !== undefined && whyByCode[error]) || 'does not answer'
  return { kind: 'failed', answered, why: `nameserver ${server} ${why}` }
}
