/**
 * The section `peers` of seed-server's configuration: where the other replicas are found, and how they are known for
 * what they are. Its place in the whole is config.ts.
 */
import { duration, filePath, list, section, text } from '@tendril/common/config/fields'
import { parseListen } from '@tendril/common/listen-address'
import type * as z from 'zod'

const HOST_PORT = 'host:port such as 10.0.0.7:8443'

const hostPort = (about?: string) =>
  text({ fits: isHostPort, expected: HOST_PORT, ...(about !== undefined && { about }) })

/** DNS-1123, as Kubernetes wants it for names of namespaces. */
const NAMESPACE = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/

/** RFC 1123 labels with an optional prefix, as Kubernetes wants it for keys and values of labels. */
const LABEL =
  /^([-a-z0-9.]{1,253}\/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?=[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/

export const peersSection = section(
  'Other servers of the same clusters. Each keeps a connection to all others and passes on what its own clients do not serve; clients are told of all of them and connect to each. Exactly one of `static`, `dns` and `leases` says where they are.',
  {
    static: list(
      "Addresses (host:port) of the servers' tunnel listeners, each leading to one server. This server's own may be among them.",
      hostPort(),
      { min: 1 }
    ).optional(),
    dns: hostPort(
      'name:port. The name resolves to the addresses of all servers, as that of a headless Service does.'
    ).optional(),
    leases: section(
      'The servers find each other by Leases (coordination.k8s.io) in the cluster they run in: each renews one that says where it is. The ServiceAccount needs list, watch, create, update and delete on leases in the namespace.',
      {
        namespace: text({
          about: 'Where the Leases are.',
          fits: name => NAMESPACE.test(name),
          expected: 'the name of a namespace'
        }),
        address: text({
          about:
            "host:port at which the other servers reach this one's tunnel listener: the pod's address, by `TENDRIL_PEERS_LEASES_ADDRESS: '[$(POD_IP)]:8443'`. IPv4 may stand in brackets, too.",
          fits: written => isHostPort(withoutNeedlessBrackets(written)),
          expected: HOST_PORT
        }),
        label: text({
          about: 'Label that this group of servers has in common and others in the namespace have not.',
          fits: label => LABEL.test(label),
          expected: 'a label such as app.kubernetes.io/name=tendril'
        }).default('app.kubernetes.io/name=tendril-seed-server'),
        duration: duration({
          about:
            'A Lease that was not renewed for this long counts no more. It is renewed three times as often.',
          min: '3s',
          max: '10m'
        }).prefault('30s'),
        kubeconfig: filePath({
          about:
            'How the API is reached. If not given: the ServiceAccount of the pod, else what kubectl would use.'
        }).optional()
      }
    ).optional(),
    resolveInterval: duration({
      about: 'How often the name of `dns` is looked up.',
      min: '100ms',
      max: '10m'
    }).prefault('2s'),
    connectTimeout: duration({
      about: 'Bound on one attempt to reach a server.',
      min: '100ms',
      max: '5m'
    }).prefault('5s'),
    serverName: text({
      about:
        "Name to ask for and to find in the servers' certificates. If not given: the host of the address, and with `dns` the name that was looked up."
    }).optional(),
    tls: section(
      'Certificates by which this server makes itself known to others. If not given: those of `tunnel.tls`, with `clientCa` as `ca`. The certificate must be good for clients as well (extended key usage), as those of `seed-server pki` are.',
      {
        ca: filePath({ about: "PEM file: the authorities that the other servers' certificates come from." }),
        cert: filePath({ about: 'PEM file: the certificate shown to the other servers.' }),
        key: filePath({ about: 'PEM file: the private key of `cert`. It must not be readable by everybody.' })
      }
    ).optional(),
    identities: section(
      'Certificates that others issued and that belong to servers. Those of `seed-server pki` carry `tendril://server` and need no mention. One match is enough.',
      {
        commonNames: list('Common names of the subject, compared exactly.', text()).default([]),
        dnsNames: list(
          'DNS names among the subject alternative names, compared without regard to case.',
          text()
        ).default([]),
        uris: list('URIs among the subject alternative names, compared exactly.', text()).default([])
      }
    ).prefault({})
  }
)
  .superRefine(({ static: addresses, dns, leases }, context) => {
    const given = [addresses && 'static', dns && 'dns', leases && 'leases'].filter(name => name !== undefined)
    if (given.length === 1) return
    const message =
      given.length === 0
        ? 'where are the other servers? Give one of static, dns and leases'
        : `${given.join(' and ')} exclude each other: give one`
    context.addIssue({ code: 'custom', path: [], message })
  })
  .optional()

export type PeersConfig = NonNullable<z.output<typeof peersSection>>

/** A pod's address is of either family, and whoever writes `[$(POD_IP)]:8443` cannot know of which. */
export function withoutNeedlessBrackets(written: string): string {
  return written.replace(/^\[([0-9.]+)\](?=:)/, '$1')
}

function isHostPort(written: string): boolean {
  try {
    const parsed = parseListen(written)
    return 'port' in parsed && parsed.port > 0 && parsed.host !== ''
  } catch {
    return false
  }
}
