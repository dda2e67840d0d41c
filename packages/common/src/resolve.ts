/**
 * Names to addresses, asked anew every time. Uses getaddrinfo (`dns.lookup`), not the DNS client of Node: only the
 * former honours /etc/hosts, search domains and `ndots`, which is how names inside a cluster work. The price is a
 * thread of libuv's pool per question that nothing can cancel, so questions are few at once and shared.
 */
import { lookup as systemLookup } from 'node:dns/promises'

/**
 * All addresses of a name, most preferred first. Rejects with the error of getaddrinfo (`code` ENOTFOUND or EAI_*),
 * or with the signal's reason.
 */
export type Resolve = (name: string, signal: AbortSignal) => Promise<string[]>

export type ResolveOptions = {
  /** Questions under way at once. Default: what libuv grants them, half of UV_THREADPOOL_SIZE (4). More would queue there. */
  maxLookups?: number
  /** Asks the operating system; for tests. */
  lookup?: (name: string) => Promise<string[]>
}

const LIBUV_DEFAULT_THREADS = 4

/** libuv lets slow work (getaddrinfo) have (threads + 1) / 2 of its pool, so that files are never starved by names. */
function threadsForNames(): number {
  const threads = Number(process.env['UV_THREADPOOL_SIZE']) || LIBUV_DEFAULT_THREADS
  return Math.max(1, Math.floor((threads + 1) / 2))
}

async function askSystem(name: string): Promise<string[]> {
  // `verbatim` keeps the order of RFC 6724, which getaddrinfo has already applied.
  const answers = await systemLookup(name, { all: true, verbatim: true })
  return [...new Set(answers.map(({ address }) => address))]
}

type Waiter = { resolve: (addresses: string[]) => void; reject: (reason: unknown) => void }
type Question = { waiters: Set<Waiter>; asked: boolean }

/**
 * Makes a resolver. Everybody who asks for a name while a question about it is under way shares the answer, so that
 * one name whose servers are silent occupies one thread however often it is dialled. A question that nobody waits
 * for any more is dropped before it takes a thread.
 */
export function createResolve({
  maxLookups = threadsForNames(),
  lookup = askSystem
}: ResolveOptions = {}): Resolve {
  const questions = new Map<string, Question>()
  let underWay = 0

  function askNext(): void {
    if (underWay >= maxLookups) return
    for (const [name, question] of questions) {
      if (!question.asked) return ask(name, question)
    }
  }

  function ask(name: string, question: Question): void {
    question.asked = true
    underWay++
    const settle = (tell: (waiter: Waiter) => void): void => {
      underWay--
      questions.delete(name)
      for (const waiter of question.waiters) tell(waiter)
      askNext()
    }
    lookup(name).then(
      addresses => settle(waiter => waiter.resolve(addresses)),
      (error: unknown) => settle(waiter => waiter.reject(error))
    )
  }

  return (name, signal) =>
    new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason)
      let question = questions.get(name)
      if (!question) questions.set(name, (question = { waiters: new Set(), asked: false }))
      const { waiters } = question

      const leave = (): void => {
        waiters.delete(waiter)
        signal.removeEventListener('abort', onAbort)
      }
      const waiter: Waiter = {
        resolve: addresses => (leave(), resolve(addresses)),
        reject: reason => (leave(), reject(reason))
      }
      const onAbort = (): void => {
        waiter.reject(signal.reason)
        if (waiters.size === 0 && questions.get(name)?.asked === false) questions.delete(name)
      }
      signal.addEventListener('abort', onAbort)
      waiters.add(waiter)
      askNext()
    })
}
