/**
 * Pairs of Carriers and the Dial over them, for the compliance suites and for tests of what stands above. All on
 * loopback, all cleaned up with the test.
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import type { Carrier, Dial } from '@tendril/common'
import { shakeHands } from '@tendril/common/link/handshake'
import { LinkHost } from '@tendril/common/link/host'
import { Link } from '@tendril/common/link/link'
import { Session, type SessionLimits } from '@tendril/common/mux/session'
import { serve } from '@tendril/common/serve'
import {
  WebSocketCarrier,
  websocketClientOptions,
  websocketOptions
} from '@tendril/common/transport/websocket'

/** One WebSocket over plain TCP, both ends as Carriers. */
export async function websocketCarrierPair(t: Test): Promise<[WebSocketCarrier, WebSocketCarrier]> {
  const server = new WebSocketServer({ ...websocketOptions, host: '127.0.0.1', port: 0 })
  t.teardown(() => {
    for (const client of server.clients) client.terminate()
    server.close()
  })
  await once(server, 'listening')
  const accepted = once(server, 'connection') as Promise<[WebSocket, IncomingMessage]>
  const websocket = new WebSocket(
    `ws://127.0.0.1:${(server.address() as AddressInfo).port}`,
    websocketClientOptions
  )
  const upgraded = once(websocket, 'upgrade') as Promise<[IncomingMessage]>
  // Made at once on both sides: a message that comes with the upgrade must find its listener.
  const near = upgraded.then(([response]) => new WebSocketCarrier(websocket, response.socket))
  const far = accepted.then(([peer, request]) => new WebSocketCarrier(peer, request.socket))
  await once(websocket, 'open')
  return [await near, await far]
}

/** A link over the pair, its handshake done: the client's end first. */
export async function linkPair(
  t: Test,
  [clientCarrier, serverCarrier]: [Carrier, Carrier]
): Promise<[Link, Link]> {
  const client = new Link()
  const server = new Promise<Link>(resolve => {
    new LinkHost({ server: 'test', onLink: resolve }).accept(serverCarrier, { key: 'test' })
  })
  await shakeHands(clientCarrier, client, { name: 'test', instance: randomBytes(16), connectionIndex: 0 })
  const pair: [Link, Link] = [client, await server]
  t.teardown(() => {
    for (const link of pair) link.close('CLOSED')
  })
  return pair
}

/** A session over the pair whose far side dials with `dial`; returns the near side's Dial, and both sessions. */
export async function sessionPair(
  t: Test,
  [nearCarrier, farCarrier]: [Carrier, Carrier],
  dial: Dial,
  limits: Partial<SessionLimits> = {}
): Promise<{ dial: Dial; near: Session; far: Session }> {
  const near = new Session(nearCarrier, { limits })
  const far = new Session(farCarrier, {
    limits,
    onOpen: serve(dial, { remote: { kind: 'server', name: 'near' } })
  })
  t.teardown(() => {
    near.close()
    far.close()
  })
  if (near.state === 'greeting') await once(near, 'open')
  return { dial: near.dial, near, far }
}
