/**
 * Decides which addresses may be dialled: allow and deny rules for addresses and ports, and special ranges that only a
 * rule inside them opens. Pure, and asked about addresses only: names are resolved first and every address is checked
 * (otherwise a second DNS answer would walk around the policy). Order: own listeners, deny, special ranges, allow.
 */
import { TunnelError } from '../errors.js'
import { contains, addressFormsOf, isInside, readAddress, readNetwork, specialRangeOf } from './networks.js'
import type { Address, Network } from './networks.js'

/** A network (`10.0.0.0/8`, `fd00::/8`) or one address, optionally for some ports only: numbers or `'8000-9000'`. */
export type Rule = string | { cidr: string; ports?: (number | string)[] }

export type PolicyOptions = {
  /** Absent: everything that no deny rule and no special range covers. Empty: nothing. */
  allow?: readonly Rule[]
  /** Takes precedence over every allow rule. Default none. */
  deny?: readonly Rule[]
  /** Listeners of this process: never dialled, whatever the rules say. Default none. */
  ownListeners?: () => readonly Listener[]
  /**
   * The addresses of this machine: where a listener on all of them is reached. Asked for when the port is that of one.
   */
  ownAddresses?: () => readonly string[]
}

/** `host` is the address that is bound, `::` or `0.0.0.0` for all. */
export type Listener = { host: string; port: number }

/** `rule` is a part of a sentence for the caller: the rule that denies the dial. */
export type Verdict = { allowed: true } | { allowed: false; rule: string }

export interface Policy {
  /** May `address` (an IP literal, no brackets) be dialled at `port`? A text that is no canonical literal may not. */
  check(address: string, port: number): Verdict
}

type PortRange = { first: number; last: number }
type ReadRule = { network: Network; ports: PortRange[] | undefined; text: string }

const maxPort = 65_535

function readPorts(port: number | string): PortRange | undefined {
  const [, first, last = first] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(String(port)) ?? []
  const range = { first: Number(first), last: Number(last) }
  return range.first >= 1 && range.first <= range.last && range.last <= maxPort ? range : undefined
}

function readRule(rule: Rule, list: 'allow' | 'deny'): ReadRule {
  const { cidr, ports } = typeof rule === 'string' ? { cidr: rule } : rule
  const network = readNetwork(cidr)
  if (!network) {
    throw new TunnelError(
      'BAD_CONFIG',
      `${list} rule "${cidr}" is not a network: write an address or a CIDR such as 10.0.0.0/8, with no bits behind its mask`
    )
  }
  const ranges = ports?.map(port => {
    const range = readPorts(port)
    if (!range) {
      throw new TunnelError(
        'BAD_CONFIG',
        `${list} rule "${cidr}" has the port "${port}": write 1-${maxPort} or a range such as 8000-9000`
      )
    }
    return range
  })
  return { network, ports: ranges, text: ports ? `${cidr} ports ${ports.join(',')}` : cidr }
}

function covers(rule: ReadRule, address: Address, port: number): boolean {
  const portFits = !rule.ports || rule.ports.some(({ first, last }) => port >= first && port <= last)
  return portFits && contains(rule.network, address)
}

/** Whether a connection to the port of `listener` at one of the forms of an address reaches it. */
function reaches(forms: Address[], listener: Listener, ownAddresses: () => readonly string[]): boolean {
  const read = readAddress(listener.host)
  if (!read) return false
  const [bound] = addressFormsOf(read)
  const same = (one: Address, other: Address) => one.family === other.family && one.value === other.value
  return forms.some(form => {
    // Linux takes "unspecified" for loopback.
    if (form.value === 0n || same(form, bound)) return true
    if (bound.value !== 0n || (bound.family === 4 && form.family === 6)) return false
    if (specialRangeOf(form)?.name === 'loopback') return true
    return ownAddresses().some(text => {
      const own = readAddress(text)
      return own !== undefined && same(form, own)
    })
  })
}

/**
 * Makes a policy. An allow rule opens a special range (networks.ts lists them) only when it lies inside it:
 * `127.0.0.0/8` does, `0.0.0.0/0` does not.
 * @throws TunnelError `BAD_CONFIG` for a rule that cannot be read, naming it.
 */
export function createPolicy(options: PolicyOptions = {}): Policy {
  const { allow, deny = [], ownListeners = () => [], ownAddresses = () => [] } = options
  const allowRules = allow?.map(rule => readRule(rule, 'allow'))
  const denyRules = deny.map(rule => readRule(rule, 'deny'))

  function check(text: string, port: number): Verdict {
    const address = readAddress(text)
    if (!address) return { allowed: false, rule: `"${text}" is not a canonical IP address` }
    const forms = addressFormsOf(address)
    if (ownListeners().some(listener => listener.port === port && reaches(forms, listener, ownAddresses)))
      return { allowed: false, rule: 'it is a listener of the client itself' }

    for (const form of forms) {
      const denied = denyRules.find(rule => covers(rule, form, port))
      if (denied) return { allowed: false, rule: `rule "deny ${denied.text}"` }

      const range = specialRangeOf(form)
      if (!range) continue
      const named = allowRules?.some(
        rule => isInside(rule.network, range.network) && covers(rule, form, port)
      )
      if (!named)
        return { allowed: false, rule: `${range.name} addresses are denied unless an allow rule names them` }
    }

    if (allowRules && !allowRules.some(rule => covers(rule, forms[0], port))) {
      const where = text.includes(':') ? `[${text}]:${port}` : `${text}:${port}`
      return { allowed: false, rule: `no allow rule covers ${where}` }
    }
    return { allowed: true }
  }

  return { check }
}
