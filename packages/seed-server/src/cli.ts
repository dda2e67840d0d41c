/**
 * The command line of seed-server: its commands, options and help texts. Other files do the work.
 */
import {
  type Command,
  configSource,
  createProgram,
  type Io,
  type KeyFlag,
  withConfigOptions
} from '@tendril/common/command'
import { loadConfig, showConfig } from '@tendril/common/config'
import { showBounds } from '@tendril/common/config/memory-bounds'
import { serverMemoryBounds } from './server-bounds.js'
import { type SeedConfig, seedSchema } from './config.js'
import { EGRESS_DIRECTORY, type EgressOptions, egressConfig } from './egress.js'
import { addClients, writePki } from './identity/authority.js'
import { usableCores } from './workers/cores.js'

const FLAGS: KeyFlag[] = [
  {
    flag: 'tunnel-listen',
    value: 'address',
    path: ['tunnel', 'listen'],
    about: 'where clients arrive (tunnel.listen)'
  },
  {
    flag: 'admin-listen',
    value: 'address',
    path: ['admin', 'listen'],
    about: 'where health and metrics are served (admin.listen)'
  },
  {
    flag: 'workers',
    value: 'number',
    path: ['workers'],
    about: 'processes behind the same listeners, or auto: one for each core (workers)'
  },
  {
    flag: 'log-level',
    value: 'level',
    path: ['log', 'level'],
    about: 'trace, debug, info, warn, error, fatal or silent (log.level)'
  }
]

const EXAMPLES = `
Examples:
  seed-server pki --dir pki --host vpn.example.org --host 127.0.0.1 --cluster demo
                                              make the certificates of a first trial
  seed-server check-config --config seed.yaml say what is wrong, or show all that is in force
  seed-server run --config seed.yaml          serve until SIGTERM
  seed-server egress-config --config seed.yaml --front kube-apiserver > egress.yaml
                                              make kube-apiserver's side

Every key of the configuration is described in docs/configuration.md. A variable overrides a key of the file
(TENDRIL_ADMIN_LISTEN for admin.listen), a flag overrides both (--set admin.listen=:8095).
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.`

/** What `run` does with the configuration it was given; main.ts brings it. */
export type Run = (config: SeedConfig) => Promise<void>

export function createCli({ version, run, io }: { version: string; run: Run; io: Io }): Command {
  const program = createProgram(
    {
      name: 'seed-server',
      version,
      description:
        "The control plane's end of a Tendril tunnel: accepts the clients of workload clusters and offers " +
        'kube-apiserver HTTP CONNECT proxies into them.'
    },
    io
  ).addHelpText('after', EXAMPLES)
  const load = (command: Command) => {
    const { file, overrides } = configSource(command, FLAGS, io.env)
    return loadConfig(seedSchema, { file, overrides, env: io.env })
  }

  withConfigOptions(program.command('run'), 'seed.yaml', FLAGS)
    .description('serve until SIGTERM or SIGINT')
    .action(async (_, command: Command) => run(await load(command)))

  withConfigOptions(program.command('check-config'), 'seed.yaml', FLAGS)
    .description(
      'list everything wrong with the configuration, or print all of it, defaults included, secrets masked, and the memory it allows'
    )
    .action(async (_, command: Command) => {
      const config = await load(command)
      io.out(
        showConfig(seedSchema, config) +
          showBounds(serverMemoryBounds(config), config.workers === 'auto' ? usableCores() : config.workers)
      )
    })

  withConfigOptions(program.command('egress-config'), 'seed.yaml', FLAGS)
    .description(
      'print the EgressSelectorConfiguration that makes kube-apiserver use a front, and where to put it'
    )
    .option('--front <name>', 'the front to use, where there are several')
    .option('--host <name>', 'name or address by which kube-apiserver reaches the front')
    .option(
      '--tls-server-name <name>',
      "name in the front's certificate, if it is not the host (needs Kubernetes 1.36)"
    )
    .option(
      '--directory <path>',
      `where the files are on kube-apiserver's side (default: ${EGRESS_DIRECTORY})`
    )
    .action(async (options: EgressOptions, command: Command) =>
      io.out(await egressConfig(await load(command), options))
    )

  program
    .command('pki')
    .description(
      'make an authority and certificates for a server, its clients and kube-apiserver; overwrites nothing'
    )
    .requiredOption('--dir <path>', 'where the files go')
    .option('--host <name...>', 'names and addresses by which the server is reached')
    .option(
      '--cluster <name...>',
      'clusters that get a client certificate; without --host they are added to the authority in --dir'
    )
    .action(async (options: { dir: string; host?: string[]; cluster?: string[] }) => {
      for (const file of await pki(options)) io.out(`${file}\n`)
    })
  return program
}

function pki({
  dir,
  host: hosts = [],
  cluster: clusters = []
}: {
  dir: string
  host?: string[]
  cluster?: string[]
}): Promise<string[]> {
  return hosts.length === 0 && clusters.length > 0
    ? addClients({ dir, clusters })
    : writePki({ dir, hosts, clusters })
}
