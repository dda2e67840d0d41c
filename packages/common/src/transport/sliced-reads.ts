/**
 * Gives `ws` what a socket reads in slices. `ws` takes everything it is given apart at once: 16 KiB of the smallest
 * messages keep the event loop for 2 ms, and eight connections that send nothing else for 16 ms in one turn. So a slice
 * is small where the last one held many messages, and what is left of a read waits with its carrier.
 */
import type { Duplex } from 'node:stream'

/** Where messages are small: 73 of the smallest, about 0.1 ms. */
export const SLICE_LEAST_BYTES = 512

/**
 * Where they are large. Below the 16 KiB at which a Writable such as the receiver of `ws` asks for a pause: it would
 * stop and start the socket for each read.
 */
export const SLICE_MOST_BYTES = 8 << 10

/** With more messages than this the next slice is the smallest, with fewer it is twice as large. */
const FEW_MESSAGES = 8

export type SlicedReadsOptions = {
  /** Bytes were read. Before anything is made of them. */
  onBytes: () => void
  /** False: what is left of the read waits for `goOn`. The socket is to be paused by whoever says so. */
  mayGoOn: () => boolean
}

export class SlicedReads {
  readonly #options: SlicedReadsOptions
  readonly #parse: (bytes: Buffer) => void
  #rest: Buffer | undefined
  #sliceBytes = SLICE_LEAST_BYTES
  #messages = 0

  /** `socket`: with the listeners of `ws`, and not read yet. */
  constructor(socket: Duplex, options: SlicedReadsOptions) {
    this.#options = options
    const listeners = socket.listeners('data') as ((bytes: Buffer) => void)[]
    socket.removeAllListeners('data')
    this.#parse = bytes => listeners.forEach(listener => listener.call(socket, bytes))
    socket.on('data', (bytes: Buffer) => {
      options.onBytes()
      this.#parseSlices(bytes)
    })
    // Before `ws` hears that the socket is closed: it parses what lies in the socket, and this was read before.
    socket.prependListener('close', () => this.#parseRest())
  }

  /** To be called for each message or control frame that `ws` has found. */
  count(): void {
    this.#messages++
  }

  /** Parses what is left of the last read, as far as that may go on. */
  goOn(): void {
    const rest = this.#rest
    this.#rest = undefined
    if (rest) this.#parseSlices(rest)
  }

  #parseRest(): void {
    const rest = this.#rest
    this.#rest = undefined
    if (rest) this.#parse(rest)
  }

  #parseSlices(bytes: Buffer): void {
    for (let at = 0; at < bytes.length;) {
      if (!this.#options.mayGoOn()) {
        this.#rest = bytes.subarray(at)
        return
      }
      const end = at + this.#sliceBytes
      this.#messages = 0
      this.#parse(at === 0 && end >= bytes.length ? bytes : bytes.subarray(at, end))
      this.#sliceBytes =
        this.#messages > FEW_MESSAGES ? SLICE_LEAST_BYTES : Math.min(2 * this.#sliceBytes, SLICE_MOST_BYTES)
      at = end
    }
  }
}
