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
  'Other servers of the same clusters. Each server keeps a connection to all others and passes on dials that its own clients cannot serve. Clients receive the list of servers and connect to each. Give exactly one of `static`, `dns` and `leases`.',
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
      'The servers find each other by Leases (coordination.k8s.io) in the cluster that they run in: each server renews one that holds its address. The ServiceAccount needs list, watch, create, update and delete on leases in the namespace.',
      {
        namespace: text({
          about: 'Namespace of the Leases.',
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
          about: 'Label of the Leases of this group of servers. No other group in the namespace may use it.',
          fits: label => LABEL.test(label),
          expected: 'a label such as app.kubernetes.io/name=tendril'
        }).default('app.kubernetes.io/name=tendril-seed-server'),
        duration: duration({
          about:
            'A Lease that was not renewed for this long is ignored. A server renews its own three times in this time.',
          min: '3s',
          max: '10m'
        }).prefault('30s'),
        kubeconfig: filePath({
          about:
            'kubeconfig file for the API. Default: the ServiceAccount of the pod, else the configuration that kubectl would use.'
        }).optional()
      }
    ).optional(),
    resolveInterval: duration({
      about: 'How often the name of `dns` is looked up.',
      min: '100ms',
      max: '10m'
    }).prefault('2s'),
    connectTimeout: duration({
      about: 'Longest time of one attempt to connect to a server.',
      min: '100ms',
      max: '5m'
    }).prefault('5s'),
    serverName: text({
      about:
        "Name to ask for in the TLS handshake and to verify in the servers' certificates. Default: the host of the address, and with `dns` the name that was looked up."
    }).optional(),
    tls: section(
      'Certificates that this server shows to other servers. Default: those of `tunnel.tls`, with `clientCa` as `ca`. The certificate needs clientAuth in its extended key usage, which those of `seed-server pki` have.',
      {
        ca: filePath({ about: "PEM file: the authorities that the other servers' certificates come from." }),
        cert: filePath({ about: 'PEM file: the certificate that this server shows to other servers.' }),
        key: filePath({
          about: 'PEM file: the private key of `cert`. The file must not be readable by all users.'
        })
      }
    ).optional(),
    identities: section(
      'Certificates that others issued and that belong to servers. Those of `seed-server pki` contain `tendril://server` and need no entry. One match is enough.',
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
