/**
 * What to paste into kube-apiserver so that it dials through a front: its EgressSelectorConfiguration, with the
 * flag and the files it needs as comments. Pure but for the reader of certificates. Rules: the validation and the
 * dialer of k8s.io/apiserver (pkg/server/egressselector), which wants TLS with a client certificate, or a Unix socket.
 */
import { X509Certificate } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { isIP } from 'node:net'
import { TunnelError } from '@tendril/common'
import { formatListen } from '@tendril/common/listen-address'
import { stringify } from 'yaml'
import type { FrontConfig, SeedConfig } from './config.js'

export const EGRESS_DIRECTORY = '/etc/kubernetes/tendril'

export type EgressOptions = {
  /** Name of the front. May be left out where there is only one. */
  front?: string
  /** Host that kube-apiserver connects to. Needed where the front listens on every address. */
  host?: string
  /**
   * Name expected in the front's certificate instead of `host`. Only Kubernetes 1.36 and newer know the key; older ones
   * fail to start.
   */
  tlsServerName?: string
  /** Where the files will be on kube-apiserver's side. Default `/etc/kubernetes/tendril`. */
  directory?: string
}

/**
 * The configuration as YAML.
 *
 * @throws TunnelError BAD_CONFIG when kube-apiserver could not use the front as it is, saying what to change
 */
export async function egressConfig(config: SeedConfig, options: EgressOptions): Promise<string> {
  const front = findFront(config.fronts, options.front)
  const directory = (options.directory ?? EGRESS_DIRECTORY).replace(/(.)\/+$/, '$1')
  const { transport, files } =
    'path' in front.listen
      ? socketTransport(front.listen.path, options)
      : await tlsTransport(front, front.listen, options, directory)

  const document = {
    apiVersion: 'apiserver.k8s.io/v1beta1',
    kind: 'EgressSelectorConfiguration',
    egressSelections: [{ name: 'cluster', connection: { proxyProtocol: 'HTTPConnect', transport } }]
  }
  const comments = [
    `kube-apiserver reaches nodes, pods and services through the front ${front.name}.`,
    `Save this as ${directory}/egress.yaml where kube-apiserver runs and start it with`,
    `  --egress-selector-config-file=${directory}/egress.yaml`,
    'It reads the file and the certificates once, when it starts.',
    ...files
  ]
  return `${comments.map(line => `# ${line}\n`).join('')}${stringify(document, { lineWidth: 0 })}`
}

function findFront(fronts: readonly FrontConfig[], name: string | undefined): FrontConfig {
  const names = fronts.map(front => front.name).join(', ')
  const found =
    name === undefined && fronts.length === 1 ? fronts[0] : fronts.find(front => front.name === name)
  if (found) return found
  if (fronts.length === 0)
    throw new TunnelError('BAD_CONFIG', 'the configuration has no fronts for kube-apiserver to call')
  const asked = name === undefined ? 'which front? Name one with --front' : `there is no front ${name}`
  throw new TunnelError('BAD_CONFIG', `${asked}; the configuration has ${names}`)
}

type Transport = { transport: object; files: string[] }

function socketTransport(path: string, { host, tlsServerName }: EgressOptions): Transport {
  if (host !== undefined || tlsServerName !== undefined) {
    throw new TunnelError(
      'BAD_CONFIG',
      'the front is a Unix socket, which has neither a host nor a TLS server name'
    )
  }
  return {
    transport: { uds: { udsName: path } },
    files: [`The socket must be at ${path} there too: let both programs mount the directory it is in.`]
  }
}

async function tlsTransport(
  front: FrontConfig,
  listen: { host: string; port: number },
  options: EgressOptions,
  directory: string
): Promise<Transport> {
  if (!front.tls) {
    throw new TunnelError(
      'BAD_CONFIG',
      `kube-apiserver speaks to a TCP front with TLS only: give the front ${front.name} tls, or a Unix socket to listen on`
    )
  }
  if (listen.port === 0) {
    throw new TunnelError(
      'BAD_CONFIG',
      `the front ${front.name} listens on any free port: give it a fixed one`
    )
  }
  const certificate = await readCertificate(front.tls.cert)
  const host = chooseHost(front, listen, options, certificate)
  const { tlsServerName } = options
  const url = `https://${isIP(host) === 6 ? `[${host}]` : host}:${listen.port}`
  const tlsConfig = {
    caBundle: `${directory}/ca.crt`,
    clientCert: `${directory}/kube-apiserver.crt`,
    clientKey: `${directory}/kube-apiserver.key`,
    ...(tlsServerName === undefined ? {} : { tlsServerName })
  }
  return {
    transport: { tcp: { url, tlsConfig } },
    files: [
      'The files it names, and what to put there (`seed-server pki` makes files of these names):',
      `  ${tlsConfig.caBundle}  the authority that the front's certificate comes from`,
      `  ${tlsConfig.clientCert}, ${tlsConfig.clientKey}  a client certificate from one of the authorities in`,
      `    ${front.tls.clientCa} on the server's side`,
      ...(certificate
        ? []
        : [
            `Not checked: whether ${front.tls.cert} is valid for ${tlsServerName ?? host}, because it could not be read.`
          ]),
      ...(tlsServerName === undefined
        ? []
        : ['tlsServerName needs Kubernetes 1.36; from 1.32 to 1.35 kube-apiserver does not start with it.'])
    ]
  }
}

function chooseHost(
  front: FrontConfig,
  listen: { host: string; port: number },
  { host, tlsServerName }: EgressOptions,
  certificate: X509Certificate | undefined
): string {
  const names = certificate ? namesOf(certificate) : []
  const known = names.length > 0 ? ` Its certificate is valid for ${names.join(', ')}.` : ''
  if (host === undefined && isEverywhere(listen.host)) {
    throw new TunnelError(
      'BAD_CONFIG',
      `the front ${front.name} listens on ${formatListen(listen)}: say with --host how kube-apiserver reaches it.${known}`
    )
  }
  const chosen = host?.replace(/^\[(.*)\]$/, '$1') ?? listen.host
  const expected = tlsServerName ?? chosen
  if (certificate && !covers(certificate, expected)) {
    throw new TunnelError(
      'BAD_CONFIG',
      `the certificate of the front ${front.name} is not valid for ${expected}: choose another --host, or make a certificate for it.${known}`
    )
  }
  return chosen
}

function isEverywhere(host: string): boolean {
  return host === '' || host === '0.0.0.0' || /^[0:]+$/.test(host)
}

function covers(certificate: X509Certificate, host: string): boolean {
  // subject: never, as in Go: a name counts only among the subject alternative names.
  return (
    (isIP(host) ? certificate.checkIP(host) : certificate.checkHost(host, { subject: 'never' })) !== undefined
  )
}

function namesOf(certificate: X509Certificate): string[] {
  return [...(certificate.subjectAltName ?? '').matchAll(/(?:DNS|IP Address):([^,\s"]+)/g)].map(
    ([, name]) => name ?? ''
  )
}

async function readCertificate(file: string): Promise<X509Certificate | undefined> {
  try {
    return new X509Certificate(await readFile(file))
  } catch {
    return undefined
  }
}
