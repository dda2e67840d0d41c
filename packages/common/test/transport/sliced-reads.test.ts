/** A socket whose reads are taken apart by a listener that stands for `ws`. */
import { PassThrough } from 'node:stream'
import t, { type Test } from 'tap'
import { SLICE_LEAST_BYTES, SLICE_MOST_BYTES, SlicedReads } from '../../src/transport/sliced-reads.js'

type Parser = { slices: Buffer[]; bytes(): number; mayGoOn: boolean; messagesPerSlice: number }

function parser(t: Test): { socket: PassThrough; reads: SlicedReads; parser: Parser } {
  const socket = new PassThrough()
  t.teardown(() => socket.destroy())
  const slices: Buffer[] = []
  const parser: Parser = {
    slices,
    bytes: () => slices.reduce((sum, { length }) => sum + length, 0),
    mayGoOn: true,
    messagesPerSlice: 0
  }
  socket.on('data', (slice: Buffer) => {
    slices.push(slice)
    for (let count = 0; count < parser.messagesPerSlice; count++) reads.count()
  })
  const reads = new SlicedReads(socket, { onBytes: () => {}, mayGoOn: () => parser.mayGoOn })
  return { socket, reads, parser }
}

const sizes = ({ slices }: Parser): number[] => slices.map(({ length }) => length)
const letters = (bytes: number): Buffer => Buffer.from(Array.from({ length: bytes }, (_, at) => at % 251))

t.test('slices grow while messages are large, up to a bound', async t => {
  const { socket, parser: p } = parser(t)
  const sent = letters(32 << 10)
  socket.emit('data', sent)

  t.same(
    sizes(p).slice(0, 5),
    [1, 2, 4, 8, 16].map(times => times * SLICE_LEAST_BYTES)
  )
  t.equal(Math.max(...sizes(p)), SLICE_MOST_BYTES)
  t.same(Buffer.concat(p.slices), sent)
})

t.test('slices are small again after one with many messages', async t => {
  const { socket, parser: p } = parser(t)
  socket.emit('data', letters(32 << 10))
  p.messagesPerSlice = 9
  p.slices.length = 0
  socket.emit('data', letters(16 << 10))
  t.same(sizes(p).slice(0, 3), [SLICE_MOST_BYTES, SLICE_LEAST_BYTES, SLICE_LEAST_BYTES])
  p.messagesPerSlice = 8
  p.slices.length = 0
  socket.emit('data', letters(4 << 10))
  t.same(sizes(p).slice(0, 2), [SLICE_LEAST_BYTES, 2 * SLICE_LEAST_BYTES], 'eight are few')
})

t.test('what is left of a read waits, in order, and once', async t => {
  const { socket, reads, parser: p } = parser(t)
  const sent = letters(2_000)
  p.mayGoOn = false
  socket.emit('data', sent)
  t.equal(p.bytes(), 0)
  reads.goOn()
  t.equal(p.bytes(), 0)
  p.mayGoOn = true
  reads.goOn()
  reads.goOn()
  t.same(Buffer.concat(p.slices), sent)
})

t.test('what is left of a read is parsed before the end of the socket is heard', async t => {
  const { socket, parser: p } = parser(t)
  const sent = letters(2_000)
  const seen: number[] = []
  socket.on('close', () => seen.push(p.bytes()))
  p.mayGoOn = false
  socket.emit('data', sent)
  socket.destroy()
  await new Promise(resolve => socket.once('close', resolve))
  t.same(seen, [sent.length])
})

t.test('every read is a sign of life, whether or not it may be parsed', async t => {
  const socket = new PassThrough()
  t.teardown(() => socket.destroy())
  let reads = 0
  const sliced = new SlicedReads(socket, { onBytes: () => reads++, mayGoOn: () => false })
  socket.emit('data', letters(10))
  t.equal(reads, 1)
  sliced.goOn()
  t.equal(reads, 1)
})
