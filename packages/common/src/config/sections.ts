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
      about: 'The window a stream gets even when the memory budget is used up.',
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
        'All windows of all sessions of the process together grow up to this, beyond `windowMin` of each stream. A server divides it fairly between its clusters: one alone may use four fifths, with others it falls to its share, and whoever comes later finds room.',
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
  'A link is what outlives connections: when one breaks, the next goes on where it ended. What was sent and is not acknowledged is kept for that. The worst case of a process is `replayBudget` plus `replayMin` for each link.'

const linkKeys = {
  resumeWindow: duration({
    about: 'How long a link may be without a connection before its streams are given up.',
    min: '0ms',
    max: '1h'
  }).prefault('60s'),
  pingInterval: duration({
    about:
      'Silence after which the other side is asked for a sign of life; up to a fifth of it sooner. Also what keeps NATs and load balancers from forgetting the connection.',
    min: '50ms',
    max: '5m'
  }).prefault('5s'),
  deadAfter: duration({
    about: 'Silence after which a connection counts as lost.',
    min: '100ms',
    max: '10m'
  }).prefault('10s'),
  replayLimit: size({
    about:
      'Most bytes kept per link and direction. At the limit sending waits for acknowledgements: too small costs throughput on long lines, never data. Less is kept where the path is slow: twice what it carries in a round trip.',
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
      'All links of the process together keep up to this. A server divides it fairly between its clusters: one alone may use four fifths, with others it falls to its share, and whoever comes later finds room. Where there is only one cluster, all is its.',
    min: '1MiB',
    max: '64GiB'
  }).prefault('256MiB'),
  ackTimeout: duration({
    about:
      'A connection over which messages are under way and none was acknowledged for this long is ended together with its link (OVERLOADED), so that nobody makes the other side keep messages for ever. One message of 128 KiB has to arrive in this time.',
    min: '1s',
    max: '1h'
  }).prefault('30s')
}

function checkLink(
  link: { deadAfter: number; pingInterval: number; replayMin: number; replayLimit: number },
  context: z.RefinementCtx
): void {
  if (link.deadAfter <= link.pingInterval) {
    context.addIssue({ code: 'custom', path: ['deadAfter'], message: 'is not longer than pingInterval' })
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
      'Links at once, those included that are down and may be resumed; one more is refused with OVERLOADED. With `workers` those of each. `clusters[].limits.links` says how many of them one cluster may have.',
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
  'How names are resolved. /etc/hosts, and the search domains and `options` of /etc/resolv.conf count in any case.',
  {
    resolver: choice({
      about:
        '`own`: in this process, where a name whose nameserver is silent holds up no other. `system`: getaddrinfo, which knows every source of /etc/nsswitch.conf, but where a few silent names hold up all others until they time out; more threads (UV_THREADPOOL_SIZE) then help. `auto`: `own`, unless nsswitch.conf or resolv.conf ask for what only getaddrinfo can do (mDNS, NIS, LDAP, `use-vc`, a nameserver with a zone).',
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
        'Names of targets being resolved at once. One more gives up the oldest with OVERLOADED. Names of our own servers are counted apart, up to the same number.',
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
        message: 'getaddrinfo asks those of /etc/resolv.conf: write resolver: own, or leave them out'
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
  'Health and metrics for operators, over plain HTTP and only to be read: `/livez`, `/readyz`, `/metrics`. Without this section nothing is served.',
  {
    listen: listenTcp({
      about: 'Where. It asks nobody who they are: keep it on loopback or inside the pod network.'
    }),
    allowedHosts: list(
      'Names by which it may be asked (Host), `*.` in front for any name below. Addresses, `localhost` and names without a dot need no mention; any other name is answered 421, so that no page in a browser reads it under a name of its own (DNS rebinding).',
      text({
        fits: written => /^(\*\.)?[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*$/.test(written),
        expected: 'a name such as tendril.example.org or *.example.org'
      })
    ).default(['*.svc', '*.svc.cluster.local'])
  }
).optional()

export const logSection = section('What the program says on standard output.', {
  level: choice({
    about: 'The least important thing that is still said. `debug` says something about each dial.',
    values: ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']
  }).default('info'),
  format: choice({
    about:
      '`json` writes one object per line, `text` lines for people. `auto` means `text` on a terminal and `json` elsewhere.',
    values: ['auto', 'json', 'text']
  }).default('auto')
}).prefault({})
