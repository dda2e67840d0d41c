/** A client that opens streams towards the server: heard, known by its certificate, and refused, as nothing grants it. */
import { once } from 'node:events'
import { createServer } from 'node:net'
import t from 'tap'
import { decode } from '@tendril/common/wire/decode'
import { encode } from '@tendril/common/wire/encode'
import { errors } from '@tendril/common'
import { feature, FRAME_LIMIT_BYTES, frameType, VERSION } from '@tendril/common/wire/frame'
import { until } from '../support/child-process.js'
import { deploy } from '../support/deployment.js'
import { podTarget } from '../support/targets.js'
import { type Hostile, hostileClient } from './hostile.js'

const HELLO = encode.hello({
  ...VERSION,
  features: feature.TWO_WAY,
  frameLimitBytes: FRAME_LIMIT_BYTES,
  streamLimit: 8192
})

async function refusal({ frames }: Hostile, stream: number): Promise<{ code: string; text: string }> {
  const isAnswer = (frame: { type: number; stream: number }): boolean =>
    frame.type === frameType.REFUSED && frame.stream === stream
  await until('the OPEN is refused', () => frames.some(isAnswer))
  return decode.reason(frames.find(isAnswer)!.payload, 'REFUSED')
}

t.test('a dial of a client is refused, whoever it says that it is, and nothing is dialled', async t => {
  const deployment = await deploy(t)
  const seed = createServer(() => t.fail('the server dialled for a client'))
  seed.listen(0, '127.0.0.1')
  await once(seed, 'listening')
  t.teardown(() => seed.close())
  const { port } = seed.address() as { port: number }
  const client = await hostileClient(t, deployment, { cluster: 'demo', upTo: 'link' })
  client.say(HELLO)
  await until('the server has greeted', () => client.frames.some(({ type }) => type === frameType.HELLO))
  const hello = decode.hello(client.frames.find(({ type }) => type === frameType.HELLO)!.payload)
  t.equal(hello.features & feature.TWO_WAY, feature.TWO_WAY)

  const target = { proto: 'tcp', host: '127.0.0.1', port } as const
  client.say(
    encode.open(2, target, 65_536, 4_000, {
      principal: { kind: 'server', name: 'seed' },
      front: 'kube-apiserver',
      hops: 0
    }),
    encode.open(4, { ...target, cluster: 'demo' }, 65_536, 4_000)
  )

  for (const stream of [2, 4]) {
    t.match(await refusal(client, stream), {
      code: 'CALLER_DENIED',
      text: /^client\/demo\/\S+ has no grant to dial through this server$/
    })
  }
  t.equal(errors.CALLER_DENIED.retryable, false, 'it need not ask again')
  const pod = await podTarget(t)
  const stream = await deployment.dial(pod.addr)
  stream.destroy()
  t.pass('callers are served on')
})
