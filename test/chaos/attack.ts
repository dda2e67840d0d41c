/**
 * Everything that one cluster can do to a server, at once and in a process of its own, for shares.test.ts: links that
 * never acknowledge while its callers send, links that come and go down, connections that say nothing, streams that
 * stay, dials without end. It keeps to the protocol, or it would be shown out. Each kind is bounded in number, and all of
 * it ends with the process. Prints how many links it has had.
 */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { type Socket, connect } from 'node:net'
import { TunnelError } from '@tendril/common'
import {
  decodeNumber,
  encodeHello,
  encodeNumber,
  isLinkMessage,
  linkType
} from '@tendril/common/link/link-message'
import { connect as connectServer } from '@tendril/common/transport/connect'
import { WebSocketCarrier } from '@tendril/common/transport/websocket'
import { eachFrame } from '@tendril/common/test/support/each-frame'
import { encode } from '@tendril/common/wire/encode'
import { CREDIT_LIMIT_BYTES, FRAME_LIMIT_BYTES, frameType, VERSION } from '@tendril/common/wire/frame'

export type Attack = {
  cluster: string
  tunnel: { host: string; port: number }
  front: { host: string; port: number }
  ca: string
  cert: string
  key: string
  /** Links that read and never acknowledge, and callers of each that send. */
  hogs: number
  callers: number
  /** Links opened and lost in a second, and how many in all. */
  lostPerSecond: number
  lost: number
  /** Connections to the tunnel and to the front that say nothing, each. */
  silent: number
  /** Streams that are opened and kept. */
  streams: number
  /** Loops that dial, hang up and dial again, each so often in a second. */
  dialers: number
  dialsPerSecond: number
}

const attack = JSON.parse(process.argv[2] ?? '{}') as Attack
const tls = { ca: readFileSync(attack.ca), cert: readFileSync(attack.cert), key: readFileSync(attack.key) }
let links = 0

/** A hog acknowledges in bursts until its send window has grown, and never again. */
const BURSTS = 8
const BURST_EVERY_MS = 500

/**
 * A client of the cluster that serves no target: it says yes to all, drops what comes, and soon acknowledges nothing
 * more. One that drains is asked last.
 */
async function openLink(name: string, { drains }: { drains: boolean }): Promise<WebSocketCarrier> {
  const { tunnel, cluster } = attack
  const { websocket, socket } = await connectServer(
    { url: `wss://${tunnel.host}:${tunnel.port}` },
    { tls, headers: { 'Tendril-Cluster': cluster }, signal: new AbortController().signal }
  )
  const carrier = new WebSocketCarrier(websocket, socket)
  let received = 0
  let bursts = 0
  const acknowledge = setInterval(() => {
    if (received > 0) carrier.send(encodeNumber(linkType.ACK, received))
    if (++bursts === BURSTS) clearInterval(acknowledge)
  }, BURST_EVERY_MS)
  carrier.on('close', () => clearInterval(acknowledge))
  carrier.on('message', message => {
    if (isLinkMessage(message)) {
      if (message[0] === linkType.WELCOME) {
        links++
        carrier.send(
          encode.hello({ ...VERSION, features: 0, frameLimitBytes: FRAME_LIMIT_BYTES, streamLimit: 8192 })
        )
        if (drains) carrier.send(encode.goAway('DRAINING'))
      } else if (message[0] === linkType.PING)
        carrier.send(encodeNumber(linkType.PONG, decodeNumber(message)))
      return
    }
    received++
    eachFrame(message, (type, stream) => {
      if (type === frameType.OPEN) carrier.send(encode.opened(stream, CREDIT_LIMIT_BYTES))
    })
  })
  carrier.send(
    encodeHello({ name, instance: randomBytes(8), connectionIndex: 0, replayLimitBytes: 32 << 20 })
  )
  return carrier
}

/** A caller that asks for a target and goes on when it is let in. */
function call(onOpen: (socket: Socket) => void): Socket {
  const socket = connect({ ...attack.front, noDelay: true })
  socket.on('error', () => {})
  socket.on('connect', () => socket.write('CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: x\r\n\r\n'))
  socket.once('data', answer => {
    if (answer.toString('latin1').startsWith('HTTP/1.1 200')) onOpen(socket)
    else socket.destroy()
  })
  return socket
}

function again(ms: number, act: () => void): void {
  setTimeout(act, ms)
}

/** Keeps one thing that `open` makes; when it is closed there is another one, a while later. */
function keep(open: () => Socket): void {
  open().once('close', () => again(2_000, () => keep(open)))
}

function keepHog(name: string): void {
  openLink(name, { drains: false }).then(
    carrier => carrier.on('close', () => again(500, () => keepHog(name))),
    () => again(500, () => keepHog(name))
  )
}

function sendForever(socket: Socket): void {
  const chunk = Buffer.alloc(64 << 10)
  const fill = (): void => {
    while (socket.writable && socket.write(chunk));
  }
  socket.on('drain', fill)
  fill()
}

function dialForever(): void {
  call(socket => socket.destroy()).once('close', () => again(1_000 / attack.dialsPerSecond, dialForever))
}

function loseLinks(left: number): void {
  if (left === 0) return
  openLink(`lost-${left}`, { drains: true }).then(
    carrier => again(100, () => carrier.terminate(new TunnelError('LINK_LOST'))),
    () => {}
  )
  again(1_000 / attack.lostPerSecond, () => loseLinks(left - 1))
}

const silent = (where: { host: string; port: number }) => () => {
  const socket = connect(where)
  socket.on('error', () => {})
  return socket
}

/** The rest begins when every caller of the hogs has been let in, or it would take their places. */
function begin(): void {
  for (let at = 0; at < attack.streams; at++) keep(() => call(() => {}))
  for (let at = 0; at < attack.dialers; at++) dialForever()
  for (let at = 0; at < attack.silent; at++) {
    keep(silent(attack.tunnel))
    keep(silent(attack.front))
  }
  loseLinks(attack.lost)
}

let sending = 0
for (let at = 0; at < attack.hogs; at++) keepHog(`hog-${at}`)
for (let at = 0; at < attack.hogs * attack.callers; at++) {
  keep(() =>
    call(socket => {
      sendForever(socket)
      if (++sending === attack.hogs * attack.callers) begin()
    })
  )
}
setInterval(() => console.log(JSON.stringify({ links })), 500)
