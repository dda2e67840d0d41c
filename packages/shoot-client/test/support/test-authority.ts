/** A small PKI for one test, in memory. */
import { X509Certificate } from 'node:crypto'
import { createAuthority, issueLeaf } from '@tendril/common/identity/certificate'
import type { LeafOptions } from '@tendril/common/identity/certificate'
import { encodePrivateKey, makeKeyPair } from '@tendril/common/identity/keys'

export function authority(commonName = 'test ca') {
  const keys = makeKeyPair()
  const ca = createAuthority({ commonName, keys })
  const issuer = { certificate: new X509Certificate(ca), key: keys.privateKey }
  const leaf = (hosts: string[], options: Partial<LeafOptions> = {}) => {
    const { publicKey, privateKey } = makeKeyPair()
    const usages = ['serverAuth', 'clientAuth'] as const
    const cert = issueLeaf(issuer, { commonName: 'leaf', publicKey, usages, hosts, ...options })
    return { cert, key: encodePrivateKey(privateKey) }
  }
  return { ca, leaf }
}
