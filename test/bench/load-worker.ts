/**
 * One load worker, a process of its own: runs the groups of streams that the bench tells it to (protocol.ts) and
 * counts. It decides nothing and keeps no results beyond the last mark.
 */
import type { Socket } from 'node:net'
import { call } from './bench-caller.js'
import { Histogram } from './histogram.js'
import {
  ROLE,
  type Endpoint,
  type GroupMark,
  type GroupOpened,
  type GroupSpec,
  type LoadReply,
  type LoadRequest
} from './protocol.js'

const CHUNK_BYTES = 256 * 1024
/** Opens in flight of one group, unless it asks for all at once. */
const OPENS_IN_FLIGHT = 32
/** A stream that could not be opened is tried again after this long, so that a dead contender is no busy loop. */
const RETRY_MS = 20

const chunk = Buffer.alloc(CHUNK_BYTES, 'tendril-bench-')
const groups = new Map<number, Group>()

/** What one group counts; `mark` answers and begins anew. */
class Tally {
  bytes = 0
  operations = 0
  failures = 0
  error: string | undefined
  readonly latencies = new Histogram()

  fail(error: Error | undefined): void {
    this.failures++
    this.error ??= error?.message ?? 'closed by the other side'
  }

  mark(): GroupMark {
    const { bytes, operations, failures, error } = this
    const mark: GroupMark = {
      bytes,
      operations,
      failures,
      latencies: this.latencies.toJSON(),
      ...(error && { error })
    }
    this.bytes = this.operations = this.failures = 0
    this.error = undefined
    this.latencies.reset()
    return mark
  }
}

/** What a stream of a group does: called when it is open, and with every read. `done` says it stands. */
type Part = { opened(socket: Socket, done: () => void): void; read(bytes: number): boolean; stop?(): void }

class Group {
  readonly tally = new Tally()
  readonly #endpoint: Endpoint
  readonly #spec: GroupSpec
  readonly #sockets = new Set<Socket>()
  #stopped = false

  constructor(endpoint: Endpoint, spec: GroupSpec) {
    this.#endpoint = endpoint
    this.#spec = spec
  }

  /** Resolves when every stream stands or has failed. */
  async open(): Promise<GroupOpened> {
    const spec = this.#spec
    const latencies = new Histogram()
    const result: GroupOpened = { opened: 0, failed: 0, tookMs: 0, latencies: [] }
    const startMs = performance.now()
    let left = spec.streams
    const one = async (): Promise<void> => {
      while (left > 0 && !this.#stopped) {
        left--
        const openMs = performance.now()
        try {
          await this.#stream()
          result.opened++
          latencies.record(performance.now() - openMs)
        } catch (error) {
          result.failed++
          result.error ??= (error as Error).message
        }
      }
    }
    const inFlight = spec.kind === 'idle' && spec.allAtOnce ? spec.streams : OPENS_IN_FLIGHT
    await Promise.all(Array.from({ length: Math.min(inFlight, spec.streams) }, one))
    result.tookMs = performance.now() - startMs
    result.latencies = latencies.toJSON()
    return result
  }

  stop(): void {
    this.#stopped = true
    for (const socket of this.#sockets) socket.destroy()
  }

  /** One stream that stays; the `connects` kind is a loop of short ones instead and stands at once. */
  #stream(): Promise<void> {
    const spec = this.#spec
    if (spec.kind === 'connects') {
      this.#connectAgain(spec.requestBytes)
      return Promise.resolve()
    }
    const part = makePart(spec, this.tally)
    return new Promise((resolve, reject) => {
      let stands = false
      const socket = call(this.#endpoint, {
        opened: opened =>
          part.opened(opened, () => {
            stands = true
            resolve()
          }),
        read: part.read,
        closed: error => {
          this.#sockets.delete(socket)
          part.stop?.()
          if (this.#stopped) resolve()
          else if (stands) this.tally.fail(error)
          else reject(error ?? new Error('closed before it was open'))
        }
      })
      this.#sockets.add(socket)
    })
  }

  #connectAgain(requestBytes: number): void {
    if (this.#stopped) return
    const startMs = performance.now()
    let missing = requestBytes
    const socket = call(this.#endpoint, {
      opened: opened => opened.write(request(requestBytes)),
      read: bytes => {
        missing -= bytes
        if (missing > 0) return true
        this.tally.operations++
        this.tally.latencies.record(performance.now() - startMs)
        socket.end()
        this.#connectAgain(requestBytes)
        return true
      },
      closed: error => {
        this.#sockets.delete(socket)
        if (missing <= 0 || this.#stopped) return
        this.tally.fail(error)
        setTimeout(() => this.#connectAgain(requestBytes), RETRY_MS)
      }
    })
    this.#sockets.add(socket)
  }
}

/** The first request of a stream: its role and then what comes back. */
function request(bytes: number): Buffer {
  const first = Buffer.alloc(bytes + 1, 'q')
  first[0] = ROLE.echo
  return first
}

function makePart(spec: Exclude<GroupSpec, { kind: 'connects' }>, tally: Tally): Part {
  switch (spec.kind) {
    case 'bulk':
      return spec.direction === 'down' ? bulkDown(tally) : bulkUp()
    case 'paced':
      return pacedUp(spec.mibPerSecond)
    case 'stalled':
      return { ...bulkDown(tally), read: () => false }
    case 'idle':
      return idle()
    case 'requests':
      return requests(spec.requestBytes, spec.everyMs, tally)
  }
}

function bulkDown(tally: Tally): Part {
  return {
    opened(socket, done) {
      socket.write(Buffer.of(ROLE.down))
      done()
    },
    read(bytes) {
      tally.bytes += bytes
      return true
    }
  }
}

/** Counted by the target: what a kernel or a contender holds back has not arrived. */
function bulkUp(): Part {
  return {
    opened(socket, done) {
      const pour = (): void => {
        while (socket.writable && socket.write(chunk));
      }
      socket.write(Buffer.of(ROLE.up))
      socket.on('drain', pour)
      pour()
      done()
    },
    read: () => true
  }
}

/** What could not be sent in time is not made up for: it would come as a burst. */
function pacedUp(mibPerSecond: number): Part {
  let timer: NodeJS.Timeout | undefined
  return {
    opened(socket, done) {
      socket.write(Buffer.of(ROLE.up))
      let dueMs = performance.now()
      const everyMs = (CHUNK_BYTES / (mibPerSecond * 1024 * 1024)) * 1000
      timer = setInterval(() => {
        const nowMs = performance.now()
        for (; dueMs <= nowMs && socket.writable && !socket.writableNeedDrain; dueMs += everyMs)
          socket.write(chunk)
        dueMs = Math.max(dueMs, nowMs)
      }, 1)
      done()
    },
    read: () => true,
    stop: () => clearInterval(timer)
  }
}

function idle(): Part {
  const bytes = 64
  let missing = bytes
  let stands = (): void => {}
  return {
    opened(socket, done) {
      stands = done
      socket.write(request(bytes))
    },
    read(length) {
      missing -= length
      if (missing === 0) stands()
      return true
    }
  }
}

function requests(bytes: number, everyMs: number, tally: Tally): Part {
  const question = Buffer.alloc(bytes, 'q')
  let socket: Socket | undefined
  let timer: NodeJS.Timeout | undefined
  let missing = bytes
  let askedMs = 0
  let nextMs = 0

  const ask = (message: Buffer): void => {
    const nowMs = performance.now()
    // A late answer must not excuse the requests it held up: their clock began when they were due.
    askedMs = everyMs > 0 && nextMs > 0 && nowMs - nextMs > everyMs ? nextMs : nowMs
    nextMs = (everyMs > 0 && nextMs > 0 ? nextMs : nowMs) + everyMs
    missing = bytes
    socket?.write(message)
  }
  return {
    opened(opened, done) {
      socket = opened
      if (everyMs === 0) ask(request(bytes))
      else timer = setTimeout(ask, Math.random() * everyMs, request(bytes))
      done()
    },
    read(length) {
      missing -= length
      if (missing > 0) return true
      const nowMs = performance.now()
      tally.operations++
      tally.bytes += bytes
      tally.latencies.record(nowMs - askedMs)
      if (everyMs === 0) ask(question)
      else timer = setTimeout(ask, Math.max(0, nextMs - nowMs), question)
      return true
    },
    stop: () => clearTimeout(timer)
  }
}

async function obey(request: LoadRequest): Promise<LoadReply> {
  const { id } = request
  switch (request.do) {
    case 'start': {
      const group = new Group(request.endpoint, request.spec)
      groups.set(request.group, group)
      return { id, opened: await group.open(), atMs: performance.now() }
    }
    case 'mark': {
      const marks = [...groups].map(([number, group]) => [number, group.tally.mark()] as const)
      return { id, atMs: performance.now(), groups: Object.fromEntries(marks) }
    }
    case 'stop': {
      groups.get(request.group)?.stop()
      groups.delete(request.group)
      return { id, atMs: performance.now() }
    }
  }
}

process.on('message', (request: LoadRequest) => void obey(request).then(reply => process.send?.(reply)))
process.on('disconnect', () => process.exit())
