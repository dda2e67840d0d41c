/**
 * The client's side of the link handshake: HELLO and its answer over a new carrier, after which the link continues over
 * that carrier. The server's side is `LinkHost`.
 */
import type { Carrier } from '../carrier.js'
import { type Clock, systemClock } from '../clock.js'
import { TunnelError } from '../errors.js'
import type { Link } from './link.js'
import { type LinkWelcome, decodeAnswer, encodeHello } from './link-message.js'

/** The client that opens or resumes the link; see LinkHello. */
export type LinkSelf = { name: string; instance: Buffer; connectionIndex: number }

/** How long the other side's first message may take, in milliseconds. */
export const HANDSHAKE_TIMEOUT_MS = 10_000

/**
 * Opens `link` over `carrier`, or goes on with it when it has an id. On RESUME_REFUSED the link cannot go on, but
 * the carrier can: ask again with a new link. After any other rejection the carrier is of no use. Rejects with the
 * server's refusal, LINK_LOST, PROTOCOL_ERROR, VERSION_MISMATCH, or CLOSED when the link ended meanwhile.
 */
export function shakeHands(
  carrier: Carrier,
  link: Link,
  self: LinkSelf,
  { clock = systemClock, timeoutMs = HANDSHAKE_TIMEOUT_MS }: { clock?: Clock; timeoutMs?: number } = {}
): Promise<LinkWelcome> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void): void => {
      timer.cancel()
      carrier.off('message', onMessage)
      carrier.off('close', onClose)
      act()
    }
    // The answer may be followed by session messages at once: the link takes over in this very call.
    const onMessage = (message: Buffer): void =>
      settle(() => {
        try {
          const answer = decodeAnswer(message)
          if ('refusal' in answer) return reject(new TunnelError(answer.refusal.code, answer.refusal.text))
          begin(link, carrier, answer.welcome)
          resolve(answer.welcome)
        } catch (error) {
          // The server may consider the link as up, so it gets the reason.
          const broken = TunnelError.from(error)
          carrier.close(broken.code, broken.detail)
          reject(broken)
        }
      })
    const onClose = (error: TunnelError): void => settle(() => reject(error))
    const timer = clock.after(timeoutMs, () =>
      settle(() => {
        const error = new TunnelError('LINK_LOST', `no answer to the link handshake within ${timeoutMs} ms`)
        carrier.terminate(error)
        reject(error)
      })
    )
    carrier.on('message', onMessage)
    carrier.on('close', onClose)
    const resume = link.id && { id: link.id, received: link.received }
    carrier.send(
      encodeHello({ ...self, ...(resume && { resume }), replayLimitBytes: link.limits.replayLimitBytes })
    )
  })
}

function begin(link: Link, carrier: Carrier, welcome: LinkWelcome): void {
  if (link.state === 'closed') throw new TunnelError('CLOSED', 'the link has ended')
  if (link.id && !link.id.equals(welcome.id))
    throw new TunnelError('PROTOCOL_ERROR', 'WELCOME names another link')
  try {
    link.attach(carrier, {
      peerReceived: welcome.received,
      peerSendsFrom: welcome.sendsFrom,
      peerReplayLimitBytes: welcome.replayLimitBytes
    })
  } catch (error) {
    const { code, detail } = TunnelError.from(error)
    link.close(code, detail)
    throw new TunnelError('PROTOCOL_ERROR', detail, { cause: error })
  }
  link.id = welcome.id
}
