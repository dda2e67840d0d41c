/** Time is in the test's hands; certificates and their signatures are real. */
import { X509Certificate } from 'node:crypto'
import t from 'tap'
import type { Test } from 'tap'
import type { TunnelError } from '@tendril/common'
import { AdmittedCertificates, type AdmittedOptions, LOOK_AGAIN_MS } from '@tendril/common/identity/admitted'
import { readIdentity } from '@tendril/common/identity/peer'
import { createLog } from '@tendril/common/log'
import { FakeClock } from '../support/fake-clock.js'
import { AuthorityFiles, makeAuthority } from './fixtures.js'

const DAY_MS = 24 * 60 * 60_000
const begin = new Date('2030-01-01T00:00:00Z')
const ours = makeAuthority('Our CA', { now: begin })

function create(t: Test, options: Partial<AdmittedOptions> = {}) {
  const clock = new FakeClock()
  const startMs = clock.now()
  const lines: string[] = []
  const files = new AuthorityFiles(ours.cert)
  const wall = { aheadMs: 0 }
  const admitted = new AdmittedCertificates({
    authorities: files,
    clock,
    today: () => new Date(begin.getTime() + clock.now() - startMs + wall.aheadMs),
    log: createLog({ level: 'info', destination: { write: line => void lines.push(line) } }),
    ...options
  })
  t.teardown(() => admitted.close())
  const open = (pem: string) => {
    const certificate = new X509Certificate(pem)
    const whys: TunnelError[] = []
    const socket = { getPeerX509Certificate: () => certificate }
    const release = admitted.add(socket, readIdentity(certificate), why => void whys.push(why))
    return { whys, release }
  }
  return { clock, admitted, files, open, lines, wall }
}

const issue = (validityDays: number, commonName = 'leaf'): string =>
  ours.issue({ commonName, validityDays, now: begin }).cert

t.test('what was opened with a certificate ends with it, and not a millisecond before', async t => {
  const { clock, admitted, open, lines } = create(t)
  const [first, second, other] = [open(issue(1, 'one')), open(issue(2, 'two')), open(issue(2, 'two'))]

  clock.tick(DAY_MS)
  t.same(first.whys, [], 'the last millisecond is a valid one')
  clock.tick(1)
  t.match(first.whys, [
    {
      code: 'NOT_IDENTIFIED',
      detail: 'certificate of "one" expired on 2030-01-02T00:00:00Z'
    }
  ])
  t.same([second.whys, other.whys], [[], []])

  clock.tick(DAY_MS)
  t.equal(second.whys.length, 1)
  t.equal(other.whys.length, 1)
  t.equal(first.whys.length, 1, 'once')
  t.equal(admitted.size, 0)
  t.match(lines[0], /certificate of \\"one\\" expired.*"open":1.*certificate ended/)
})

t.test('two that one certificate has opened are one line in the log', async t => {
  const { clock, open, lines } = create(t, { code: 'CLIENT_NOT_IDENTIFIED' })
  const pem = issue(1)
  const all = [open(pem), open(pem), open(pem)]

  all[1]!.release()
  all[1]!.release()
  clock.tick(DAY_MS + 1)

  t.same(
    all.map(({ whys }) => whys.map(({ code }) => code)),
    [['CLIENT_NOT_IDENTIFIED'], [], ['CLIENT_NOT_IDENTIFIED']]
  )
  t.equal(lines.length, 1)
  t.match(lines[0], /"open":2/)
})

t.test('what has ended by itself leaves nothing, and nothing calls it', async t => {
  const { clock, admitted, open } = create(t)
  const { whys, release } = open(issue(1))

  release()
  t.equal(admitted.size, 0)
  clock.tick(2 * DAY_MS)
  t.same(whys, [])

  const late = open(issue(3))
  admitted.close()
  clock.tick(2 * DAY_MS)
  t.same(late.whys, [], 'closed: it ends nothing any more')
})

t.test('one that has expired before it was added ends at once, but not before add has returned', async t => {
  const { clock, open } = create(t)
  clock.tick(2 * DAY_MS)
  const { whys } = open(issue(1))

  t.same(whys, [])
  clock.tick(0)
  t.equal(whys.length, 1)
})

t.test(
  'no timer is longer than an hour: decades do not overflow it, and a clock that is set is noticed',
  async t => {
    const { clock, open, wall } = create(t)
    const waits: number[] = []
    const after = clock.after.bind(clock)
    clock.after = (ms, callback) => (waits.push(ms), after(ms, callback))
    const { whys } = open(issue(3_650))

    clock.tick(30 * DAY_MS)
    t.same(whys, [])
    t.ok(waits.length >= 30 * 24)
    t.equal(Math.max(...waits), LOOK_AGAIN_MS)

    wall.aheadMs = 3_650 * DAY_MS
    clock.tick(LOOK_AGAIN_MS)
    t.equal(whys.length, 1)
  }
)

t.test('kept: what expires stays open, what the authorities no longer accept does not', async t => {
  const { clock, open, files } = create(t, { onExpiry: 'keep' })
  const { whys } = open(issue(1))

  clock.tick(5_000 * DAY_MS)
  t.same(whys, [])
  files.change(makeAuthority('another').cert, ours.cert)
  clock.tick(1)
  t.same(whys, [], 'its authority, expired with it, is still there')

  files.change(makeAuthority('another').cert)
  t.match(whys, [{ detail: 'certificate of "leaf" comes from an authority that is no longer accepted' }])
})

t.test('authorities that were read again end what they do not accept, and nothing else', async t => {
  const theirs = makeAuthority('Their CA', { now: begin })
  const { clock, admitted, open, files, lines } = create(t)
  files.change(ours.cert, theirs.cert)
  const [own, other] = [open(issue(9)), open(theirs.issue({ now: begin }).cert)]

  files.change(theirs.cert, ours.cert)
  clock.tick(1)
  t.same([own.whys, other.whys], [[], []], 'in another order they are the same')

  files.change(theirs.cert)
  clock.tick(1)
  t.match(own.whys, [{ code: 'NOT_IDENTIFIED', detail: /no longer accepted/ }])
  t.same(other.whys, [])
  t.equal(admitted.size, 1)
  t.match(lines, [/no longer accepted/])

  files.change(makeAuthority('Their CA', { now: begin }).cert)
  clock.tick(1)
  t.match(other.whys, [{ detail: /no longer accepted/ }], 'a namesake with another key')
})

t.test(
  'many certificates are verified a few each turn, and one file after another means the last',
  async t => {
    const { clock, open, files } = create(t)
    const all = [...Array(40).keys()].map(at => open(issue(9, `leaf-${at}`)))
    const ended = (): number => all.filter(({ whys }) => whys.length > 0).length

    files.change(makeAuthority('another').cert)
    t.equal(ended(), 16)
    clock.tick(0)
    t.equal(ended(), 40)

    const { open: reopen, files: changing, clock: other } = create(t)
    const kept = [...Array(40).keys()].map(at => reopen(issue(9, `leaf-${at}`)))
    changing.change(ours.cert, makeAuthority('another').cert)
    changing.change(ours.cert)
    other.tick(1)
    t.same(kept.filter(({ whys }) => whys.length > 0).length, 0)
  }
)

t.test('an authority that is added ends nothing, and stops no round about one that is gone', async t => {
  const { clock, open, files } = create(t)
  // Its issuer was shown in the handshake, which not every Node tells.
  const through = open(makeAuthority('An intermediate', { now: begin }).issue({ now: begin }).cert)
  files.change(ours.cert, makeAuthority('another').cert)
  clock.tick(1)
  t.same(through.whys, [])

  const all = [...Array(40).keys()].map(at => open(issue(9, `leaf-${at}`)))
  const other = makeAuthority('another').cert
  files.change(other)
  files.change(other, makeAuthority('one more').cert)
  clock.tick(1)
  t.equal(all.filter(({ whys }) => whys.length > 0).length, 40)
  t.equal(through.whys.length, 1)
})
