/**
 * One dial into a cluster: which clients it has asked, what they answered, and whether it waits. It asks responsive
 * clients first, then the other replicas, then clients that are silent or draining; in all at most DIAL_TRIES of them,
 * and one more for each time that a client comes, or comes back, while the dial waits.
 */
import type { Duplex } from 'node:stream'
import {
  type Clock,
  type Dial,
  type DialContext,
  type ErrorCode,
  type Target,
  TunnelError
} from '@tendril/common'
import { type ClientIndex, type Health, type IndexedClient, health } from './client-index.js'

/** Most clients that one dial asks, those that come meanwhile aside. */
export const DIAL_TRIES = 3
/** How often the other replicas are asked again while a client is expected back, in milliseconds. */
export const ASK_AGAIN_MS = 250

const WELL: readonly Health[] = [health.WELL]
const CONNECTED: readonly Health[] = [health.WELL, health.SILENT, health.DRAINING]

export type SearchOptions = {
  cluster: string
  index: ClientIndex
  /** A client is on its way that has not come yet. */
  isArriving: () => boolean
  remote: Dial | undefined
  /** Resolves at the next change among the clients, after `ms`, or when the caller leaves. */
  change: (ms: number, signal: AbortSignal) => Promise<void>
  /** A client failed for a reason of its own; the next one is asked. */
  onFailover: (code: ErrorCode) => void
  clock: Clock
}

export class Search {
  readonly #options: SearchOptions
  readonly #target: Target
  readonly #context: DialContext
  readonly #signal: AbortSignal
  readonly #endMs: number
  /** The clients asked, with their `cameAt` at that time: one that has come back since may be asked again. */
  readonly #asked = new Map<IndexedClient, number>()
  #triesLeft = DIAL_TRIES
  #came: number
  /** The error of the last client asked. */
  #last: TunnelError | undefined
  #lastRemote: TunnelError | undefined
  /** Why it was necessary to wait. */
  #waitedFor: TunnelError | undefined

  constructor(target: Target, context: DialContext, options: SearchOptions) {
    this.#options = options
    this.#target = target
    this.#context = context
    this.#signal = context.signal
    this.#endMs = options.clock.now() + context.timeoutMs
    this.#came = options.index.came
  }

  /** Runs until there is a stream, the time is over, or no client is expected any more. */
  async run(): Promise<Duplex> {
    for (;;) {
      const stream =
        (await this.#askClients(WELL)) ?? (await this.#askRemote()) ?? (await this.#askClients(CONNECTED))
      if (stream) return stream
      await this.#wait()
    }
  }

  /** Among the clients that are connected now. */
  async runOnce(): Promise<Duplex> {
    const stream = (await this.#askClients(WELL)) ?? (await this.#askClients(CONNECTED))
    if (stream) return stream
    throw this.#failure()
  }

  /** Those that fit best first, each once, looked for anew after each. Undefined when somebody else may do better. */
  async #askClients(among: readonly Health[]): Promise<Duplex | undefined> {
    const { index } = this.#options
    const may = (entry: IndexedClient): boolean => this.#asked.get(entry) !== entry.cameAt
    while (this.#triesLeft > 0) {
      const entry = index.best(this.#target.host, among, may)
      if (!entry) return undefined
      this.#triesLeft--
      this.#asked.set(entry, entry.cameAt)
      const answer = await this.#ask(entry.client.dial)
      if (!(answer instanceof TunnelError)) return answer
      this.#last = answer
      if (answer.code === 'DRAINING') entry.saidDraining = true
      if (entry.places.length > 0) index.refresh(entry)
    }
    return undefined
  }

  async #askRemote(): Promise<Duplex | undefined> {
    const { remote } = this.#options
    if (!remote) return undefined
    const answer = await this.#ask(remote)
    if (!(answer instanceof TunnelError)) return answer
    this.#lastRemote = answer
    return undefined
  }

  /** The stream, or the error after which another client may succeed. Rejects when none can. */
  async #ask(dial: Dial): Promise<Duplex | TunnelError> {
    const timeoutMs = this.#leftMs()
    try {
      return await dial(this.#target, { ...this.#context, timeoutMs })
    } catch (error) {
      const failure = TunnelError.from(error)
      // Whoever was asked did not answer in time: that is what the front's bound says, too. A link that does not
      // respond may not have brought the question to a client at all.
      if (this.#isLate) throw failure.code === 'LINK_LOST' ? failure : this.#signal.reason
      if (!failure.retryable) throw failure
      if (failure.code !== 'NO_CLIENT') this.#options.onFailover(failure.code)
      return failure
    }
  }

  /** Until a client comes or comes back. Rejects when none is expected. */
  async #wait(): Promise<void> {
    const { index, isArriving, remote, change } = this.#options
    const { silent, draining, down } = index.counts
    const expected = silent + draining + down > 0 || isArriving() || isPassing(this.#lastRemote)
    if (!expected) throw this.#failure()
    this.#waitedFor = this.#whyNobody()
    const leftMs = this.#leftMs()
    await change(remote ? Math.min(ASK_AGAIN_MS, leftMs) : leftMs, this.#signal)
    if (index.came !== this.#came) this.#triesLeft = Math.max(this.#triesLeft, 1)
    this.#came = index.came
  }

  /** Rejects with what is known when the time is over: nobody is being asked at this moment. */
  #leftMs(): number {
    const leftMs = Math.ceil(this.#endMs - this.#options.clock.now())
    if (leftMs <= 0 || this.#isLate) throw this.#failure()
    if (this.#signal.aborted) throw this.#last ?? new TunnelError('DIAL_CANCELLED')
    return leftMs
  }

  /** The front's time limit is over, and it asks for the reason. */
  get #isLate(): boolean {
    const reason: unknown = this.#signal.reason
    return reason instanceof TunnelError && reason.code === 'DIAL_TIMEOUT'
  }

  /** A client's own error is the most useful one. */
  #failure(): TunnelError {
    return this.#last ?? this.#waitedFor ?? this.#whyNobody()
  }

  #whyNobody(): TunnelError {
    const { cluster, index, isArriving } = this.#options
    if (index.size === 0 && !isArriving() && this.#lastRemote) return this.#lastRemote
    return whyNobody(cluster, index, isArriving())
  }
}

/** A replica has a client, which is only away for now. */
function isPassing(failure: TunnelError | undefined): boolean {
  return failure?.code === 'LINK_LOST' || failure?.code === 'DRAINING'
}

/** What is known of the clients of a cluster when none of them could be asked. */
function whyNobody(cluster: string, { size, counts }: ClientIndex, arriving: boolean): TunnelError {
  if (size === 0 && !arriving) return new TunnelError('NO_CLIENT', `for cluster ${cluster}`)
  const { well, silent, draining, down } = counts
  const facts = Object.entries({ down, 'not responding': silent, draining, connected: well })
    .filter(([, count]) => count > 0)
    .map(([what, count]) => `${count} ${what}`)
  if (arriving) facts.push('1 connecting')
  const clients = `clients: ${facts.join(', ')}`
  if (draining > 0 && draining === size && !arriving) {
    return new TunnelError('DRAINING', `all clients of cluster ${cluster} are leaving (${clients})`)
  }
  return new TunnelError('LINK_LOST', `cluster ${cluster} is expected back, but was not in time (${clients})`)
}
