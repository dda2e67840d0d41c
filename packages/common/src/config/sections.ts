/** The sections that both programs' configurations have: `session`, `link`, `dns`, `admin` and `log`. */
import type * as z from 'zod'
import type { LinkLimits, SessionLimits } from '../index.js'
import type { ResolveOptions } from '../resolve.js'
import { nameserverOf } from '../resolver-files.js'
import { choice, count, duration, list, listenTcp, section, size, text } from './fields.js'

/** How much the streams of one session may have under way. */
export const sessionSection = section(
  'Memory of one session, which is one connection between a client and a server. The worst case of one direction of a session is `memoryBudget` plus `windowMin` for each stream; that of a process is `processBudget` plus `windowMin` for each stream.',
  {
    windowInitial: size({
      about:
        'Bytes the other side may send on a new stream before the first are read. Before it has grown, a stream carries at most this much for each round trip.',
      min: '16KiB',
      max: '1GiB'
    }).prefault('1MiB'),
    windowMin: size({
      about: 'Smallest window of a stream, also when the memory budget is used up.',
      min: '16KiB',
      max: '16MiB'
    }).prefault('32KiB'),
    windowMax: size({
      about:
        'A window grows with the measured speed and round trip up to this. One stream carries at most one window for each round trip.',
      min: '16KiB',
      max: '1GiB'
    }).prefault('32MiB'),
    memoryBudget: size({
      about: 'All windows of a session together grow up to this.',
      min: '1MiB',
      max: '64GiB'
    }).prefault('64MiB'),
    processBudget: size({
      about:
        'Limit of all windows of all sessions of the process together, beyond `windowMin` of each stream. The clusters of a server share it: each may use at most four times what is free, so that one alone uses at most four fifths and others still find room. A single cluster may use all of it.',
      min: '1MiB',
      max: '64GiB'
    }).prefault('1GiB'),
    maxStreams: count({
      about: 'Streams open at once; one more dial is refused with OVERLOADED.',
      min: 1,
      max: 1_000_000
    }).default(8192)
  }
)
  .superRefine((session, context) => {
    const { windowInitial, windowMin, windowMax } = session
    if (windowMin > windowMax) {
      context.addIssue({ code: 'custom', path: ['windowMin'], message: 'is larger than windowMax' })
    }
    if (windowInitial > windowMax) {
      context.addIssue({ code: 'custom', path: ['windowInitial'], message: 'is larger than windowMax' })
    }
  })
  .prefault({})

/** What `identity/admitted` does. `opened`: what ends. `authorities`: their key. `more`: a sentence behind. */
export function expiryChoice({
  opened,
  authorities,
  more = ''
}: Record<'opened' | 'authorities', string> & { more?: string }) {
  return choice({
    about: `What happens when a certificate expires. \`end\`: ${opened} that were opened with it. \`keep\`: these stay, and only new ones need a valid certificate. When an authority is no longer in \`${authorities}\`, what its certificates opened ends in any case, after the file has been read again.${more && ` ${more}`}`,
    values: ['end', 'keep']
  }).default('end')
}

/** The section as options of a Session. */
export function sessionLimits(section: z.output<typeof sessionSection>): Partial<SessionLimits> {
  return {
    windowInitialBytes: section.windowInitial,
    windowMinBytes: section.windowMin,
    windowMaxBytes: section.windowMax,
    budgetBytes: section.memoryBudget,
    streamLimit: section.maxStreams
  }
}

const LINK_ABOUT =
  'A link outlives connections: when a connection breaks, the link continues over the next one. Messages that are not acknowledged are kept until then. The worst case of a process is `replayBudget` plus `replayMin` for each link.'

const linkKeys = {
  resumeWindow: duration({
    about: 'How long a link may be without a connection. After that its streams are reset.',
    min: '0ms',
    max: '1h'
  }).prefault('60s'),
  pingInterval: duration({
    about:
      'Send a PING after so long without a byte from the other side, or up to a fifth of it earlier. It also keeps the connection in the tables of NATs and load balancers.',
    min: '50ms',
    max: '5m'
  }).prefault('5s'),
  deadAfter: duration({
    about: 'A connection without a byte from the other side for this long counts as lost.',
    min: '100ms',
    max: '10m'
  }).prefault('10s'),
  replayLimit: size({
    about:
      'Most bytes kept per link and direction. At the limit sending waits for acknowledgements. A value that is too small costs throughput on long paths, never data. On a slow path less is kept: twice what the path carries in a round trip.',
    min: '64KiB',
    max: '1GiB'
  }).prefault('32MiB'),
  replayMin: size({
    about: 'Bytes a link may keep when the budget is used up.',
    min: '16KiB',
    max: '16MiB'
  }).prefault('256KiB'),
  replayBudget: size({
    about:
      'Limit of what all links of the process keep together, beyond `replayMin` of each link. The clusters of a server share it: each may use at most four times what is free, so that one alone uses at most four fifths and others still find room. A single cluster may use all of it.',
    min: '1MiB',
    max: '64GiB'
  }).prefault('256MiB'),
  ackTimeout: duration({
    about:
      'How long messages may be under way on a link that is up without one of them being acknowledged. Then the link is ended (OVERLOADED), so that a peer that never acknowledges does not hold memory for ever. One message of 128 KiB has to arrive in this time.',
    min: '1s',
    max: '1h'
  }).prefault('30s')
}

function checkLink(
  link: { deadAfter: number; pingInterval: number; replayMin: number; replayLimit: number },
  context: z.RefinementCtx
): void {
  if (link.deadAfter <= link.pingInterval) {
    context.addIssue({ code: 'custom', path: ['deadAfter'], message: 'must be longer than pingInterval' })
  }
  if (link.replayMin > link.replayLimit) {
    context.addIssue({ code: 'custom', path: ['replayMin'], message: 'is larger than replayLimit' })
  }
}

/** How a link outlives its connections. */
export const linkSection = section(LINK_ABOUT, linkKeys).superRefine(checkLink).prefault({})

/** The same for the side that accepts links. */
export const acceptedLinkSection = section(LINK_ABOUT, {
  ...linkKeys,
  linkLimit: count({
    about:
      'Most links at once, including those that are down and may be resumed; one more is refused with OVERLOADED. Clients need one for each of their `connections`: 1000 clients with 3 need 3000. Half of it is kept for the clusters, the same number for each, and the other half is for those that ask first: a single cluster may use all, each of two three quarters, each of ten 55 %, and what is kept for a cluster no other one can take. Other servers count as one cluster more. With `workers` each worker has this limit.',
    min: 1,
    max: 1_000_000
  }).default(4096)
})
  .superRefine(checkLink)
  .prefault({})

/** The section as options of a Link. */
export function linkLimits(section: z.output<typeof linkSection>): LinkLimits {
  return {
    resumeWindowMs: section.resumeWindow,
    pingIntervalMs: section.pingInterval,
    deadAfterMs: section.deadAfter,
    replayLimitBytes: section.replayLimit,
    replayMinBytes: section.replayMin,
    ackTimeoutMs: section.ackTimeout
  }
}

export const dnsSection = section(
  'How names are resolved. /etc/hosts, and the search domains and `options` of /etc/resolv.conf are used in any case.',
  {
    resolver: choice({
      about:
        '`own`: in this process; a nameserver that does not answer for one name delays no other name. `system`: by getaddrinfo, which supports every source of /etc/nsswitch.conf, but a few names without an answer delay all others until they time out; more threads (UV_THREADPOOL_SIZE) help then. `auto`: `own`, unless nsswitch.conf or resolv.conf ask for what only getaddrinfo can do (mDNS, NIS, LDAP, `use-vc`, a nameserver with a zone).',
      values: ['auto', 'own', 'system']
    }).default('auto'),
    nameservers: list(
      'Nameservers to ask instead of those of /etc/resolv.conf: addresses, with a port if it is not 53. Not with `resolver: system`.',
      text({
        fits: written => nameserverOf(written) !== undefined && !written.includes('%'),
        expected: 'an address such as 10.0.0.10, 10.0.0.10:5353 or [fd00::a]:5353'
      })
    ).default([]),
    maxQuestions: count({
      about:
        'Most names of targets that are resolved at once. With one more the oldest fails with OVERLOADED. Names of servers are counted separately, with the same limit.',
      min: 1,
      max: 65_536
    }).default(1024)
  }
)
  .superRefine(({ resolver, nameservers }, context) => {
    if (resolver === 'system' && nameservers.length > 0) {
      context.addIssue({
        code: 'custom',
        path: ['nameservers'],
        message:
          'have no effect with resolver: system, which asks those of /etc/resolv.conf: set resolver: own, or leave nameservers out'
      })
    }
  })
  .prefault({})

/** The section as options of `createResolve`. */
export function resolveOptions(section: z.output<typeof dnsSection>): ResolveOptions {
  const { resolver, nameservers, maxQuestions } = section
  return { resolver, nameservers, maxQuestions }
}

export const adminSection = section(
  'Health and metrics for operators, read-only, over plain HTTP: `/livez`, `/readyz`, `/metrics`. Without this section there is no such listener.',
  {
    listen: listenTcp({
      about:
        'Address of the listener. It does not authenticate requests: keep it on loopback or inside the pod network.'
    }),
    allowedHosts: list(
      'Names that requests may have in their Host header; `*.` in front stands for any name below. Addresses, `localhost` and names without a dot are always allowed. Any other name is answered 421, so that a web page cannot read this listener by DNS rebinding.',
      text({
        fits: written => /^(\*\.)?[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*$/.test(written),
        expected: 'a name such as tendril.example.org or *.example.org'
      })
    ).default(['*.svc', '*.svc.cluster.local'])
  }
).optional()

export const logSection = section('Log lines on standard output.', {
  level: choice({
    about: 'Minimum log level. `debug` logs each dial.',
    values: ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']
  }).default('info'),
  format: choice({
    about:
      '`json` writes one object per line, `text` lines for people. `auto` means `text` on a terminal and `json` elsewhere.',
    values: ['auto', 'json', 'text']
  }).default('auto')
}).prefault({})
