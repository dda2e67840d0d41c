/**
 * What tests of whole deployments say over a tunnelled connection: an exact number of bytes back, hashes of what is large,
 * rounds that are timed. Knows nothing of tunnels.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import { pseudoRandom } from '../support/targets.js'

export const MIB = 1 << 20

/** The next `bytes` of the stream, or what there is before its end; what is behind them stays unread. */
export function readBytes(stream: Duplex, bytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void) => {
      stream.off('readable', look).off('end', atEnd).off('error', fail).off('close', onClose)
      act()
    }
    const fail = (error: Error) => {
      settle(() => {
        reject(error)
      })
    }
    const atEnd = () => {
      settle(() => {
        resolve(Buffer.alloc(0))
      })
    }
    const onClose = () => {
      fail(new Error('closed before the bytes came'))
    }
    const look = () => {
      const chunk = stream.read(bytes) as Buffer | null
      if (chunk) {
        settle(() => {
          resolve(chunk)
        })
      }
    }
    if (stream.destroyed) {
      reject(stream.errored ?? new Error('closed before it was read'))
      return
    }
    if (stream.readableEnded) {
      resolve(Buffer.alloc(0))
      return
    }
    stream.on('readable', look).once('end', atEnd).once('error', fail).once('close', onClose)
    look()
  })
}

/** Says `text` and returns as many bytes of answer. */
export async function echo(stream: Duplex, text: string): Promise<string> {
  stream.write(text)
  return (await readBytes(stream, Buffer.byteLength(text))).toString()
}

export type Digest = { bytes: number; sha256: string }

/** Reads to the end. Rejects when the stream breaks instead. */
export async function digest(stream: Duplex): Promise<Digest> {
  const hash = createHash('sha256')
  let bytes = 0
  stream.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    hash.update(chunk)
  })
  await ended(stream)
  return { bytes, sha256: hash.digest('hex') }
}

/** What `pseudoRandom(bytes)` is. */
export function digestOf(bytes: number): Digest {
  const hash = createHash('sha256')
  for (const chunk of pseudoRandom(bytes)) hash.update(chunk)
  return { bytes, sha256: hash.digest('hex') }
}

/** Resolves at the peer's FIN; rejects when the stream closes without one. The stream has to be read. */
export async function ended(stream: Duplex): Promise<void> {
  if (stream.readableEnded) return
  await new Promise<void>((resolve, reject) => {
    stream.once('end', resolve).once('error', reject)
    stream.once('close', () => {
      reject(new Error('closed without an end'))
    })
  })
}

/** Resolves when the stream has been closed by the other side, whether that ended well or not. */
export async function gone(stream: Duplex): Promise<void> {
  stream.on('error', () => {})
  if (stream.readableEnded) stream.end()
  else stream.once('end', () => stream.end())
  stream.resume()
  if (!stream.closed) await new Promise(resolve => stream.once('close', resolve))
}

/** Writes `bytes` as fast as they are taken, then FIN. Resolves when the last has been handed over. */
export async function upload(stream: Duplex, bytes: number): Promise<void> {
  for (const chunk of pseudoRandom(bytes)) {
    if (!stream.write(chunk)) await once(stream, 'drain')
  }
  stream.end()
}

/** Bytes of a connection that the kernel has taken so far. */
export function takenBytes(stream: Duplex): number {
  const { bytesWritten = 0, writableLength } = stream as Duplex & { bytesWritten?: number }
  return bytesWritten - writableLength
}

/** Round trips of a few bytes, one after the other; how long each took, in milliseconds. */
export async function rounds(stream: Duplex, count: number): Promise<number[]> {
  const tookMs: number[] = []
  for (let round = 0; round < count; round += 1) {
    const startedAt = performance.now()
    const said = `round ${round}`
    const received = await echo(stream, said)
    if (received !== said) throw new Error(`said "${said}", heard "${received}"`)
    tookMs.push(performance.now() - startedAt)
  }
  return tookMs
}

/** 0.99 for the 99th percentile. */
export function percentile(values: number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
}

/** Runs `job` for 0 to `count - 1`, at most `width` at once. */
export async function inParallel<T>(
  count: number,
  width: number,
  job: (index: number) => Promise<T>
): Promise<T[]> {
  const results: T[] = []
  let next = 0
  const worker = async () => {
    while (next < count) {
      const index = next++
      results[index] = await job(index)
    }
  }
  await Promise.all(Array.from({ length: Math.min(width, count) }, worker))
  return results
}
