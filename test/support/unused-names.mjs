// Finds what the programs define and do not use: exports that no other source imports, and members of classes and functions
// of tables whose name occurs nowhere else. A use by a test does not count. `knip` cannot check this: the packages export
// their tests' helpers, so for knip the tests belong to the product. Part of `npm run lint`.
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

/** What stays although no source uses it, and why. */
const KEPT = new Map([
  [
    'packages/common/src/identity/bundle.ts: reload',
    'reads now what `watch` reads when the file system reports a change'
  ],
  ['packages/common/src/message-buffer.ts: idleMessageBytes', 'tests count what is kept'],
  ['packages/common/src/mux/session.ts: promisedBytes', 'tests count what is promised'],
  ['packages/common/src/transport/websocket.ts: generateMask', '`ws` calls it']
])
/** Programs: no source imports what they export. */
const ENTRIES = /^packages\/[^/]+\/src\/main\.ts$/

/** @param {{ path: string, text: string }[]} sources with paths such as packages/common/src/log.ts */
export function unusedNames(sources) {
  const files = sources.map(({ path, text }) => read(path, text))
  const byPath = new Map(files.map(file => [file.path, file]))
  const imported = new Set()
  const use = (path, name) => {
    if (imported.has(`${path}#${name}`)) return
    imported.add(`${path}#${name}`)
    for (const { from, as, original } of byPath.get(path)?.reExports ?? [])
      if (as === undefined) use(from, name)
      else if (as === name || name === '*') use(from, original)
  }
  for (const { imports } of files) for (const { from, name } of imports) use(from, name)

  const named = new Map()
  for (const { names } of files)
    for (const [name, count] of names) named.set(name, (named.get(name) ?? 0) + count)

  return files.flatMap(({ path, exports, members, names }) => [
    ...(ENTRIES.test(path) ? [] : exports)
      .filter(name => !imported.has(`${path}#${name}`) && !imported.has(`${path}#*`) && names.get(name) === 1)
      .map(name => `${path}: ${name} is exported and used by no source`),
    ...members
      .filter(name => named.get(name) === 1)
      .map(name => `${path}: ${name} is a member that no source uses`)
  ])
}

function read(path, text) {
  const source = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true)
  const file = { path, imports: [], exports: [], reExports: [], members: [], names: new Map() }
  const to = specifier => moduleOf(path, specifier.text)
  const visit = node => {
    if (ts.isIdentifier(node)) file.names.set(node.text, (file.names.get(node.text) ?? 0) + 1)
    // `config['key']` and literal types name members, too.
    if (ts.isStringLiteral(node)) file.names.set(node.text, (file.names.get(node.text) ?? 0) + 1)
    if (ts.isImportDeclaration(node)) {
      const bindings = node.importClause?.namedBindings
      if (bindings && ts.isNamedImports(bindings))
        for (const { name, propertyName } of bindings.elements)
          file.imports.push({ from: to(node.moduleSpecifier), name: (propertyName ?? name).text })
      else file.imports.push({ from: to(node.moduleSpecifier), name: '*' })
    } else if (ts.isExportDeclaration(node) && node.moduleSpecifier) {
      const from = to(node.moduleSpecifier)
      if (!node.exportClause) file.reExports.push({ from })
      else
        for (const { name, propertyName } of node.exportClause.elements)
          file.reExports.push({ from, as: name.text, original: (propertyName ?? name).text })
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      if (ts.isStringLiteral(node.arguments[0])) file.imports.push({ from: to(node.arguments[0]), name: '*' })
    } else if (ts.isImportTypeNode(node)) {
      file.imports.push({ from: to(node.argument.literal), name: '*' })
    } else if (ts.isClassElement(node) && ts.isClassLike(node.parent) && !isHidden(node)) {
      if (node.name && ts.isIdentifier(node.name)) file.members.push(node.name.text)
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  for (const statement of source.statements) {
    if (!statement.modifiers?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword)) continue
    const declarations = ts.isVariableStatement(statement)
      ? statement.declarationList.declarations
      : [statement]
    for (const { name, initializer } of declarations) {
      if (name && ts.isIdentifier(name)) file.exports.push(name.text)
      const table = initializer && ts.isAsExpression(initializer) ? initializer.expression : initializer
      if (table && ts.isObjectLiteralExpression(table))
        for (const member of table.properties)
          if (isFunction(member) && ts.isIdentifier(member.name)) file.members.push(member.name.text)
    }
  }
  return file
}

function isFunction(member) {
  const value = ts.isPropertyAssignment(member) ? member.initializer : member
  return ts.isMethodDeclaration(value) || ts.isArrowFunction(value) || ts.isFunctionExpression(value)
}

/** What a subclass overrides, and what the language calls, needs no caller here. */
function isHidden(member) {
  const kinds = [ts.SyntaxKind.OverrideKeyword, ts.SyntaxKind.PrivateKeyword, ts.SyntaxKind.StaticKeyword]
  return ts.isConstructorDeclaration(member) || member.modifiers?.some(({ kind }) => kinds.includes(kind))
}

/** Path of the source that a specifier leads to; the specifier itself for modules of others. */
function moduleOf(path, specifier) {
  if (specifier.startsWith('.')) return join(path, '..', specifier).replace(/\.js$/, '.ts')
  const [, name, rest = 'index'] = /^@tendril\/([^/]+)(?:\/(.+))?$/.exec(specifier) ?? []
  return name ? `packages/${name}/src/${rest}.ts` : specifier
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const root = resolve(fileURLToPath(import.meta.url), '../../..')
  const paths = execFileSync('git', ['ls-files', '-co', '--exclude-standard', 'packages/*/src/**.ts'], {
    cwd: root,
    encoding: 'utf8'
  })
  const sources = paths
    .split('\n')
    .filter(path => path.endsWith('.ts') && existsSync(join(root, path)))
    .map(path => ({ path, text: readFileSync(join(root, path), 'utf8') }))
  const found = unusedNames(sources).filter(
    line => ![...KEPT.keys()].some(kept => line.startsWith(`${kept} `))
  )
  for (const line of found) console.error(line)
  process.exitCode = found.length > 0 ? 1 : 0
}
