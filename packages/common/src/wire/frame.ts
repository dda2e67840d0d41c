/**
 * What a frame is: the numbers and limits of docs/protocol.md §4, with no behaviour. A session message is one or
 * more whole frames behind one another; WebSocket keeps message boundaries, so no frame is ever split.
 *
 * ```
 *  0        1                 4                          8
 *  ┌────────┬─────────────────┬──────────────────────────┬───────────── ─ ─
 *  │ type   │ length (24 bit) │ stream (32 bit)          │ payload, `length` bytes
 *  └────────┴─────────────────┴──────────────────────────┴───────────── ─ ─      all numbers big-endian
 * ```
 */

/** Bytes in front of every payload. */
export const HEADER_BYTES = 8

/** Most payload bytes of one frame. 64 KiB carried 635 MiB/s over TLS where 16 KiB carried 480-500. */
export const FRAME_LIMIT_BYTES = 65_536

/** Most bytes of a host name: a DNS name has 253, the length is one octet. */
export const HOST_LIMIT_BYTES = 255

/** What a host may be made of: printable ASCII, so that nobody's log or status line is broken by it. */
export const HOST = /^[\x21-\x7e]+$/

/** Most bytes of the text in REFUSED, RESET and GOAWAY; longer texts are cut by the sender. */
export const TEXT_LIMIT_BYTES = 512

/** Largest stream id. A session that has used it up opens no more streams and drains. */
export const STREAM_ID_LIMIT = 0xffff_ffff

/** Most credit one stream may ever hold; more is a flow control error of that stream. */
export const CREDIT_LIMIT_BYTES = 0x7fff_ffff

/** 'TNDL', the first payload bytes of a session. */
export const MAGIC = 0x544e444c

/** Peers of another major version do not understand each other; a higher minor version only adds. */
export const VERSION = { major: 1, minor: 1 } as const

/** Types from 0x80 up never reach a session: they belong to the link below (docs/protocol.md §6). */
export const frameType = {
  HELLO: 0x01,
  OPEN: 0x02,
  OPENED: 0x03,
  REFUSED: 0x04,
  DATA: 0x05,
  END: 0x06,
  RESET: 0x07,
  CREDIT: 0x08,
  PING: 0x09,
  PONG: 0x0a,
  GOAWAY: 0x0b
} as const

/** Optional abilities, one bit each; in force are those that both hellos name. Other bits are ignored. */
export const feature = {
  /** Both sides may open streams, one with odd and one with even numbers. */
  TWO_WAY: 1 << 0
  // 1 << 1 is reserved for DATAGRAM, and with it the frame type 0x0c.
} as const

export type Features = number

export type Hello = {
  major: number
  minor: number
  features: Features
  /** Largest payload this side accepts, in bytes; at least 1024. */
  frameLimitBytes: number
  /** How many streams this side lets the peer have open at once; 0: this side accepts no OPEN. */
  streamLimit: number
}

export const protoNumber = { tcp: 1, udp: 2, icmp: 3 } as const
