/**
 * What the values of the two Helm charts may be, in the words that configuration schemas are written in. The value
 * `config` is the program's own schema, less what a chart fills in: paths of files, and a pod's own address.
 * values-schema.ts makes values.schema.json of it.
 */
import { choice, count, duration, field, list, text, yesNo } from '@tendril/common/config/fields'
import { seedSchema } from '@tendril/seed-server/config'
import { shootSchema } from '@tendril/shoot-client/config'
import * as z from 'zod'

const PORT = { min: 1, max: 65_535 }

/** A mapping with any of these keys: values.yaml has them all. */
const group = <S extends z.core.$ZodShape>(about: string, shape: S) =>
  field(z.strictObject(shape).partial(), { type: 'section', expected: 'a mapping', about })

/** Kubernetes' own kinds of mapping and list: kube-apiserver says what is wrong with them. */
const mapping = (about: string) =>
  field(z.record(z.string(), z.unknown()), { type: 'mapping', expected: 'a mapping', about })
const strings = (about: string) =>
  field(z.record(z.string(), z.string()), { type: 'mapping', expected: 'a mapping of text to text', about })
const objects = (about: string) => list(about, z.record(z.string(), z.unknown()))
/** Text that may be empty, which means that it is not given. */
const words = (about: string) => field(z.string(), { type: 'text', expected: 'text', about })

const authorities = (about: string) =>
  group(about, {
    secretName: words('The Secret they are in.'),
    configMapName: words('The ConfigMap they are in.'),
    key: words('What they are called there.')
  })

const certificate = (about: string) =>
  group(about, {
    secretName: words('The Secret with the certificate and its key.'),
    certKey: words('What the certificate is called there.'),
    keyKey: words('What the private key is called there.'),
    ca: authorities('The authorities, if they are not in the same Secret.')
  })

const certManager = {
  enabled: yesNo({ about: 'A cert-manager Certificate is made.' }),
  issuerRef: mapping('Who issues it.'),
  duration: words('How long it is valid.'),
  renewBefore: words('How long before its end it is renewed.')
}

const shared = {
  replicas: count({ about: 'Pods.', min: 0, max: 100 }),
  image: group('The image of the pods.', {
    repository: text({ about: 'Where it is.' }),
    tag: words('A tag, or a digest that begins with @. The appVersion of the chart if empty.'),
    pullPolicy: choice({ about: 'When it is pulled.', values: ['Always', 'IfNotPresent', 'Never'] })
  }),
  imagePullSecrets: objects('Secrets for pulling the image.'),
  serviceMonitor: group('For prometheus-operator.', {
    enabled: yesNo({ about: 'A ServiceMonitor is made.' }),
    labels: strings('Labels that the Prometheus in question selects by.'),
    interval: duration({ about: 'Time between two scrapes.', min: '1s', max: '1h' })
  }),
  resources: mapping(
    'Requests and limits of the container. Mind what the comment in values.yaml says of them.'
  ),
  podLabels: strings('More labels of the pods.'),
  podAnnotations: strings('Annotations of the pods.'),
  priorityClassName: words('PriorityClass of the pods.'),
  nodeSelector: strings('Labels of nodes that pods may run on.'),
  tolerations: objects('Taints that pods tolerate.'),
  affinity: mapping('Instead of a preference for different nodes.'),
  podSecurityContext: mapping('As whom the pods run.'),
  env: objects('Variables of the container.'),
  nameOverride: words('Instead of the name of the chart.'),
  fullnameOverride: words('Instead of names made of release and chart.'),
  global: mapping('Helm’s, and not used here.')
}

const serverValues = group('', {
  config: seedSchema,
  ...shared,
  certificates: group('Secrets that hold certificates.', {
    tunnel: certificate('Shown to clients.'),
    fronts: certificate('Shown to kube-apiserver. That of the tunnel if no Secret is named.'),
    certManager: group('Lets cert-manager make the certificate of the tunnel.', {
      ...certManager,
      dnsNames: list('Names that clients dial.', z.string())
    })
  }),
  service: group('Where kube-apiserver asks.', {
    tunnelPort: count({ about: 'One more port, on which clients arrive. 0: none.', min: 0, max: PORT.max }),
    annotations: strings('Annotations of the Service.')
  }),
  tunnelService: group('Where clients arrive.', {
    type: choice({ about: 'Type of the Service.', values: ['ClusterIP', 'NodePort', 'LoadBalancer'] }),
    port: count({ about: 'Port of the Service.', ...PORT }),
    annotations: strings('Annotations of the Service.')
  }),
  networkPolicy: group('Who may come in. Lists of NetworkPolicyPeers.', {
    enabled: yesNo({ about: 'A NetworkPolicy is made.' }),
    tunnelFrom: objects('Where clients come from. Empty: from everywhere.'),
    frontsFrom: objects('Where kube-apiserver is.'),
    metricsFrom: objects('Where Prometheus is. Empty: nobody.')
  }),
  preStopSeconds: count({
    about: 'How long a pod that ends goes on as before, so that everybody has heard of it when it drains.',
    min: 1,
    max: 300
  })
})

const clientValues = group('', {
  config: shootSchema,
  ...shared,
  certificates: group('The Secret that holds the certificate.', {
    tunnel: certificate('Shown to the server.'),
    proxyCa: authorities(
      'The authorities of an https:// proxy or upstream proxy. Those built into Node if neither is named.'
    ),
    certManager: group('Lets cert-manager make it.', certManager)
  }),
  networkPolicy: group('Who may come in (a list of NetworkPolicyPeers), and the way out.', {
    enabled: yesNo({ about: 'A NetworkPolicy is made.' }),
    metricsFrom: objects('Where Prometheus is. Empty: nobody.'),
    proxyPorts: list(
      'Ports of proxies that come from Secrets, and so are not seen in `env`.',
      count({ ...PORT })
    )
  }),
  checkConfigContainer: words(
    'An init container of this name checks the configuration and prints all that is in force. None if empty.'
  )
})

/** Chart → its values, and the keys below `config` that the chart fills in. */
export const charts = {
  'seed-server': {
    values: serverValues,
    filledIn: ['tunnel.tls', 'peers.leases.address', 'peers.leases.namespace', 'peers.leases.label']
  },
  'shoot-client': { values: clientValues, filledIn: ['tls'] }
} as const

/** Without these a chart has nothing to name a port after. */
export const neededByCharts = ['admin']
