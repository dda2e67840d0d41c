/**
 * How often it is read what clients announce. To read an announcement and to arrange its routes is work, and a client
 * may send others in a loop: of each link the first is read at once (it has paid for that with a handshake), of later
 * ones only the newest, and of all links of a cluster together so many in an interval. What comes too fast waits in
 * turn, in the place of what the link sent before; other clusters do not wait for it.
 */
import { type Clock, type Timer, TunnelError, systemClock } from '@tendril/common'

/** Between two rounds of reading what a cluster's links announced anew, in milliseconds. */
export const ANNOUNCEMENT_INTERVAL_MS = 100
/** Most announcements of a cluster that are read in one round. */
export const ANNOUNCEMENTS_PER_ROUND = 16

/** The announcements of one link. */
export type LinkAnnouncements = {
  receive: (text: string) => void
  /** Reads no more announcements of this link. */
  close: () => void
}

export type ReadAnnouncement = {
  read: (text: string) => void
  /** What `read` threw. */
  onError: (error: TunnelError) => void
}

/** Links whose newest announcement has yet to be read, in turn. */
type Queue = Map<ReadAnnouncement, string>

export class Announcements {
  readonly #clock: Clock
  readonly #queues = new Map<string, Queue>()
  readonly #timers = new Map<string, Timer>()

  constructor(clock: Clock = systemClock) {
    this.#clock = clock
  }

  open(cluster: string, reader: ReadAnnouncement): LinkAnnouncements {
    let newest: string | undefined
    let closed = false
    return {
      receive: text => {
        // The same comes with every connection; it is news once.
        if (closed || text === newest) return
        const first = newest === undefined
        newest = text
        if (first) read(reader, text)
        else this.#enqueue(cluster, reader, text)
      },
      close: () => {
        closed = true
        this.#queues.get(cluster)?.delete(reader)
      }
    }
  }

  #enqueue(cluster: string, reader: ReadAnnouncement, text: string): void {
    const queue: Queue = this.#queues.get(cluster) ?? new Map<ReadAnnouncement, string>()
    this.#queues.set(cluster, queue.set(reader, text))
    this.#schedule(cluster, queue)
  }

  #schedule(cluster: string, queue: Queue): void {
    if (this.#timers.has(cluster)) return
    this.#timers.set(
      cluster,
      this.#clock.after(ANNOUNCEMENT_INTERVAL_MS, () => {
        this.#timers.delete(cluster)
        let left = ANNOUNCEMENTS_PER_ROUND
        for (const [reader, text] of queue) {
          if (left-- === 0) return this.#schedule(cluster, queue)
          queue.delete(reader)
          read(reader, text)
        }
      })
    )
  }
}

function read({ read, onError }: ReadAnnouncement, text: string): void {
  try {
    read(text)
  } catch (error) {
    onError(TunnelError.from(error))
  }
}
