/**
 * Joins two duplex streams, both ways: half-close is kept, back-pressure passes through, and when one side breaks the
 * other is reset rather than ended, so that nobody takes half an answer for a whole one. Data that a target sent before
 * it broke is delivered to the caller before the reset. The data of a caller that broke is discarded.
 */
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { type Clock, systemClock } from './clock.js'
import { UNREAD_TIMEOUT_MS, whileMoving } from './linger.js'
import { resetSocket } from './reset.js'

/** Why a splice ended: nothing when both directions came to their end, else the first error of either side. */
export type SpliceEnd = { error?: Error }

export type SpliceOptions = {
  clock?: Clock
  /** How long pending data waits for a caller that takes nothing, in milliseconds. Default 300 000. */
  unreadTimeoutMs?: number
}

/** With RST a kernel drops what it has yet to send: it waits so long behind the last bytes, in milliseconds. */
export const RESET_DELAY_MS = 1_000

const NOTHING = Buffer.alloc(0)

/**
 * Resolves when both sides are closed; never rejects. Both must keep half-close (`allowHalfOpen`). Bytes that
 * either side has already buffered are carried, and a side that somebody paused is resumed.
 */
export function splice(caller: Duplex, target: Duplex, options: SpliceOptions = {}): Promise<SpliceEnd> {
  const { clock = systemClock, unreadTimeoutMs = UNREAD_TIMEOUT_MS } = options
  return new Promise(resolve => {
    const end: SpliceEnd = {}
    let open = 2
    let toCallerAtMs = -Infinity

    const watch = (side: Duplex, breakOff: (error?: Error) => void): void => {
      let failed = false
      const onError = (error: Error): void => {
        failed = true
        end.error ??= error
        breakOff(error)
      }
      const onClose = (): void => {
        // Closed without an error and without both ends: somebody called destroy().
        if (!failed && !(side.readableEnded && side.writableFinished)) breakOff()
        if (--open === 0) resolve(end)
      }
      side.on('error', onError)
      if (!side.closed) return void side.on('close', onClose)
      queueMicrotask(() => {
        if (side.errored) onError(side.errored)
        onClose()
      })
    }

    const callerBroke = (error?: Error): void => {
      if (target.destroyed) return
      if (caller.readableEnded) closeBehind(target, error)
      else reset(target, error)
    }
    const targetBroke = (error?: Error): void => {
      if (caller.destroyed) return
      if (target.readableEnded) return closeBehind(caller, error)
      // Node keeps what it has read of a stream that is destroyed, but does not say it by itself.
      stopFlow()
      for (let chunk; (chunk = target.read() as Buffer | null) !== null;) caller.write(chunk)
      // What the caller still sends is discarded, but its end must be noticed.
      caller.resume()
      if (canResetBehind(caller)) return caller.resetBehind(error)
      const now = (): void => reset(caller, error)
      const written = (): void => {
        bound.cancel()
        const waited = clock.now() - toCallerAtMs
        if (caller.destroyed || waited >= RESET_DELAY_MS || !isOverNetwork(caller)) return now()
        bound = clock.after(RESET_DELAY_MS - waited, now)
      }
      let bound = whileMoving(clock, unreadTimeoutMs, () => caller.writableLength, now)
      caller.once('close', () => bound.cancel())
      if (caller.writableLength === 0) return written()
      caller.write(NOTHING, () => {
        toCallerAtMs = clock.now()
        written()
      })
    }

    watch(caller, callerBroke)
    watch(target, targetBroke)
    flow(caller, target)
    const stopFlow = flow(target, caller, () => (toCallerAtMs = clock.now()))
  })
}

/** One direction. A hand-written pipe: no clean-up closures per chunk, and `end` only, never `unpipe` on error. */
function flow(from: Duplex, to: Duplex, onChunk?: () => void): () => void {
  const fromOnData = (chunk: Buffer): void => {
    if (!to.write(chunk) && !to.destroyed) from.pause()
    onChunk?.()
  }
  from.on('data', fromOnData)
  to.on('drain', () => from.resume())
  from.on('end', () => to.end())
  if (from.readableEnded) to.end()
  else from.resume()
  return () => from.off('data', fromOnData)
}

/**
 * All data for `side` has been written. A RST now would make the kernel discard what it has not sent yet. After a plain
 * close the kernel sends that, and answers further data with RST. Until then data from `side` is discarded.
 */
function closeBehind(side: Duplex, error?: Error): void {
  side.resume()
  const close = (): void => void (side instanceof Socket ? side.destroy() : side.destroy(error))
  if (side.writableFinished) close()
  else side.once('finish', close)
}

/** A TCP peer then sees RST, not an orderly end. */
function reset(side: Duplex, error?: Error): void {
  if (side instanceof Socket) resetSocket(side, error)
  else side.destroy(error)
}

/** A stream of a session: its RESET follows what was written to it, as END would. */
function canResetBehind(side: Duplex): side is Duplex & { resetBehind(error?: Error): void } {
  return 'resetBehind' in side
}

/** Data written to a Unix socket is in the buffer of its reader: nothing is under way. */
function isOverNetwork(side: Duplex): boolean {
  return side instanceof Socket && side.remoteFamily !== undefined
}
