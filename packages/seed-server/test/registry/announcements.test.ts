import t from 'tap'
import { FakeClock } from '@tendril/common/test/support/fake-clock'
import {
  ANNOUNCEMENT_INTERVAL_MS,
  ANNOUNCEMENTS_PER_ROUND,
  Announcements
} from '../../src/registry/announcements.js'

function world() {
  const clock = new FakeClock()
  const announcements = new Announcements(clock)
  const events: string[] = []
  const open = (name: string, cluster = 'demo') =>
    announcements.open(cluster, {
      read: text => {
        if (text === 'bad') throw new Error('bad')
        events.push(`${name} ${text}`)
      },
      onError: ({ code }) => events.push(`${name} ${code}`)
    })
  return { clock, open, events }
}

t.test('the first is read at once, of later ones the newest, and the same only once', async t => {
  const { clock, open, events } = world()
  const a = open('a')
  for (const text of ['1', '1', '2', '3', '4']) a.receive(text)
  t.same(events, ['a 1'])
  clock.tick(ANNOUNCEMENT_INTERVAL_MS)
  t.same(events, ['a 1', 'a 4'])
  a.receive('4')
  t.equal(clock.pending, 0)
})

t.test(
  'a client that announces others in a loop is read so often as anybody, and others are in turn',
  async t => {
    const { clock, open, events } = world()
    const links = Array.from({ length: 2 * ANNOUNCEMENTS_PER_ROUND + 1 }, (_, number) => open(`${number}`))
    for (const link of links) link.receive('first')
    t.equal(events.length, links.length)
    events.length = 0

    const rounds: number[] = []
    for (let round = 0; round < 3; round++) {
      for (let again = 0; again < 100; again++) links[0]!.receive(`${round} ${again}`)
      if (round === 0) for (const link of links) link.receive('second')
      const before = events.length
      clock.tick(ANNOUNCEMENT_INTERVAL_MS)
      rounds.push(events.length - before)
    }

    t.same(rounds, [ANNOUNCEMENTS_PER_ROUND, ANNOUNCEMENTS_PER_ROUND, 2])
    t.equal(new Set(events.map(event => event.split(' ')[0])).size, links.length, 'each was read')
  }
)

t.test('one cluster does not wait for another; who is gone is not read', async t => {
  const { clock, open, events } = world()
  const many = Array.from({ length: 100 }, (_, number) => open(`a${number}`, 'a'))
  const b = open('b', 'b')
  const gone = open('gone', 'b')
  for (const link of [...many, b, gone]) link.receive('first')
  events.length = 0
  for (const link of [...many, b, gone]) link.receive('second')
  gone.close()
  gone.receive('third')
  clock.tick(ANNOUNCEMENT_INTERVAL_MS)

  t.equal(events.length, ANNOUNCEMENTS_PER_ROUND + 1)
  t.ok(events.includes('b second'))
})

t.test('what cannot be read is told to its owner, now and later', async t => {
  const { clock, open, events } = world()
  open('a').receive('bad')
  const b = open('b')
  b.receive('good')
  b.receive('bad')
  clock.tick(ANNOUNCEMENT_INTERVAL_MS)

  t.same(events, ['a INTERNAL', 'b good', 'b INTERNAL'])
})
