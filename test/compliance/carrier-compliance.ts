/**
 * What every Carrier promises (packages/common/src/carrier.ts), as tests: `carrierCompliance` is called by whoever
 * implements one. Nothing here knows what the pair is made of.
 */
import type { Test } from 'tap'
import { MESSAGE_LIMIT_BYTES, TunnelError, type Carrier } from '@tendril/common'
import { until } from '../support/child-process.js'

/** Two open Carriers, joined; the pair registers its own clean-up with the test. */
export type CarrierPair = (t: Test) => Promise<[near: Carrier, far: Carrier]> | [near: Carrier, far: Carrier]

/** Everything a Carrier says, from now on. */
function listen(carrier: Carrier): { messages: Buffer[]; closes: TunnelError[]; afterClose: number } {
  const received = { messages: [] as Buffer[], closes: [] as TunnelError[], afterClose: 0 }
  carrier.on('message', message => {
    if (received.closes.length > 0) received.afterClose += 1
    received.messages.push(message)
  })
  carrier.on('close', error => received.closes.push(error))
  return received
}

/** A message that knows its place: its number, then its length in equal bytes. */
function numbered(index: number, length: number): Buffer {
  const message = Buffer.alloc(Math.max(4, length), index % 251)
  message.writeUInt32BE(index, 0)
  return message
}

function isNumbered(message: Buffer | undefined, index: number, length: number): boolean {
  return message?.equals(numbered(index, length)) === true
}

/**
 * `outlivesLoss`: a peer that vanishes without a word is waited for, so that the other side hears no end. Default false.
 */
export function carrierCompliance(
  t: Test,
  name: string,
  makePair: CarrierPair,
  { outlivesLoss = false }: { outlivesLoss?: boolean } = {}
): void {
  const test = (title: string, body: (t: Test, near: Carrier, far: Carrier) => Promise<void>) => {
    void t.test(`${name}: ${title}`, async t => {
      const [near, far] = await makePair(t)
      await body(t, near, far)
      near.close('CLOSED')
      far.close('CLOSED')
    })
  }

  test('messages arrive whole and in order, both ways at once', async (t, near, far) => {
    const [atNear, atFar] = [listen(near), listen(far)]
    const lengths = [4, 5, 125, 126, 127, 1000, 65_535, 65_536, 65_537, 300_000]

    lengths.forEach((length, index) => {
      near.send(numbered(index, length))
      far.send(numbered(index + 100, length))
    })
    await until(
      'all have arrived',
      () => atFar.messages.length === lengths.length && atNear.messages.length === lengths.length
    )

    lengths.forEach((length, index) => {
      t.ok(isNumbered(atFar.messages[index], index, length), `${length} bytes there`)
      t.ok(isNumbered(atNear.messages[index], index + 100, length), `${length} bytes back`)
    })
  })

  test('a single byte is a message', async (t, near, far) => {
    const atFar = listen(far)

    near.send(Buffer.from([7]))
    await until('it has arrived', () => atFar.messages.length === 1)

    t.strictSame([...atFar.messages[0]!], [7])
  })

  test('10 000 small messages lose none and swap none', async (t, near, far) => {
    const atFar = listen(far)

    for (let index = 0; index < 10_000; index += 1) {
      if (!near.send(numbered(index, 16))) await drained(near)
    }
    await until('all have arrived', () => atFar.messages.length === 10_000)

    const wrong = atFar.messages.findIndex((message, index) => !isNumbered(message, index, 16))
    t.equal(wrong, -1, 'first wrong message')
  })

  test('the largest message passes; one byte more ends the pipe and is not delivered', async (t, near, far) => {
    const [atNear, atFar] = [listen(near), listen(far)]

    near.send(numbered(1, MESSAGE_LIMIT_BYTES))
    await until('the largest has arrived', () => atFar.messages.length === 1)
    near.send(numbered(2, MESSAGE_LIMIT_BYTES + 1))
    await until('both have closed', () => atFar.closes.length === 1 && atNear.closes.length === 1)

    t.ok(isNumbered(atFar.messages[0], 1, MESSAGE_LIMIT_BYTES))
    t.equal(atFar.messages.length, 1)
    t.equal(atFar.closes[0]?.code, 'PROTOCOL_ERROR')
  })

  test('send answers false when enough is under way, drain comes, and nothing is lost', async (t, near, far) => {
    const atFar = listen(far)
    const total = 200
    let refused = 0

    for (let index = 0; index < total; index += 1) {
      if (near.send(numbered(index, 64 * 1024))) continue
      refused += 1
      await drained(near)
    }
    await until('all have arrived', () => atFar.messages.length === total)

    t.ok(refused > 0, 'send answered false')
    t.equal(
      atFar.messages.findIndex((message, index) => !isNumbered(message, index, 64 * 1024)),
      -1
    )
  })

  test('who ignores the answer of send still loses nothing', async (t, near, far) => {
    const atFar = listen(far)

    for (let index = 0; index < 100; index += 1) near.send(numbered(index, 64 * 1024))
    await until('all have arrived', () => atFar.messages.length === 100)

    t.equal(
      atFar.messages.findIndex((message, index) => !isNumbered(message, index, 64 * 1024)),
      -1
    )
  })

  test('a received message belongs to its receiver', async (t, near, far) => {
    const atFar = listen(far)
    far.on('message', message => message.fill(0xee))

    for (let index = 0; index < 50; index += 1) near.send(numbered(index, 1000))
    await until('all have arrived', () => atFar.messages.length === 50)

    t.ok(
      atFar.messages.every(message => message.every(byte => byte === 0xee)),
      'nobody else writes to it'
    )
  })

  test('close comes after everything that was sent, with code and detail, once, on both sides', async (t, near, far) => {
    const [atNear, atFar] = [listen(near), listen(far)]

    for (let index = 0; index < 100; index += 1) near.send(numbered(index, 20_000))
    near.close('DRAINING', 'this replica is going home')
    await until('both have closed', () => atFar.closes.length > 0 && atNear.closes.length > 0)
    await turns()

    t.equal(atFar.messages.length, 100)
    t.strictSame(
      atFar.closes.map(({ code, detail }) => [code, detail]),
      [['DRAINING', 'this replica is going home']]
    )
    t.strictSame(
      atNear.closes.map(({ code }) => code),
      ['DRAINING']
    )
    t.ok(atFar.closes[0] instanceof TunnelError)
    t.equal(atFar.afterClose, 0)
  })

  test('close without a detail has none', async (t, near, far) => {
    const atFar = listen(far)

    near.close('CLOSED')
    await until('the other side has heard', () => atFar.closes.length === 1)

    t.equal(atFar.closes[0]?.code, 'CLOSED')
    t.equal(atFar.closes[0]?.detail, undefined)
  })

  test('closing twice, or from both sides, ends each side once', async (t, near, far) => {
    const [atNear, atFar] = [listen(near), listen(far)]

    near.close('DRAINING', 'first')
    near.close('INTERNAL', 'second')
    far.close('SUPERSEDED', 'third')
    await until('both have closed', () => atFar.closes.length > 0 && atNear.closes.length > 0)
    near.close('INTERNAL')
    far.close('INTERNAL')
    await turns()

    t.equal(atNear.closes.length, 1)
    t.equal(atFar.closes.length, 1)
    t.not(atNear.closes[0]?.code, 'INTERNAL')
    t.not(atFar.closes[0]?.code, 'INTERNAL')
  })

  test('what is sent after the end is dropped, and send answers true', async (t, near, far) => {
    const [atNear, atFar] = [listen(near), listen(far)]

    near.close('CLOSED')
    t.equal(near.send(Buffer.from('late')), true)
    await until('both have closed', () => atFar.closes.length > 0 && atNear.closes.length > 0)
    t.equal(near.send(Buffer.from('later')), true)
    t.equal(far.send(Buffer.from('from the other side')), true)
    await turns()

    t.equal(atFar.messages.length, 0)
    t.equal(atNear.messages.length, 0)
  })

  test('terminate says the error at once; the other side hears an end, or waits', async (t, near, far) => {
    const [atNear, atFar] = [listen(near), listen(far)]

    near.terminate(new TunnelError('LINK_LOST', 'no sign of life'))
    t.strictSame(
      atNear.closes.map(({ code, detail }) => [code, detail]),
      [['LINK_LOST', 'no sign of life']]
    )
    if (!outlivesLoss) await until('the other side has heard', () => atFar.closes.length > 0)
    near.terminate(new TunnelError('INTERNAL'))
    await turns()

    t.equal(atNear.closes.length, 1)
    t.equal(atFar.closes.length, outlivesLoss ? 0 : 1)
  })

  test('a paused Carrier says nothing; resumed, it says everything in order, and the end last', async (t, near, far) => {
    const atFar = listen(far)
    const pausing = (message: Buffer): void => {
      if (message.readUInt32BE(0) === 10) far.pause()
    }
    far.on('message', pausing)

    for (let index = 0; index < 100; index += 1) near.send(numbered(index, 2_000))
    near.close('DRAINING', 'going home')
    await until('the eleventh has arrived', () => atFar.messages.length >= 11)
    await turns()
    t.equal(atFar.messages.length, 11)
    t.equal(atFar.closes.length, 0)
    far.resume()
    t.equal(atFar.messages.length, 11, 'in a later turn')
    far.resume()
    await until('it has closed', () => atFar.closes.length === 1)

    const wrong = atFar.messages.findIndex((message, index) => !isNumbered(message, index, 2_000))
    t.equal(wrong, -1, 'first wrong message')
    t.equal(atFar.messages.length, 100)
    t.match(atFar.closes, [{ code: 'DRAINING', detail: 'going home' }])
    t.equal(atFar.afterClose, 0)
  })

  test('a Carrier that is paused now and then loses none and swaps none', async (t, near, far) => {
    const atFar = listen(far)
    far.on('message', message => {
      if (message.readUInt32BE(0) % 7 > 0) return
      far.pause()
      setImmediate(() => {
        far.resume()
      })
    })

    for (let index = 0; index < 1_000; index += 1) {
      if (!near.send(numbered(index, 100))) await drained(near)
    }
    await until('all have arrived', () => atFar.messages.length === 1_000)

    t.equal(
      atFar.messages.findIndex((message, index) => !isNumbered(message, index, 100)),
      -1
    )
  })

  test('a paused Carrier can be closed and terminated', async (t, near, far) => {
    const [atNear, atFar] = [listen(near), listen(far)]

    near.pause()
    far.pause()
    near.close('CLOSED')
    far.terminate(new TunnelError('LINK_LOST', 'enough'))
    await until('both have closed', () => atFar.closes.length > 0 && atNear.closes.length > 0)

    t.match(atFar.closes, [{ code: 'LINK_LOST', detail: 'enough' }])
    t.equal(atNear.closes.length, 1)
  })

  test('bytes received count at least what messages held', async (t, near, far) => {
    const atFar = listen(far)
    const before = far.bytesReceived

    near.send(numbered(0, 100_000))
    await until('it has arrived', () => atFar.messages.length === 1)

    t.ok(far.bytesReceived - before >= 100_000, `${far.bytesReceived - before}`)
  })

  test('a listener taken off hears nothing more', async (t, near, far) => {
    const received: number[] = []
    const listener = (message: Buffer) => received.push(message.length)
    const atFar = listen(far)
    far.on('message', listener)

    near.send(Buffer.alloc(1))
    await until('the first has arrived', () => atFar.messages.length === 1)
    far.off('message', listener)
    near.send(Buffer.alloc(2))
    await until('the second has arrived', () => atFar.messages.length === 2)

    t.strictSame(received, [1])
  })
}

function drained(carrier: Carrier): Promise<void> {
  return new Promise(resolve => {
    const received = () => {
      carrier.off('drain', received)
      resolve()
    }
    carrier.on('drain', received)
  })
}

/** Long enough for a second `close` to come, if one were on its way. */
async function turns(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await new Promise(resolve => setImmediate(resolve))
}
