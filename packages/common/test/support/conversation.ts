/**
 * What two sessions say to each other in the transcripts of version 1.0: the same dials, whoever plays the sides. Each step
 * waits for the one before it, so that every run sends the same frames in the same order.
 */
import { EventEmitter, once } from 'node:events'
import type { Duplex } from 'node:stream'
import type { DialContext, Target } from '../../src/dial.js'
import { TunnelError } from '../../src/errors.js'
import type { IncomingDial, Session } from '../../src/mux/session.js'
import { dialContext } from './dial-context.js'

/** Between clients and servers no cluster is named, between servers it is. */
export type Talk = { cluster?: string }

export const CONTEXT: Partial<DialContext> = {
  principal: { kind: 'caller', name: 'kube-apiserver' },
  front: 'kube',
  traceId: '0af7651916cd43dd8448eb211c80319c'
}

/** The side that dials: one stream with bytes both ways, one refusal, one dial that is cancelled. */
export async function dialAll({ dial }: Pick<Session, 'dial'>, { cluster }: Talk): Promise<string[]> {
  const outcomes: string[] = []
  const target = (port: number): Target => ({ proto: 'tcp', host: 'pod', port, ...(cluster && { cluster }) })
  const stream = await dial(target(80), dialContext(CONTEXT))
  stream.end('question')
  outcomes.push(await textOf(stream))
  await dial(target(1), dialContext(CONTEXT)).catch((error: unknown) =>
    outcomes.push((error as TunnelError).code)
  )
  const leave = new AbortController()
  const left = dial(target(2), dialContext({ ...CONTEXT, signal: leave.signal }))
  // The OPEN leaves at the end of this turn.
  for (let turn = 0; turn < 20; turn++) await new Promise(resolve => setImmediate(resolve))
  leave.abort()
  await left.catch((error: unknown) => outcomes.push((error as TunnelError).code))
  return outcomes
}

export const OUTCOMES = ['answer to question', 'TARGET_REFUSED', 'DIAL_CANCELLED']

/** The side that answers; emits `cancelled` when a dial is taken back. */
export class Answerer extends EventEmitter<{ cancelled: [] }> {
  readonly incoming: IncomingDial[] = []

  readonly onOpen = (dial: IncomingDial): void => {
    this.incoming.push(dial)
    if (dial.target.port === 1) return dial.refuse(new TunnelError('TARGET_REFUSED', 'pod:1'))
    if (dial.target.port === 2) return dial.signal.addEventListener('abort', () => this.emit('cancelled'))
    const stream = dial.accept()
    void textOf(stream).then(question => stream.end(`answer to ${question}`))
  }

  get cancelled(): Promise<unknown> {
    return once(this, 'cancelled')
  }
}

async function textOf(stream: Duplex): Promise<string> {
  let text = ''
  stream.on('data', (chunk: Buffer) => (text += chunk.toString()))
  await once(stream, 'end')
  return text
}
