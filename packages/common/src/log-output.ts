/**
 * Where log lines go: a file descriptor that may be slow, full or broken. Lines are dropped and counted then, and the
 * program goes on. Knows nothing of what a line says. pino's own destination is not used: a write that fails ends the
 * process there, and its last write repeats for ever while it fails.
 *
 *     writing ──error──► broken: the bytes under way are kept, the lines that wait are dropped
 *        ▲                  │  once per second the bytes that were kept are written again
 *        └──── written ◄────┘  then `onResume` tells how many lines are missing, at the place where they are
 */
import { write as writeFd, writeSync as writeFdSync } from 'node:fs'
import { type Clock, type Timer, systemClock } from './clock.js'

/** A reader of the log that stalls costs lines beyond this, never the tunnel. */
export const LOG_BUFFER_BYTES = 1_048_576

/** PIPE_BUF: writes up to this size are whole lines also where several processes write to one pipe (pipe(7)). */
export const LOG_WRITE_BYTES = 4_096

/** How long after a write that failed the next one is tried, in milliseconds. */
export const LOG_RETRY_MS = 1_000

/** The same while the pipe is full and does not block, in milliseconds. */
export const LOG_AGAIN_MS = 20

/** How long the last lines may wait for room in such a pipe when the process exits, in milliseconds. */
const LAST_LINES_MS = 1_000

/** Not failures: the same write succeeds later. */
const AGAIN = new Set(['EAGAIN', 'EINTR', 'EBUSY'])

export type LogOutputOptions = {
  /** Default standard output. */
  fd?: number
  /** Lines were dropped. They are counted one call after another. */
  onDrop?: ((lines: number) => void) | undefined
  /** Lines are taken again; `lines` were dropped since the last time. What it logs stands where they are missing. */
  onResume?: ((lines: number) => void) | undefined
  /** `fs.write` and `fs.writeSync`, for tests. */
  write?: (fd: number, bytes: Buffer, done: (error: Error | null, written: number) => void) => void
  writeSync?: (fd: number, bytes: Buffer) => number
  clock?: Clock
}

export class LogOutput {
  readonly #fd: number
  readonly #options: LogOutputOptions
  readonly #clock: Clock
  readonly #write: NonNullable<LogOutputOptions['write']>
  readonly #writeSync: NonNullable<LogOutputOptions['writeSync']>
  /** Lines that wait, oldest first, and the bytes of them and of those under way. */
  #lines: Buffer[] = []
  #bytes = 0
  /** The bytes of whole lines that are being written, or are to be written again. */
  #underWay: Buffer | undefined
  #isWriting = false
  #retry: Timer | undefined
  /** Since the last `onResume`. While it is not 0 every line is dropped, so that the lines lost are in one place. */
  #dropped = 0

  constructor(options: LogOutputOptions = {}) {
    const { fd = 1, clock = systemClock, write = writeFd, writeSync = writeFdSync } = options
    this.#options = options
    this.#fd = fd
    this.#clock = clock
    this.#write = write
    this.#writeSync = writeSync
  }

  /** Takes or drops one line. Never throws, never waits. */
  write(line: string): void {
    if (this.#dropped > 0) return this.#drop(1)
    const bytes = Buffer.from(line)
    // One that is longer than all that may wait is written when nothing waits: lines come back with the end of a write.
    if (this.#bytes > 0 && this.#bytes + bytes.length > LOG_BUFFER_BYTES) return this.#drop(1)
    this.#lines.push(bytes)
    this.#bytes += bytes.length
    if (!this.#isWriting && !this.#retry) this.#next()
  }

  /** For the end of the process: writes what waits as far as the descriptor takes it. */
  flush(): void {
    this.#retry?.cancel()
    // Node waits for a write that a thread of its pool still makes.
    const begun = this.#isWriting || !this.#underWay ? [] : [this.#underWay]
    const waiting = [...begun, ...this.#lines]
    this.#lines = []
    try {
      writeFully(this.#fd, Buffer.concat(waiting), { write: this.#writeSync, patienceMs: LAST_LINES_MS })
    } catch {
      // The process ends: there is nothing left to do about it.
    }
  }

  #next(): void {
    this.#retry = undefined
    this.#underWay ??= this.#gather()
    if (!this.#underWay) return
    this.#isWriting = true
    this.#write(this.#fd, this.#underWay, (error, written) => {
      this.#isWriting = false
      if (error) this.#failed(error)
      else this.#wrote(written)
    })
  }

  /** As many whole lines as are written at once. */
  #gather(): Buffer | undefined {
    let bytes = 0
    let count = 0
    for (const { length } of this.#lines) {
      if (count > 0 && bytes + length > LOG_WRITE_BYTES) break
      bytes += length
      count++
    }
    return count === 0 ? undefined : Buffer.concat(this.#lines.splice(0, count))
  }

  /** Perhaps not all of it: a pipe takes what it has room for. */
  #wrote(written: number): void {
    const rest = this.#underWay!.subarray(written)
    this.#bytes -= written
    this.#underWay = rest.length > 0 ? rest : undefined
    if (written === 0) return this.#tryAgain(LOG_AGAIN_MS)
    if (!this.#underWay && this.#lines.length === 0 && this.#dropped > 0) {
      const dropped = this.#dropped
      this.#dropped = 0
      this.#options.onResume?.(dropped)
    }
    if (!this.#isWriting) this.#next()
  }

  #failed({ code = '' }: NodeJS.ErrnoException): void {
    if (AGAIN.has(code)) return this.#tryAgain(LOG_AGAIN_MS)
    const lines = this.#lines.length
    this.#lines = []
    this.#bytes = this.#underWay!.length
    if (lines > 0) this.#drop(lines)
    this.#tryAgain(LOG_RETRY_MS)
  }

  #tryAgain(ms: number): void {
    this.#retry = this.#clock.after(ms, () => this.#next())
  }

  #drop(lines: number): void {
    this.#dropped += lines
    this.#options.onDrop?.(lines)
  }
}

/**
 * Writes all of `bytes` before it returns. A full pipe that does not block is waited for, at most `patienceMs` until it
 * takes more. Default: as long as it takes.
 * @throws the error of the system
 */
export function writeFully(
  fd: number,
  bytes: Buffer,
  {
    write = writeFdSync,
    patienceMs = Infinity
  }: { write?: (fd: number, bytes: Buffer) => number; patienceMs?: number } = {}
): void {
  let waitedMs = 0
  for (let at = 0; at < bytes.length;) {
    try {
      at += write(fd, bytes.subarray(at))
      waitedMs = 0
    } catch (error) {
      if (!AGAIN.has((error as NodeJS.ErrnoException).code ?? '') || waitedMs >= patienceMs) throw error
      Atomics.wait(SLEEP, 0, 0, LOG_AGAIN_MS)
      waitedMs += LOG_AGAIN_MS
    }
  }
}

/** Only for Atomics.wait as a sleep: it is never notified. */
const SLEEP = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT))
