/** What a figure depends on and a reader must know: machine, kernel, versions, commit. */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { arch, cpus, release, totalmem } from 'node:os'
import { ROOT } from './bench-paths.js'

export type Machine = {
  cpu: string
  cores: number
  memoryGib: number
  kernel: string
  /** Paces even loopback when it is bbr: a timer per burst, and a quarter more CPU for everyone than with cubic. */
  congestionControl?: string
  node: string
  openssl: string
  haproxy: string | null
  openvpn: string | null
}

/** First line of what the command prints, or null when it is not installed. */
function firstLine(command: string, args: readonly string[], pattern: RegExp): string | null {
  const { stdout } = spawnSync(command, args, { encoding: 'utf8', cwd: ROOT, timeout: 5000 })
  return pattern.exec(stdout ?? '')?.[1] ?? null
}

export function describeMachine(): Machine {
  const processors = cpus()
  return {
    cpu: `${processors[0]?.model.trim() ?? 'unknown'} (${arch()})`,
    cores: processors.length,
    memoryGib: Math.round(totalmem() / 1024 ** 3),
    kernel: release(),
    congestionControl: congestionControl(),
    node: process.version,
    openssl: process.versions.openssl,
    haproxy: firstLine('haproxy', ['-v'], /version (\S+)/),
    openvpn: firstLine('openvpn', ['--version'], /^OpenVPN (\S+)/)
  }
}

function congestionControl(): string {
  try {
    return readFileSync('/proc/sys/net/ipv4/tcp_congestion_control', 'utf8').trim()
  } catch {
    return 'unknown'
  }
}

/** The commit, with a mark when files differ from it. */
export function describeCommit(): string {
  const commit = firstLine('git', ['rev-parse', '--short=12', 'HEAD'], /^(\S+)/) ?? 'unknown'
  const changed = firstLine('git', ['status', '--porcelain', '--untracked-files=no'], /^(.)/)
  return changed === null ? commit : `${commit} with changes`
}
