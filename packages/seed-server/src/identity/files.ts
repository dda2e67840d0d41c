/**
 * A set of new files that appears whole or not at all, and never in the place of another file. Every content is
 * first written and synced under a hidden temporary name, where a full disk or a crash does no harm; hard links
 * then give it its name, because link(2), unlike rename(2), fails when the name is taken.
 */
import { randomBytes } from 'node:crypto'
import { link, lstat, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { TunnelError } from '@tendril/common'

export type NewFile = { name: string; content: string; mode: number }

/** Writes the files into an existing directory and returns their paths. Throws `BAD_CONFIG`, leaving none behind. */
export async function writeNewFiles(dir: string, files: readonly NewFile[]): Promise<string[]> {
  const taken = await existing(files.map(({ name }) => join(dir, name)))
  if (taken.length > 0) {
    throw new TunnelError('BAD_CONFIG', `nothing was written, these files exist already: ${taken.join(', ')}`)
  }
  const suffix = `.${randomBytes(6).toString('hex')}.tmp`
  const temporary: string[] = []
  const written: string[] = []
  try {
    for (const { name, content, mode } of files) {
      const path = join(dir, `.${name}${suffix}`)
      temporary.push(path)
      await writeSynced(path, content, mode)
    }
    for (const [index, { name }] of files.entries()) {
      const path = join(dir, name)
      await link(temporary[index] ?? '', path)
      written.push(path)
    }
    await syncDirectory(dir)
    return written
  } catch (error) {
    await removeAll(written)
    const code = (error as NodeJS.ErrnoException).code ?? String(error)
    throw new TunnelError('BAD_CONFIG', `nothing was written, ${dir} takes no files (${code})`, {
      cause: error
    })
  } finally {
    await removeAll(temporary)
  }
}

async function existing(paths: string[]): Promise<string[]> {
  const found = await Promise.all(
    paths.map(path =>
      // lstat: a dangling link is somebody's file, too.
      lstat(path).then(
        () => true,
        () => false
      )
    )
  )
  return paths.filter((_, index) => found[index])
}

async function writeSynced(path: string, content: string, mode: number): Promise<void> {
  const file = await open(path, 'wx', mode)
  try {
    await file.writeFile(content)
    await file.sync()
  } finally {
    await file.close()
  }
}

async function syncDirectory(dir: string): Promise<void> {
  const directory = await open(dir, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

/** Best effort: what went wrong before is what the caller must hear. */
async function removeAll(paths: string[]): Promise<void> {
  await Promise.allSettled(paths.map(path => rm(path, { force: true })))
}
