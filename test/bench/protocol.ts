/**
 * The words between the bench and its helper processes (load workers, target, delaying line), all sent over
 * Node's IPC channel, and the first byte of a stream, by which the target knows its role.
 */
import type { HistogramJSON } from './histogram.js'

/** First byte of every stream. What follows: nothing and an endless download, an endless upload, or bytes to echo. */
export const ROLE = { down: 0x44, up: 0x55, echo: 0x45 } as const

export type Address = { host: string; port: number }

/** Files in PEM that a caller of a TLS front needs. */
export type TlsFiles = { ca: string; cert: string; key: string; servername: string }

/** How a load worker reaches the target through a contender. `target` is what a CONNECT asks for. */
export type Endpoint =
  | { kind: 'tcp'; host: string; port: number }
  | { kind: 'tls'; host: string; port: number; tls: TlsFiles }
  | { kind: 'connect-plain'; host: string; port: number; target: string }
  | { kind: 'connect-tls'; host: string; port: number; tls: TlsFiles; target: string }
  | { kind: 'connect-uds'; path: string; target: string }

/** What a load worker does with a group of streams until it is told to stop. */
export type GroupSpec =
  | { kind: 'bulk'; direction: 'down' | 'up'; streams: number }
  /** Uploads that send this much each and no more, as long as they are let. */
  | { kind: 'paced'; streams: number; mibPerSecond: number }
  /** One request in flight per stream; `everyMs` 0 asks again as soon as the answer is there. */
  | { kind: 'requests'; streams: number; requestBytes: number; everyMs: number }
  /** Open, one request, answer, close, again; `streams` of them in flight. */
  | { kind: 'connects'; streams: number; requestBytes: number }
  /** Asks for an endless download and never reads. */
  | { kind: 'stalled'; streams: number }
  /** Open, one request, answer, then silence. `allAtOnce` starts every open in the same turn. */
  | { kind: 'idle'; streams: number; allAtOnce: boolean }

export type GroupOpened = {
  opened: number
  failed: number
  tookMs: number
  latencies: HistogramJSON
  error?: string
}

/** What happened since the last mark. */
export type GroupMark = {
  bytes: number
  operations: number
  failures: number
  latencies: HistogramJSON
  error?: string
}

export type LoadRequest =
  | { do: 'start'; id: number; group: number; endpoint: Endpoint; spec: GroupSpec }
  | { do: 'mark'; id: number }
  | { do: 'stop'; id: number; group: number }

export type LoadReply = { id: number; atMs: number; opened?: GroupOpened; groups?: Record<number, GroupMark> }

export type TargetRequest = { do: 'mark'; id: number }
/** `upBytes`: received by upload streams since the process began. */
export type TargetReply = { id: number; atMs: number; upBytes: number }

/** First message of target and line: where they listen. */
export type Listening = { listening: Address }
