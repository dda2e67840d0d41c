/**
 * The server's side of the link handshake, and the table of links: it finds the link that a new carrier resumes, and
 * ends older links that a new one replaces. A link belongs to the verified identity that opened it. No other identity
 * can resume it, whatever id it sends.
 */
import { randomBytes } from 'node:crypto'
import type { Carrier } from '../carrier.js'
import { type Clock, systemClock } from '../clock.js'
import { CountedLimit, type Release } from '../counted-limit.js'
import { TunnelError } from '../errors.js'
import type { BudgetShare } from '../fair-budget.js'
import { HANDSHAKE_TIMEOUT_MS } from './handshake.js'
import { Link, type LinkLimits, linkDefaults } from './link.js'
import { LINK_ID_BYTES, type LinkHello, decodeHello, encodeRefuse, encodeWelcome } from './link-message.js'

/** The peer of a carrier, verified before. */
export type LinkPeer = {
  /** Stable over certificate renewals: cluster and subject. Links are bound to it. */
  key: string
}

export type LinkHostOptions<P extends LinkPeer> = {
  /** This replica's id, sent to every client. */
  server: string
  /** Called before anything is received on a new link. The caller puts a session on it. */
  onLink: (link: Link, hello: LinkHello, peer: P) => void
  /** A link was resumed over another carrier, perhaps from another address. */
  onResume?: (link: Link, peer: P) => void
  /** A handshake was refused, with this reason in the answer. */
  onRefuse?: (error: TunnelError, peer: P) => void
  limits?: Partial<LinkLimits>
  clock?: Clock
  /** The replay budget of this peer's party. Default 256 MiB for each link. */
  budgetOf?: (peer: P) => BudgetShare
  /**
   * Called before a link is opened, when the older links that it replaces have ended. Throws to refuse the link, else
   * returns the release for when the link has ended. A link that is down has not ended. Default: at most 4096 links.
   */
  admit?: (hello: LinkHello, peer: P) => Release
}

/** Default for the most links of a process. */
export const LINK_LIMIT = 4_096

type Entry = { link: Link; key: string; hello: LinkHello }

/** Identity, name and connection index of a link: a newer link with the same ones replaces the older. */
function placeOf({ key }: LinkPeer, { name, connectionIndex }: LinkHello): string {
  return JSON.stringify([key, name, connectionIndex])
}

export class LinkHost<P extends LinkPeer> {
  readonly #options: LinkHostOptions<P>
  readonly #limits: LinkLimits
  readonly #clock: Clock
  readonly #admit: (hello: LinkHello, peer: P) => Release
  /** By id. */
  readonly #entries = new Map<string, Entry>()
  /** By place, so that the search for older links does not depend on the number of links. */
  readonly #places = new Map<string, Set<Entry>>()
  #draining = false

  constructor(options: LinkHostOptions<P>) {
    this.#options = options
    this.#limits = { ...linkDefaults, ...options.limits }
    this.#clock = options.clock ?? systemClock
    const links = new CountedLimit(LINK_LIMIT, { key: 'link.linkLimit', counted: 'links are open' })
    this.#admit = options.admit ?? (() => links.acquire())
  }

  /** Refuses new links with DRAINING from now on. Existing links may still be resumed. */
  drain(): void {
    this.#draining = true
  }

  get size(): number {
    return this.#entries.size
  }

  /** Answers the handshake that the peer begins on a new carrier. */
  accept(carrier: Carrier, peer: P): void {
    let refused = false
    const timer = this.#clock.after(HANDSHAKE_TIMEOUT_MS, () => {
      carrier.close('PROTOCOL_ERROR', `no link HELLO within ${HANDSHAKE_TIMEOUT_MS} ms`)
    })
    const onMessage = (message: Buffer): void => {
      try {
        const refusal = this.#answer(carrier, peer, decodeHello(message))
        if (refusal) {
          // One REFUSE for each carrier: after it the client may only ask for a new link.
          if (refused) throw refusal
          refused = true
          this.#options.onRefuse?.(refusal, peer)
          carrier.send(encodeRefuse({ code: refusal.code, text: refusal.detail ?? '' }))
          return
        }
        done()
      } catch (error) {
        const broken = TunnelError.from(error)
        done()
        this.#options.onRefuse?.(broken, peer)
        carrier.close(broken.code, broken.detail)
      }
    }
    const done = (): void => {
      timer.cancel()
      carrier.off('message', onMessage)
      carrier.off('close', done)
    }
    carrier.on('message', onMessage)
    carrier.on('close', done)
  }

  /** Undefined when the link is resumed over the carrier, otherwise the reason for the refusal. */
  #answer(carrier: Carrier, peer: P, hello: LinkHello): TunnelError | undefined {
    if (hello.resume) return this.#resume(carrier, peer, hello, hello.resume)
    this.#open(carrier, peer, hello)
    return undefined
  }

  #open(carrier: Carrier, peer: P, hello: LinkHello): void {
    if (this.#draining) throw new TunnelError('DRAINING', 'this server takes no new links')
    this.#supersede(peer, hello)
    const release = this.#admit(hello, peer)
    const budget = this.#options.budgetOf?.(peer)
    const link = new Link({ limits: this.#limits, clock: this.#clock, ...(budget && { budget }) })
    const id = randomBytes(LINK_ID_BYTES)
    const key = id.toString('hex')
    link.id = id
    const forget = this.#remember(key, { link, key: peer.key, hello }, placeOf(peer, hello))
    link.on('close', () => {
      forget()
      release()
    })
    this.#options.onLink(link, hello, peer)
    this.#welcome(carrier, link, id, hello, 0)
  }

  #remember(id: string, entry: Entry, place: string): () => void {
    const here = this.#places.get(place) ?? new Set()
    this.#places.set(place, here.add(entry))
    this.#entries.set(id, entry)
    return () => {
      this.#entries.delete(id)
      here.delete(entry)
      if (here.size === 0 && this.#places.get(place) === here) this.#places.delete(place)
    }
  }

  #resume(
    carrier: Carrier,
    peer: P,
    hello: LinkHello,
    { id, received }: { id: Buffer; received: number }
  ): TunnelError | undefined {
    const entry = this.#entries.get(id.toString('hex'))
    // The same answer for a wrong identity and for a wrong id, so that it does not show which ids exist.
    if (!entry || entry.key !== peer.key)
      return new TunnelError('RESUME_REFUSED', 'this server holds no such link')
    const from = entry.link.resumePoint(received)
    if (from === undefined) {
      entry.link.close('RESUME_REFUSED', 'the message counts of the two sides do not fit')
      return new TunnelError('RESUME_REFUSED', 'the message counts of the two sides do not fit')
    }
    this.#welcome(carrier, entry.link, id, hello, from)
    this.#options.onResume?.(entry.link, peer)
    return undefined
  }

  #welcome(carrier: Carrier, link: Link, id: Buffer, hello: LinkHello, from: number): void {
    // The old carrier is silenced by attach() in this same turn, so `received` is final.
    carrier.send(
      encodeWelcome({
        id,
        resumed: hello.resume !== undefined,
        received: link.received,
        sendsFrom: from,
        replayLimitBytes: this.#limits.replayLimitBytes,
        resumeWindowMs: this.#limits.resumeWindowMs,
        server: this.#options.server
      })
    )
    link.attach(carrier, {
      peerReceived: from,
      peerSendsFrom: link.received,
      peerReplayLimitBytes: hello.replayLimitBytes
    })
  }

  /**
   * A client that opens a new link in the place of an older one no longer knows the older one. If it is the same
   * process, the older link ends at once. If it is another process with the same name and the older link is down, the
   * client was restarted, and the older link ends, too. If the older link is up, two clients share a name by mistake,
   * or the older one is gone and that was not noticed yet: a ping decides.
   */
  #supersede(peer: P, hello: LinkHello): void {
    for (const { link, hello: old } of [...(this.#places.get(placeOf(peer, hello)) ?? [])]) {
      if (old.instance.equals(hello.instance) || link.state === 'down') link.close('SUPERSEDED')
      else link.probe()
    }
  }
}
