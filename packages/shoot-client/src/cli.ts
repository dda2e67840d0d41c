/**
 * The command line of shoot-client: its commands, options and help texts. Other files do the work.
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
import { clientMemoryBounds } from './client-bounds.js'
import { type ShootConfig, shootSchema } from './config.js'
import { findProxies, showProxies } from './chosen-proxies.js'

const FLAGS: KeyFlag[] = [
  {
    flag: 'cluster',
    value: 'name',
    path: ['cluster'],
    about: 'the cluster this client belongs to (cluster)'
  },
  { flag: 'proxy', value: 'url', path: ['proxy'], about: 'env, none or the URL of a proxy (proxy)' },
  {
    flag: 'admin-listen',
    value: 'address',
    path: ['admin', 'listen'],
    about: 'where health and metrics are served (admin.listen)'
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
  shoot-client check-config --config shoot.yaml  say what is wrong, or show all that is in force
  shoot-client run --config shoot.yaml           keep the tunnel up until SIGTERM

Every key of the configuration is described in docs/configuration.md. A variable overrides a key of the file
(TENDRIL_CLUSTER for cluster), a flag overrides both (--set servers.0.url=wss://vpn.example.org).
The certificates come from "seed-server pki", or from your own authority.
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.`

/** What `run` does with the configuration and with warnings about it; main.ts brings it. */
export type Run = (config: ShootConfig, warnings: readonly string[]) => Promise<void>

export function createCli({ version, run, io }: { version: string; run: Run; io: Io }): Command {
  const program = createProgram(
    {
      name: 'shoot-client',
      version,
      description:
        "The workload cluster's end of a Tendril tunnel: connects out to seed-server, keeps the line, and reaches " +
        'nodes, pods and services for kube-apiserver.'
    },
    io
  ).addHelpText('after', EXAMPLES)
  const load = async (command: Command) => {
    const { file, overrides } = configSource(command, FLAGS, io.env)
    const warnings: string[] = []
    const onWarning = (sentence: string) => void warnings.push(sentence)
    const config = await loadConfig(shootSchema, { file, overrides, env: io.env, onWarning })
    return { config, warnings, proxies: findProxies(config, io.env) }
  }

  withConfigOptions(program.command('run'), 'shoot.yaml', FLAGS)
    .description('keep the tunnel up until SIGTERM or SIGINT')
    .action(async (_, command: Command) => {
      const { config, warnings } = await load(command)
      await run(config, warnings)
    })

  withConfigOptions(program.command('check-config'), 'shoot.yaml', FLAGS)
    .description(
      'list everything wrong with the configuration, or print all of it, defaults included, secrets masked, which proxy leads to each server, and the memory it allows'
    )
    .action(async (_, command: Command) => {
      const { config, warnings, proxies } = await load(command)
      io.out(showConfig(shootSchema, config) + showProxies(proxies) + showBounds(clientMemoryBounds(config)))
      for (const warning of warnings) io.out(`# Warning: ${warning}\n`)
    })
  return program
}
