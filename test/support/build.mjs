// Compiles the checkout into the `dist` folders. `buildAll` asks `tsc -b`, which checks every type. `transpileChanged` is
// for the edit-test loop: it strips the types of the files that changed and checks none, in half a second instead of ten.
// Both leave the same JavaScript behind. No imports from npm: ready.mjs runs before there is a node_modules.
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync
} from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, relative } from 'node:path'

/** Folders that hold no sources. */
const NO_SOURCES = new Set(['dist', 'node_modules', 'cache'])
/** With more changed files than this `tsc -b` is not much slower. */
const TRANSPILED_FILES_LIMIT = 150
const OUTPUT_ENDS = ['.js', '.js.map', '.d.ts', '.d.ts.map']

/** Builds with all types unless nothing changed since the last time. Throws when a source does not compile. */
export function buildAll(root, say = () => {}) {
  removeOrphans(root)
  const stamp = join(root, 'test/dist/.built')
  if (hasBuild(root) && existsSync(stamp) && statSync(stamp).mtimeMs >= newestMs(root)) return
  const startedAt = new Date()
  say('building (tsc -b)')
  const { status } = spawnSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-b'], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit']
  })
  if (status !== 0) throw new Error('the build failed: the lines above name file and line.')
  writeFileSync(stamp, '')
  // What was saved while the compiler ran counts as newer.
  utimesSync(stamp, startedAt, startedAt)
}

/** Compiles each file that is newer than its output, without its types. Throws when one is no TypeScript. */
export function transpileChanged(root, say = () => {}) {
  // What the compiler has seen and left alone only looks older than its source.
  const changed = filesOf(root).filter(
    ({ source, output, project }) =>
      !(Math.max(changedMs(output), changedMs(buildInfoOf(project))) >= changedMs(source))
  )
  if (!hasBuild(root) || changed.length > TRANSPILED_FILES_LIMIT) return buildAll(root, say)
  removeOrphans(root)
  if (changed.length === 0) return
  say(`compiling ${changed.length === 1 ? relative(root, changed[0].source) : `${changed.length} files`}`)
  const typescript = createRequire(join(root, 'package.json'))('typescript')
  const { compilerOptions } = JSON.parse(readFileSync(join(root, 'packages/tsconfig.base.json'), 'utf8'))
  for (const file of changed) transpile(typescript, compilerOptions, file)
  forget(root, changed)
}

function transpile(typescript, compilerOptions, { source, output }) {
  const { outputText, sourceMapText, diagnostics } = typescript.transpileModule(
    readFileSync(source, 'utf8'),
    {
      fileName: source,
      reportDiagnostics: true,
      // A file seen alone does not know that its package is a module.
      compilerOptions: { ...compilerOptions, module: 'esnext' }
    }
  )
  if (diagnostics.length > 0) {
    const host = {
      getCurrentDirectory: () => process.cwd(),
      getCanonicalFileName: name => name,
      getNewLine: () => '\n'
    }
    throw new Error(typescript.formatDiagnostics(diagnostics, host).trimEnd())
  }
  mkdirSync(dirname(output), { recursive: true })
  const map = { ...JSON.parse(sourceMapText), sources: [relative(dirname(output), source)] }
  writeFileSync(`${output}.map`, JSON.stringify(map))
  writeFileSync(output, outputText)
}

/**
 * Makes the compiler forget these files. Otherwise a file that was transpiled and then changed back would equal what the
 * compiler remembers, and it would leave the output of the transpiled version in place. It compiles unknown files anyway.
 */
function forget(root, files) {
  for (const project of projectsOf(root)) {
    const path = buildInfoOf(project)
    const ours = files.filter(({ source }) => source.startsWith(`${project}/`))
    if (ours.length === 0 || !existsSync(path)) continue
    const { atime, mtime } = statSync(path)
    const info = JSON.parse(readFileSync(path, 'utf8'))
    for (const { source } of ours) {
      const at = info.fileNames.indexOf(relative(dirname(path), source))
      if (at < 0) continue
      const entry = info.fileInfos[at]
      info.fileInfos[at] = {
        ...(typeof entry === 'string' ? { signature: entry } : entry),
        version: 'forgotten'
      }
    }
    writeFileSync(path, JSON.stringify(info))
    // Its time says since when sources count as changed.
    utimesSync(path, atime, mtime)
  }
}

/** The folders of the projects that the root tsconfig.json names. Each compiles into its `dist`. */
function projectsOf(root) {
  const { references } = JSON.parse(readFileSync(join(root, 'tsconfig.json'), 'utf8'))
  return references.map(({ path }) => join(root, path))
}

function buildInfoOf(project) {
  return join(project, 'dist/tsconfig.tsbuildinfo')
}

function hasBuild(root) {
  return projectsOf(root).every(project => existsSync(buildInfoOf(project)))
}

/** Every folder that has sources. */
export function sourceFolders(root) {
  const below = folder => [
    folder,
    ...readdirSync(folder, { withFileTypes: true })
      .filter(entry => entry.isDirectory() && !NO_SOURCES.has(entry.name))
      .flatMap(({ name }) => below(join(folder, name)))
  ]
  return projectsOf(root).flatMap(below)
}

/** Every TypeScript file with its output. */
function filesOf(root) {
  const projects = projectsOf(root)
  return sourceFolders(root).flatMap(folder => {
    const project = projects.find(path => `${folder}/`.startsWith(`${path}/`))
    return readdirSync(folder)
      .filter(name => name.endsWith('.ts'))
      .map(name => ({
        project,
        source: join(folder, name),
        output: join(project, 'dist', relative(project, folder), name.replace(/\.ts$/, '.js'))
      }))
  })
}

/** Removes compiled files whose source is gone: a renamed test would run twice, and a lost import go unnoticed. */
function removeOrphans(root) {
  const outputs = new Set(filesOf(root).map(({ output }) => output))
  const orphans = projectsOf(root).flatMap(project => {
    const dist = join(project, 'dist')
    if (!existsSync(dist)) return []
    return readdirSync(dist, { recursive: true })
      .map(name => ({
        source: join(project, String(name).replace(/\.js$/, '.ts')),
        output: join(dist, String(name))
      }))
      .filter(({ output }) => output.endsWith('.js') && !outputs.has(output))
  })
  for (const { output } of orphans)
    for (const end of OUTPUT_ENDS) rmSync(output.replace(/\.js$/, end), { force: true })
  forget(root, orphans)
}

/** A folder's own time changes when a file in it is added or removed. */
function newestMs(root) {
  const settings = [
    join(root, 'tsconfig.json'),
    join(root, 'packages/tsconfig.base.json'),
    ...projectsOf(root).map(project => join(project, 'tsconfig.json'))
  ]
  return Math.max(
    ...[...settings, ...sourceFolders(root), ...filesOf(root).map(({ source }) => source)].map(changedMs)
  )
}

/** When a file or folder changed; undefined if it does not exist. */
function changedMs(path) {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs
}
