/**
 * Tells V8 what kind of process this is: a small heap of objects with large buffers passing through. Left alone it
 * counts the buffers as growth of the small heap and marks all of it again every few MiB of traffic. How much is given
 * to young objects can only be said before V8 starts: on the first line of each program in bin/.
 */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { type Clock, type Timer, systemClock } from './clock.js'
import { trimIdleMessages } from './message-buffer.js'

/**
 * How much the heap may grow, buffers included, before it is collected as a whole, in percent of what lives: 4 x 20 MiB
 * instead of 1.3 x. Measured on a 4 GiB transfer: 6 collections instead of 200, 4 instead of 7 CPU seconds per GiB.
 */
const GROWTH_PERCENT = 300

/** To be called once, before the program allocates. */
export function tuneHeap(): void {
  setFlagsFromString(`--heap-growing-percent=${GROWTH_PERCENT}`)
}

/** How often an idle process looks whether it can give memory back, in milliseconds. */
export const GIVE_BACK_EVERY_MS = 15_000

/** Buffers below this may stay: what a program needs at work. */
export const GIVE_BACK_FROM_BYTES = 16 << 20

/** A process that is busy for a larger part of its time allocates, and V8 collects by itself. */
const BUSY_PART = 1 / 2

export type GiveBackOptions = {
  clock?: Clock
  /** Bytes of buffers, garbage included. */
  bufferBytes?: () => number
  /** Which part of the time since the last call the event loop was busy. */
  busyPart?: () => number
  collect?: () => void
}

/**
 * Collects garbage after a burst of traffic. V8 collects when memory is allocated, and an idle process allocates
 * nothing: the buffers of the burst would stay until the next one. Costs an idle process with large buffers one
 * collection (some 10 ms) each time.
 * @returns stops it; may be called twice
 */
export function giveMemoryBack(options: GiveBackOptions = {}): () => void {
  const { clock = systemClock, bufferBytes = externalBytes, busyPart = busyPartSince() } = options
  const collect = options.collect ?? collector()
  let timer: Timer
  const look = (): void => {
    trimIdleMessages()
    if (busyPart() < BUSY_PART && bufferBytes() >= GIVE_BACK_FROM_BYTES) collect()
    timer = clock.after(GIVE_BACK_EVERY_MS, look)
  }
  timer = clock.after(GIVE_BACK_EVERY_MS, look)
  return () => timer.cancel()
}

function externalBytes(): number {
  return process.memoryUsage().external
}

function busyPartSince(): () => number {
  let before = performance.eventLoopUtilization()
  return () => {
    const now = performance.eventLoopUtilization()
    const { utilization } = performance.eventLoopUtilization(now, before)
    before = now
    return utilization
  }
}

/** `gc` as `node --expose-gc` has it. */
function collector(): () => void {
  setFlagsFromString('--expose-gc')
  return runInNewContext('gc') as () => void
}
