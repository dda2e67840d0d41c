/** Whose certificate is whose at the tunnel, as a Principal. */
import t from 'tap'
import type { Identity } from '../../src/identity/peer.js'
import { callerOf, linkPrincipalOf } from '../../src/identity/principal-of.js'

function identity(part: Partial<Identity>): Identity {
  return {
    role: undefined,
    dnsNames: [],
    uris: [],
    fingerprint256: 'AB:CD',
    notAfter: new Date(8.64e15),
    ...part
  }
}

const clusters = [{ name: 'a', identities: { commonNames: ['shoot-a', 'both'] } }, { name: 'b' }]
const peers = { commonNames: ['seed', 'both'] }

t.test(
  'a caller has the name in its URI, else the common name, else the first name that there is',
  async t => {
    const names = { commonName: 'cn', dnsNames: ['dns.test'], uris: ['spiffe://x'] }

    t.same(callerOf(identity({ role: 'caller', name: 'prometheus', ...names })), {
      kind: 'caller',
      name: 'prometheus'
    })
    t.equal(callerOf(identity(names)).name, 'cn')
    t.equal(callerOf(identity({ dnsNames: ['dns.test'], uris: ['spiffe://x'] })).name, 'dns.test')
    t.equal(callerOf(identity({ uris: ['spiffe://x'] })).name, 'spiffe://x')
    t.equal(callerOf(identity({})).name, 'AB:CD')
  }
)

t.test('a client carries its cluster, by URI or by configuration', async t => {
  t.same(linkPrincipalOf(identity({ role: 'client', cluster: 'b', commonName: 'node 1' }), { clusters }), {
    kind: 'client',
    name: 'node%201',
    cluster: 'b'
  })
  t.same(linkPrincipalOf(identity({ commonName: 'shoot-a' }), { clusters, peers }), {
    kind: 'client',
    name: 'shoot-a',
    cluster: 'a'
  })
})

t.test('another server is one by its URI or by configuration, where there may be others', async t => {
  const server = identity({ role: 'server', commonName: 'seed-1' })

  t.same(linkPrincipalOf(server, { clusters, peers: {} }), { kind: 'server', name: 'seed-1' })
  t.same(linkPrincipalOf(identity({ commonName: 'seed' }), { clusters, peers }), {
    kind: 'server',
    name: 'seed'
  })
  t.throws(() => linkPrincipalOf(server, { clusters }), { code: 'CLUSTER_DENIED' })
  t.throws(() => linkPrincipalOf(identity({ commonName: 'seed' }), { clusters }), { code: 'CLUSTER_DENIED' })
})

t.test('nobody is a client and a server at once', async t => {
  t.throws(() => linkPrincipalOf(identity({ commonName: 'both' }), { clusters, peers }), {
    code: 'CLUSTER_DENIED',
    message: /an identity of cluster "a" and of a server \(peers\.identities\); exactly one is allowed/
  })
  t.throws(
    () => linkPrincipalOf(identity({ role: 'caller', name: 'x', commonName: 'seed' }), { clusters, peers }),
    { code: 'CLUSTER_DENIED' },
    'a role of its own is not overruled by a list'
  )
})
