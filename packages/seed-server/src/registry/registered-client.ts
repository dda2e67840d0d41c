/** One shoot-client process as this server sees it: where its dials go in, and how it is doing. */
import type { Dial } from '@tendril/common'
import type { Route } from '@tendril/common/policy/routes'

export type ClientState = {
  /** Its connection is lost and not resumed yet: it is not asked. */
  down: boolean
  /** Connected, but nothing was received for longer than expected: the connection may be lost without notice. */
  silent: boolean
  /** It has sent GOAWAY: it accepts no new streams, and its open ones continue. */
  draining: boolean
  /** Streams open now. */
  streams: number
  /** Last measured round trip, in milliseconds. */
  rttMs: number
  /** When it connected, in milliseconds since the epoch. */
  since: number
}

export type Client = {
  /** The cluster its certificate is for. */
  cluster: string
  /** As it calls itself, for people. Not unique. */
  name: string
  /** Unique among the clients of this server. */
  id: string
  /** Verified identity and name: links that have it in common are one client's, and share what it may announce. */
  owner: string
  /** Carries one dial to the client and through its targets. Does not wait for a lost connection to come back. */
  dial: Dial
  /** Read anew whenever it is looked at. One that is down or drains is to be reported as changed when that ends. */
  readonly state: Readonly<ClientState>
  /**
   * What it serves best, of what its cluster may announce. Empty: it announced nothing, and serves what others do not.
   * Another array when it changes.
   */
  readonly routes: readonly Route[]
}
