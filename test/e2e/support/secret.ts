/**
 * Files as a pod has them from a Secret volume. Kubelet never changes a file there: it writes a new directory and swaps
 * the link `..data` that all names lead through (k8s.io/kubernetes pkg/volume/util/atomic_writer.go).
 *
 *     tls.crt → ..data/tls.crt      ..data → ..2026_11_20_17_00_00.1      ..2026_11_20_17_00_00.1/tls.crt
 */
import { mkdir, readlink, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

/** What `defaultMode: 0400` makes of it: the programs refuse a key of their own that others may read. */
const FILE_MODE = 0o400
const DATA = '..data'

export class Secret {
  readonly dir: string
  #versions = 0

  constructor(dir: string) {
    this.dir = dir
  }

  /** The path that a configuration names. */
  path(name: string): string {
    return join(this.dir, name)
  }

  /** The volume with exactly these files, all at once. The first call makes it. */
  async write(files: Record<string, string>): Promise<void> {
    const before = await readlink(this.path(DATA)).catch(() => undefined)
    const version = `..${new Date().toISOString().replace(/\D+/g, '_')}.${++this.#versions}`
    await mkdir(this.path(version), { recursive: true })
    for (const [name, content] of Object.entries(files)) {
      await writeFile(join(this.dir, version, name), content, { mode: FILE_MODE })
    }
    await symlink(version, this.path('..data_tmp'))
    await rename(this.path('..data_tmp'), this.path(DATA))
    if (before === undefined) {
      for (const name of Object.keys(files)) await symlink(join(DATA, name), this.path(name))
    } else {
      await rm(this.path(before), { recursive: true })
    }
  }
}
