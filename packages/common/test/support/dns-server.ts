/** A nameserver on loopback, over UDP and TCP at one port, that answers what a test says, or nothing. */
import { type Socket as UdpSocket, createSocket } from 'node:dgram'
import { once } from 'node:events'
import { type AddressInfo, type Server, createServer } from 'node:net'
import type { Test } from 'tap'

/** What a name has; `undefined`: there is no answer at all. */
export type Zone = (name: string, family: 4 | 6) => DnsAnswer | undefined
export type DnsAnswer =
  | { addresses: string[] }
  | { rcode: 'NXDOMAIN' | 'SERVFAIL' | 'REFUSED' }
  /** Cut short over UDP, whole over TCP. */
  | { truncated: string[] }

export type DnsServer = {
  port: number
  /** `127.0.0.1:port`, as `nameservers` takes it. */
  nameserver: string
  /** `name A`, `name AAAA`, as they came; over TCP with ` tcp` behind. */
  asked: string[]
  /** Resolves when the question has come. */
  waitFor(question: string): Promise<void>
}

const RCODES = { NXDOMAIN: 3, SERVFAIL: 2, REFUSED: 5 }

export async function dnsServer(t: Test, zone: Zone): Promise<DnsServer> {
  const asked: string[] = []
  const udp = createSocket('udp4')
  const tcp = createServer({ allowHalfOpen: false })
  await bindBoth(udp, tcp)
  t.teardown(() => {
    udp.close()
    tcp.close()
  })
  const answer = (query: Buffer, over: 'udp' | 'tcp'): Buffer | undefined => {
    const { name, type, end } = readQuestion(query)
    asked.push(`${name} ${type === 28 ? 'AAAA' : 'A'}${over === 'tcp' ? ' tcp' : ''}`)
    udp.emit('asked')
    const found = zone(name, type === 28 ? 6 : 4)
    return found && encode(query.subarray(0, end), type, found, over)
  }
  udp.on('message', (query, { port, address }) => {
    const reply = answer(query, 'udp')
    if (reply) udp.send(reply, port, address)
  })
  tcp.on('connection', socket => {
    let received = Buffer.alloc(0)
    socket.on('error', () => {})
    socket.on('data', chunk => {
      received = Buffer.concat([received, chunk])
      while (received.length > 2 && received.length >= 2 + received.readUInt16BE(0)) {
        const length = received.readUInt16BE(0)
        const reply = answer(received.subarray(2, 2 + length), 'tcp')
        received = received.subarray(2 + length)
        if (!reply) continue
        const prefix = Buffer.alloc(2)
        prefix.writeUInt16BE(reply.length)
        socket.write(Buffer.concat([prefix, reply]))
      }
    })
  })
  const { port } = udp.address()
  const waitFor = async (question: string): Promise<void> => {
    while (!asked.includes(question)) await once(udp, 'asked')
  }
  return { port, nameserver: `127.0.0.1:${port}`, asked, waitFor }
}

/** One number for both; the kernel gives out a UDP port that may be taken for TCP. */
async function bindBoth(udp: UdpSocket, tcp: Server): Promise<void> {
  for (;;) {
    tcp.listen(0, '127.0.0.1')
    await once(tcp, 'listening')
    const { port } = tcp.address() as AddressInfo
    try {
      udp.bind(port, '127.0.0.1')
      await once(udp, 'listening')
      return
    } catch {
      tcp.close()
      await once(tcp, 'close')
    }
  }
}

function readQuestion(query: Buffer): { name: string; type: number; end: number } {
  const labels: string[] = []
  let at = 12
  for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length))
    at += 1 + length
  }
  return { name: labels.join('.').toLowerCase(), type: query.readUInt16BE(at + 1), end: at + 5 }
}

function encode(question: Buffer, type: number, answer: DnsAnswer, over: 'udp' | 'tcp'): Buffer {
  const cut = 'truncated' in answer && over === 'udp'
  const addresses =
    'addresses' in answer ? answer.addresses : 'truncated' in answer && !cut ? answer.truncated : []
  const records = addresses.map(address => record(type, address))
  const header = Buffer.from(question.subarray(0, 12))
  header.writeUInt16BE(0x8180 | (cut ? 0x0200 : 0) | ('rcode' in answer ? RCODES[answer.rcode] : 0), 2)
  header.writeUInt16BE(records.length, 6)
  header.writeUInt16BE(0, 8)
  header.writeUInt16BE(0, 10)
  return Buffer.concat([header, question.subarray(12), ...records])
}

function record(type: number, address: string): Buffer {
  const data = type === 1 ? Buffer.from(address.split('.').map(Number)) : ipv6(address)
  const head = Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 1, 0, data.length])
  return Buffer.concat([head, data])
}

function ipv6(address: string): Buffer {
  const [head = '', tail = ''] = address.split('::')
  const before = head === '' ? [] : head.split(':')
  const after = tail === '' ? [] : tail.split(':')
  const groups = [...before, ...new Array<string>(8 - before.length - after.length).fill('0'), ...after]
  return Buffer.concat(groups.map(group => Buffer.from(group.padStart(4, '0'), 'hex')))
}
