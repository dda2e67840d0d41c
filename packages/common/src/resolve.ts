/**
 * Names to addresses, asked anew every time. By default inside this process (dns-lookup.ts): a name whose nameserver is
 * silent holds nobody else and its question is taken back when nobody waits any more. `system` asks getaddrinfo, which
 * knows every source of nsswitch.conf and whose questions hold a thread each until they end by themselves.
 */
import { lookup as askGetaddrinfo } from 'node:dns/promises'
import { type Clock, systemClock } from './clock.js'
import { type Lookup, createDnsLookup } from './dns-lookup.js'
import { TunnelError } from './errors.js'
import type { Log } from './log.js'
import { ResolverFiles, type ResolverPaths } from './resolver-files.js'

/**
 * All addresses of a name, most preferred first. Rejects with an error whose `code` is ENOTFOUND or EAI_*, with
 * TunnelError OVERLOADED, or with the signal's reason.
 */
export type Resolve = (name: string, signal: AbortSignal) => Promise<string[]>

export type ResolveOptions = {
  /**
   * `own`: in this process; `system`: getaddrinfo; `auto` (default): `own` unless nsswitch.conf or resolv.conf ask for
   * what only getaddrinfo can do. Decided once, when the resolver is made.
   */
  resolver?: 'auto' | 'own' | 'system'
  /** Asked instead of those of resolv.conf: `address` or `address:port`. With `system` they mean nothing. */
  nameservers?: readonly string[] | undefined
  /**
   * Names under way at once. At the limit the oldest is given up with OVERLOADED. Default 1024. `system` has threads
   * instead.
   */
  maxQuestions?: number
  clock?: Clock
  /** The files that are read; for tests. */
  paths?: ResolverPaths
  /** Instead of either; for tests. */
  lookup?: Lookup
}

export const MAX_QUESTIONS = 1_024
/** A question that somebody waits for ends by then at the latest. */
const QUESTION_LIMIT_MS = 60_000

const LIBUV_DEFAULT_THREADS = 4

/**
 * How many names may be with getaddrinfo at once: libuv lets slow work have (threads + 1) / 2 of its pool. One of them
 * stays free for the names of our own servers, which a second resolver asks for.
 */
export function threadsForNames(): number {
  const threads = Number(process.env['UV_THREADPOOL_SIZE']) || LIBUV_DEFAULT_THREADS
  return Math.max(1, Math.floor((threads + 1) / 2) - 1)
}

const askSystem: Lookup = async name => {
  // `verbatim` keeps the order of RFC 6724, which getaddrinfo has already applied.
  const answers = await askGetaddrinfo(name, { all: true, verbatim: true })
  return [...new Set(answers.map(({ address }) => address))]
}

/** Which resolver it is on this machine, and why. */
export function chooseResolver(
  { resolver = 'auto', nameservers = [] }: Pick<ResolveOptions, 'resolver' | 'nameservers'>,
  files: ResolverFiles
): { resolver: 'own' | 'system'; reasons: readonly string[] } {
  if (resolver !== 'auto') return { resolver, reasons: [`dns.resolver is ${resolver}`] }
  if (nameservers.length > 0) return { resolver: 'own', reasons: ['dns.nameservers is set'] }
  // One reason for each thing that only getaddrinfo can do.
  const { unsupported } = files
  if (unsupported.length > 0) return { resolver: 'system', reasons: unsupported }
  return { resolver: 'own', reasons: ['nsswitch.conf and resolv.conf need no getaddrinfo'] }
}

/** Logs once, at start, who resolves names in this process, and why. */
export function logResolver(log: Log, options: ResolveOptions): void {
  const files = new ResolverFiles(options.clock ?? systemClock, options.paths)
  log.info({ event: 'resolver.chosen', ...chooseResolver(options, files) }, 'resolver chosen')
}

export function createResolve(options: ResolveOptions = {}): Resolve {
  const { clock = systemClock, nameservers, paths, maxQuestions = MAX_QUESTIONS } = options
  if (options.lookup)
    return shared({ lookup: options.lookup, limit: maxQuestions, atLimit: 'dropOldest', clock })
  const files = new ResolverFiles(clock, paths)
  if (chooseResolver(options, files).resolver === 'system') {
    return shared({ lookup: askSystem, limit: threadsForNames(), atLimit: 'wait', clock })
  }
  const lookup = createDnsLookup({ files, nameservers, clock })
  return shared({ lookup, limit: maxQuestions, atLimit: 'dropOldest', clock })
}

type Waiter = { resolve: (addresses: string[]) => void; reject: (reason: unknown) => void }
type Question = { waiters: Set<Waiter>; asked: boolean; controller: AbortController }

export type SharedOptions = {
  lookup: Lookup
  /** Questions under way at once. */
  limit: number
  /**
   * `dropOldest`: at the limit the oldest lookup fails. `wait`: the new one waits, for lookups that cannot be
   * cancelled.
   */
  atLimit: 'dropOldest' | 'wait'
  clock: Clock
}

/**
 * Everybody who asks for a name while a question about it is under way shares the answer, so that a name costs one
 * question however often it is dialled. A question that nobody waits for any more is taken back.
 */
export function shared({ lookup, limit, atLimit, clock }: SharedOptions): Resolve {
  /** By name, oldest first. */
  const questions = new Map<string, Question>()
  let underWay = 0

  function askNext(): void {
    if (underWay >= limit) return
    for (const [name, question] of questions) {
      if (!question.asked) return ask(name, question)
    }
  }

  function ask(name: string, question: Question): void {
    question.asked = true
    underWay++
    const { controller, waiters } = question
    const bound = clock.after(QUESTION_LIMIT_MS, () =>
      controller.abort(Object.assign(new Error('no answer'), { code: 'EAI_AGAIN' }))
    )
    const settle = (answer: (waiter: Waiter) => void): void => {
      underWay--
      bound.cancel()
      if (questions.get(name) === question) questions.delete(name)
      for (const waiter of waiters) answer(waiter)
      askNext()
    }
    lookup(name, controller.signal).then(
      addresses => settle(waiter => waiter.resolve(addresses)),
      (error: unknown) => settle(waiter => waiter.reject(error))
    )
  }

  function dropOldest(): void {
    for (const [name, { controller }] of questions) {
      questions.delete(name)
      return controller.abort(
        new TunnelError('OVERLOADED', `more than ${limit} names are being resolved (dns.maxQuestions)`)
      )
    }
  }

  /** Nobody waits any more. A lookup that cannot be cancelled stays in the map, so that the next request shares it. */
  function takeBack(name: string, question: Question): void {
    if (questions.get(name) !== question) return
    if (atLimit === 'wait' && question.asked) return
    questions.delete(name)
    question.controller.abort(new TunnelError('CLOSED', 'nobody waits for the name any more'))
  }

  return (name, signal) =>
    new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason)
      let question = questions.get(name)
      if (!question) {
        if (atLimit === 'dropOldest' && questions.size >= limit) dropOldest()
        questions.set(
          name,
          (question = { waiters: new Set(), asked: false, controller: new AbortController() })
        )
      }
      const asked = question

      const leave = (): void => {
        asked.waiters.delete(waiter)
        signal.removeEventListener('abort', onAbort)
      }
      const waiter: Waiter = {
        resolve: addresses => (leave(), resolve(addresses)),
        reject: reason => (leave(), reject(reason))
      }
      const onAbort = (): void => {
        waiter.reject(signal.reason)
        if (asked.waiters.size === 0) takeBack(name, asked)
      }
      signal.addEventListener('abort', onAbort)
      asked.waiters.add(waiter)
      if (atLimit === 'wait') askNext()
      else if (!asked.asked) ask(name, asked)
    })
}
