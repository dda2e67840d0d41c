import { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import t from 'tap'
import { AdminConnections } from '../../src/admin/connections.js'

class FakeSocket extends EventEmitter {
  destroyed = false
  readonly remoteAddress: string | undefined

  constructor(remoteAddress: string | undefined) {
    super()
    this.remoteAddress = remoteAddress
  }

  destroy(): void {
    this.destroyed = true
    this.emit('close')
  }
}

function open(connections: AdminConnections, source: string | undefined): FakeSocket {
  const socket = new FakeSocket(source)
  connections.add(socket as unknown as Socket)
  return socket
}

t.test('one source has at most its share, and loses its own oldest', async t => {
  const connections = new AdminConnections({ perSource: 2, total: 10 })
  const other = open(connections, 'b')
  const [first, second] = [open(connections, 'a'), open(connections, 'a')]
  t.notOk(first.destroyed, 'at the bound')

  open(connections, 'a')

  t.match([first.destroyed, second.destroyed, other.destroyed], [true, false, false])
  t.equal(connections.size, 3)
})

t.test('when all is full the source that has most loses', async t => {
  const connections = new AdminConnections({ perSource: 3, total: 4 })
  const kubelet = open(connections, 'kubelet')
  const [first] = [open(connections, 'a'), open(connections, 'a'), open(connections, 'a')]

  const prometheus = open(connections, 'prometheus')

  t.match([kubelet.destroyed, first.destroyed, prometheus.destroyed], [false, true, false])
  t.equal(connections.size, 4)
})

t.test('an idle one goes before one that is being answered; when none is idle the oldest goes', async t => {
  const connections = new AdminConnections({ perSource: 2, total: 10 })
  const [busy, idle] = [open(connections, 'a'), open(connections, 'a')]
  const answered = connections.begin(busy as unknown as Socket)
  const third = open(connections, 'a')
  t.match([busy.destroyed, idle.destroyed], [false, true])

  connections.begin(third as unknown as Socket)
  open(connections, 'a')
  t.match([busy.destroyed, third.destroyed], [true, false])
  t.doesNotThrow(answered, 'after its end')
})

t.test('what closes is forgotten', async t => {
  const connections = new AdminConnections({ perSource: 2, total: 2 })
  open(connections, undefined).destroy()
  open(connections, undefined).destroy()
  t.equal(connections.size, 0)
  t.doesNotThrow(connections.begin(new FakeSocket('x') as unknown as Socket))
})
