/**
 * Who may call at a front, once its certificate was verified. Never those who connect at the tunnel; of the others
 * those that `callers` names. Without that list the front's authorities decide, and where they are the tunnel's as
 * well, they cannot tell a caller from a client: then only `tendril://caller/NAME` does.
 */
import { TunnelError } from '@tendril/common'
import { haveCommonAuthority, readAuthorities } from '@tendril/common/identity/authorities'
import { foldDnsName } from '@tendril/common/identity/dns-name'
import { type Identity, type TunnelIdentities, assertCaller, presented } from '@tendril/common/identity/peer'
import type { Certificates } from '@tendril/common/tls'

export type AllowedCallersOptions = {
  /** `callers` of the front. */
  names?: readonly string[]
  /** Those of the front. */
  certificates: Certificates
  tunnel: TunnelIdentities & { certificates?: Certificates }
}

export class AllowedCallers {
  readonly #options: AllowedCallersOptions
  /** The authorities that were last compared. The arrays stay the same until files have changed. */
  #compared: readonly (readonly string[] | undefined)[] = []
  #shared = false
  /** kube-apiserver shows one certificate with every CONNECT, and `verifyPeer` makes one identity of it. */
  #verdicts = new WeakMap<Identity, TunnelError | 'allowed'>()

  constructor(options: AllowedCallersOptions) {
    this.#options = options
  }

  /** Throws `CALLER_DENIED`. */
  assert(identity: Identity): void {
    this.#compare()
    let verdict = this.#verdicts.get(identity)
    if (verdict === undefined) this.#verdicts.set(identity, (verdict = this.#judge(identity)))
    if (verdict !== 'allowed') throw verdict
  }

  /** Certificates of the tunnel's clients come from the same authorities as those of callers. */
  get sharesAuthorities(): boolean {
    this.#compare()
    return this.#shared
  }

  #judge(identity: Identity): TunnelError | 'allowed' {
    const { names, tunnel } = this.#options
    try {
      assertCaller(identity, tunnel)
    } catch (error) {
      return TunnelError.from(error)
    }
    if (names) {
      const { name, commonName, dnsNames } = identity
      const folded = names.map(foldDnsName)
      const isListed =
        [name, commonName].some(own => own !== undefined && names.includes(own)) ||
        dnsNames.some(dnsName => folded.includes(foldDnsName(dnsName)))
      if (isListed) return 'allowed'
      const own = JSON.stringify(name ?? commonName ?? dnsNames[0] ?? '')
      return new TunnelError('CALLER_DENIED', `${own} is not in the list of callers`)
    }
    if (identity.role === 'caller' || !this.#shared) return 'allowed'
    return new TunnelError(
      'CALLER_DENIED',
      `${presented(identity)} is not a tendril://caller/NAME, and certificates of clients come from the same authority: add its name to callers of the front`
    )
  }

  #compare(): void {
    const { certificates, tunnel } = this.#options
    const [own, theirs] = [certificates.tlsOptions().ca, tunnel.certificates?.tlsOptions().ca]
    if (own === this.#compared[0] && theirs === this.#compared[1]) return
    this.#compared = [own, theirs]
    this.#verdicts = new WeakMap()
    this.#shared = haveCommonAuthority(readAuthorities(own ?? []), readAuthorities(theirs ?? []))
  }
}
