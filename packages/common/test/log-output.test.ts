import t from 'tap'
import {
  LOG_AGAIN_MS,
  LOG_BUFFER_BYTES,
  LOG_RETRY_MS,
  LOG_WRITE_BYTES,
  LogOutput,
  writeFully
} from '../src/log-output.js'
import { FakeClock } from './support/fake-clock.js'

type Done = (error: Error | null, written: number) => void

function failure(code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(code), { code })
}

/** A descriptor whose writes the test answers itself. */
function descriptor() {
  const clock = new FakeClock()
  const reported: string[] = []
  const asked: { text: string; done: Done }[] = []
  let text = ''
  const output: LogOutput = new LogOutput({
    clock,
    write: (_, bytes, done) => void asked.push({ text: bytes.toString(), done }),
    writeSync: (_, bytes) => {
      text += bytes.toString()
      return bytes.length
    },
    onDrop: lines => reported.push(`dropped ${lines}`),
    onResume: lines => {
      reported.push(`resumed ${lines}`)
      output.write(`${lines} missing\n`)
    }
  })
  const next = (): { text: string; done: Done } => {
    const write = asked.shift()
    if (!write) throw new Error('nothing is written')
    return write
  }
  return {
    clock,
    output,
    reported,
    asked,
    next,
    /** Takes `bytes` of the write under way. Default all. */
    take(bytes?: number) {
      const { text: offered, done } = next()
      text += Buffer.from(offered).subarray(0, bytes).toString()
      done(null, bytes ?? Buffer.byteLength(offered))
    },
    fail: (code: string) => next().done(failure(code), 0),
    get text() {
      return text
    }
  }
}

t.test('lines are written in order, one write at a time, whole lines in each', async t => {
  const fd = descriptor()
  const long = `${'x'.repeat(LOG_WRITE_BYTES - 3)}\n`

  for (const line of ['a\n', 'b\n', long, '\n', long, 'cd\n']) fd.output.write(line)
  t.equal(fd.asked.length, 1)
  fd.take()
  t.equal(fd.asked[0]?.text, `b\n${long}`, 'exactly PIPE_BUF')
  fd.take()
  t.equal(fd.asked[0]?.text, `\n${long}`, 'one more line would be too much')
  fd.take()
  fd.take()

  t.equal(fd.text, `a\nb\n${long}\n${long}cd\n`)
  t.same(fd.reported, [])
})

t.test('a short write goes on where it ended', async t => {
  const fd = descriptor()

  fd.output.write('abcdef\n')
  fd.take(2)
  fd.take(3)
  fd.take()

  t.equal(fd.text, 'abcdef\n')
  t.equal(fd.asked.length, 0)
})

t.test('a full pipe is tried again soon, without a busy loop, and costs no line', async t => {
  for (const code of ['EAGAIN', 'EINTR', 'nothing written']) {
    const fd = descriptor()
    fd.output.write('a\n')
    if (code === 'nothing written') fd.take(0)
    else fd.fail(code)
    fd.output.write('b\n')

    fd.clock.tick(LOG_AGAIN_MS - 1)
    t.equal(fd.asked.length, 0, code)
    fd.clock.tick(1)
    fd.take()
    fd.take()

    t.equal(fd.text, 'a\nb\n')
    t.same(fd.reported, [])
  }
})

t.test(
  'while writes fail lines are dropped and counted, and a line stands where they are missing',
  async t => {
    for (const code of ['ENOSPC', 'EPIPE', 'EIO']) {
      const fd = descriptor()
      for (const line of ['a\n', 'b\n', 'c\n']) fd.output.write(line)

      fd.fail(code)
      fd.output.write('d\n')
      fd.clock.tick(LOG_RETRY_MS - 1)
      t.equal(fd.asked.length, 0, 'not tried before')
      fd.clock.tick(1)
      fd.fail(code)
      fd.clock.tick(LOG_RETRY_MS)
      fd.take()
      fd.output.write('e\n')
      fd.take()
      fd.take()

      t.equal(fd.text, 'a\n3 missing\ne\n', code)
      t.same(fd.reported, ['dropped 2', 'dropped 1', 'resumed 3'])
      t.equal(fd.clock.pending, 0)
    }
  }
)

t.test('a line that was cut by a full disk is completed when there is room', async t => {
  const fd = descriptor()
  fd.output.write('abcdef\n')
  fd.take(3)
  fd.fail('ENOSPC')
  fd.clock.tick(LOG_RETRY_MS)
  fd.take()

  t.equal(fd.text, 'abcdef\n')
})

t.test('nothing lost, nothing said: a failure that passes before another line comes', async t => {
  const fd = descriptor()
  fd.output.write('a\n')
  fd.fail('EIO')
  fd.output.write('b\n')
  fd.clock.tick(LOG_RETRY_MS)
  fd.take()
  fd.take()

  t.equal(fd.text, 'a\nb\n')
  t.same(fd.reported, [])
})

t.test('a reader that stalls costs what is beyond the buffer: at its edge, and in one place', async t => {
  const fd = descriptor()
  const half = `${'x'.repeat(LOG_BUFFER_BYTES / 2 - 1)}\n`
  fd.output.write(half)
  fd.output.write(`${'x'.repeat(LOG_BUFFER_BYTES / 2 - 2)}\n`)
  fd.output.write('\n')
  t.same(fd.reported, [], 'exactly full')

  fd.output.write('\n')
  t.same(fd.reported, ['dropped 1'])
  fd.take()
  fd.output.write('there is room again, but a gap as well\n')
  fd.take()
  fd.output.write('after\n')
  while (fd.asked.length > 0) fd.take()
  fd.output.write('last\n')
  fd.take()

  t.match(fd.text.slice(LOG_BUFFER_BYTES), /^3 missing\nlast\n$/)
  t.same(fd.reported.at(-1), 'resumed 3')
})

t.test(
  'a line longer than the buffer is written when nothing waits: dropped, no write would end the gap',
  async t => {
    const fd = descriptor()
    const long = `${'x'.repeat(LOG_BUFFER_BYTES)}\n`
    fd.output.write(long)
    fd.take()
    fd.output.write('last\n')
    fd.take()

    t.equal(fd.text, `${long}last\n`)
    t.same(fd.reported, [])
  }
)

t.test('what is left when the process exits is written then, as far as it can be', async t => {
  const fd = descriptor()
  fd.output.write('a\n')
  const { done } = fd.next()
  fd.output.write('b\n')
  fd.output.flush()
  t.equal(fd.text, 'b\n', 'a is being written')
  done(null, 2)

  const failed = descriptor()
  failed.output.write('a\n')
  failed.fail('EAGAIN')
  failed.output.flush()
  t.equal(failed.text, 'a\n')
  t.equal(failed.clock.pending, 0)

  const broken = new LogOutput({
    clock: new FakeClock(),
    write: (_, __, done) => done(failure('ENOSPC'), 0),
    writeSync: () => {
      throw failure('ENOSPC')
    }
  })
  broken.write('a\n')
  t.doesNotThrow(() => broken.flush())
})

t.test('writing fully ends: with all bytes, with the error, or when a full pipe stays full', async t => {
  let text = ''
  const slowly = (_: number, bytes: Buffer): number => {
    text += bytes.toString('latin1', 0, 1)
    return 1
  }
  writeFully(1, Buffer.from('abc'), { write: slowly })
  t.equal(text, 'abc')

  let tries = 0
  const full = (): number => {
    tries += 1
    throw failure('EAGAIN')
  }
  t.throws(() => writeFully(1, Buffer.from('a'), { write: full, patienceMs: 2 * LOG_AGAIN_MS }), {
    code: 'EAGAIN'
  })
  t.equal(tries, 3)
})
