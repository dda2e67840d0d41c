/** Certificates beside those that a deployment is made with: renewed, expired, or of somebody else's authority. */
import { createPrivateKey, generateKeyPairSync, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import {
  createAuthority,
  issueLeaf,
  type Issuer,
  type LeafOptions
} from '@tendril/common/identity/certificate'
import type { Deployment } from '../support/deployment.js'

/** PEM. */
export type Material = { cert: string; key: string }

/** By default one for clients of the TLS kind, of the deployment's own authority. */
export function issue(
  deployment: Pick<Deployment, 'pki'>,
  { untrusted, ...options }: Partial<Omit<LeafOptions, 'publicKey'>> & { untrusted?: boolean }
): Material {
  const authority = untrusted ? otherAuthority() : authorityOf(deployment)
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const cert = issueLeaf(authority, {
    commonName: 'somebody',
    usages: ['clientAuth'],
    ...options,
    publicKey
  })
  return { cert, key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString() }
}

function authorityOf({ pki }: Pick<Deployment, 'pki'>): Issuer {
  return {
    certificate: new X509Certificate(readFileSync(pki('ca.crt'))),
    key: createPrivateKey(readFileSync(pki('ca.key')))
  }
}

function otherAuthority(): Issuer {
  const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  return {
    certificate: new X509Certificate(createAuthority({ commonName: 'untrusted', keys })),
    key: keys.privateKey
  }
}
