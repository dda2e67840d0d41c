/**
 * The certificates of a run: made by `seed-server pki`, or taken from a directory laid out like its output, to
 * measure with keys of one's own.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Pki } from './contender.js'
import { PACKAGES } from './bench-paths.js'
import { runToEnd } from './processes.js'

const HOST = 'localhost'
const CLUSTER = 'demo'

/** @param given a directory to take them from; without it they are made in `workDir`. */
export function makePki(workDir: string, given?: string): Pki {
  const dir = given ?? join(workDir, 'pki')
  if (!given) {
    const command = join(PACKAGES, 'seed-server', 'bin', 'seed-server.js')
    runToEnd([process.execPath, command, 'pki', '--dir', dir, '--host', HOST, '--cluster', CLUSTER])
  }
  const files = (name: string): Pki['server'] => {
    const [ca, cert, key] = [join(dir, 'ca.crt'), join(dir, `${name}.crt`), join(dir, `${name}.key`)]
    for (const file of [ca, cert, key]) if (!existsSync(file)) throw new Error(`${file} is missing`)
    return { ca, cert, key, servername: HOST }
  }
  return { server: files('server'), client: files(`client-${CLUSTER}`), caller: files('kube-apiserver') }
}
