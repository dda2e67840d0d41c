/**
 * The server's side of the link handshake, and the table of links it has answered for: which of them a fresh
 * carrier goes on with, and which older ones it makes superfluous. A link belongs to the verified identity that
 * opened it; nobody else can go on with it, whatever id they present.
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

/** Who is behind a carrier, as verified before it was handed over. */
export type LinkPeer = {
  /** Stable over certificate renewals: cluster and subject. Links are bound to it. */
  key: string
}

export type LinkHostOptions<P extends LinkPeer> = {
  /** This replica's id, told to every client. */
  server: string
  /** Called before anything is received on a new link: put a session on it. */
  onLink: (link: Link, hello: LinkHello, peer: P) => void
  /** A link went on over another carrier, perhaps from elsewhere. */
  onResume?: (link: Link, peer: P) => void
  /** A handshake was refused; the reason is what the client heard. */
  onRefuse?: (error: TunnelError, peer: P) => void
  limits?: Partial<LinkLimits>
  clock?: Clock
  /** What the links of this peer and others of its party keep for a resume. Default 256 MiB for each link. */
  budgetOf?: (peer: P) => BudgetShare
  /**
   * Asked before a link is opened, when the older links that it replaces have ended. Refuses by throwing, else returns
   * what to call when the link has ended; links that are down have not. Default: at most 4096 links.
   */
  admit?: (hello: LinkHello, peer: P) => Release
}

/** Most links of a process at once, when nothing else is said. */
export const LINK_LIMIT = 4_096

type Entry = { link: Link; key: string; hello: LinkHello }

/** One place that a client may have a link in: a newer link there makes the older one superfluous. */
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
  /** By place, so that looking for older links does not cost more for each link there is. */
  readonly #places = new Map<string, Set<Entry>>()
  #draining = false

  constructor(options: LinkHostOptions<P>) {
    this.#options = options
    this.#limits = { ...linkDefaults, ...options.limits }
    this.#clock = options.clock ?? systemClock
    const links = new CountedLimit(LINK_LIMIT, { key: 'link.linkLimit', counted: 'links are open' })
    this.#admit = options.admit ?? (() => links.acquire())
  }

  /** New links are refused with DRAINING from here on; those there are may still go on over other carriers. */
  drain(): void {
    this.#draining = true
  }

  get size(): number {
    return this.#entries.size
  }

  /** Answers the handshake that the peer begins on a fresh carrier. */
  accept(carrier: Carrier, peer: P): void {
    let refused = false
    const timer = this.#clock.after(HANDSHAKE_TIMEOUT_MS, () => {
      carrier.close('PROTOCOL_ERROR', `no link HELLO within ${HANDSHAKE_TIMEOUT_MS} ms`)
    })
    const onMessage = (message: Buffer): void => {
      try {
        const refusal = this.#answer(carrier, peer, decodeHello(message))
        if (refusal) {
          // One REFUSE for each carrier: after it the client asks for a new link, or is not heard any more.
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

  /** Undefined when a link goes on over the carrier; otherwise why a resume is refused. */
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
    // A wrong identity hears the same as a wrong id: an id that was guessed or stolen tells nothing.
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
   * A client that opens a new link in a place where it had one does not know the old one any more. The same
   * process: the old link ends at once. Another process of the same name: it was restarted if its link is down;
   * if its link is up, two clients share a name by mistake, or the old one is dead and not yet missed: ask it.
   */
  #supersede(peer: P, hello: LinkHello): void {
    for (const { link, hello: old } of [...(this.#places.get(placeOf(peer, hello)) ?? [])]) {
      if (old.instance.equals(hello.instance) || link.state === 'down') link.close('SUPERSEDED')
      else link.probe()
    }
  }
}
