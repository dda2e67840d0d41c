/**
 * deploy/, as far as it can be judged without helm, a cluster or a container engine: the rest is in the end-to-end
 * test.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { delimiter, dirname, join } from 'node:path'
import { createMetrics } from '@tendril/common/metrics'
import { seedSchema } from '@tendril/seed-server/config'
import { createServerMetrics, createWorkersMetrics } from '@tendril/seed-server/server-metrics'
import { shootSchema } from '@tendril/shoot-client/config'
import { createClientMetrics } from '@tendril/shoot-client/client-metrics'
import t from 'tap'
import { parse, parseAllDocuments } from 'yaml'
import { chartHash, chartPath, manifestPath } from '../support/chart-files.js'
import { copyOf, layersOf, readContext, readDockerfile, ROOT_PATH, textsOf } from '../support/dockerfile.js'
import { requireTool, searchPath } from '../support/child-process.js'
import { chartNames, valuesSchema } from '../support/values-schema.js'

const TARGETS = ['seed-server', 'shoot-client'] as const
const deploy = (path: string): string => join(ROOT_PATH, 'deploy', path)
const read = (path: string): Promise<string> => readFile(deploy(path), 'utf8')

t.test('the image is built on one pinned base, as nobody, from what is there', async t => {
  const file = await readDockerfile()
  const lets = await readContext()
  const names = file.stages.map(({ name }) => name)

  t.match(file.args['NODE_IMAGE'], /^node:24\.\d+\.\d+-\w+-slim$/, 'Node 24, to the patch')
  for (const { name, from, instructions } of file.stages) {
    t.ok(from === '${NODE_IMAGE}' || names.includes(from), `${name} stands on ${from}`)
    for (const { word, text, line } of instructions) {
      if (word === 'ARG' || word === 'ENV')
        t.notMatch(text, /token|secret|password|credential|key/i, `line ${line}: no secrets`)
      if (word !== 'COPY') continue
      const { stage, sources } = copyOf(text)
      if (stage) t.ok(names.includes(stage), `line ${line}: there is a stage ${stage}`)
      else
        for (const source of sources) {
          t.ok(existsSync(join(ROOT_PATH, source)), `line ${line}: ${source} is there`)
          t.ok(lets(source), `line ${line}: .dockerignore lets ${source} in`)
        }
    }
  }
  for (const target of TARGETS) {
    t.equal(textsOf(file, target, 'USER').at(-1), '65532:65532', `${target} is nobody`)
    t.equal(textsOf(file, target, 'RUN').length, 0, `${target} only copies`)
    const command = JSON.parse(textsOf(file, target, 'ENTRYPOINT').at(-1)!) as string[]
    const script = join(ROOT_PATH, command.pop()!.replace('/app/', ''))
    t.ok(existsSync(script), `${script} is in the checkout`)
    const [itself] = readFileSync(script, 'utf8').split('\n', 1)
    t.equal(`#!/usr/bin/env -S ${command.join(' ')}`, itself, 'runs as the installed command does')
    t.equal(layersOf(file, target)[0]?.name, 'runtime')
  }
})

for (const program of TARGETS) {
  t.test(`the command ${program} runs by its own first line`, async t => {
    const path = [dirname(process.execPath), process.env['PATH']].join(delimiter)
    const command = join(ROOT_PATH, 'packages', program, 'bin', `${program}.js`)

    const { stdout, status } = spawnSync(command, ['--version'], { env: { PATH: path }, encoding: 'utf8' })

    t.match(stdout, /^\d+\.\d+\.\d+/)
    t.equal(status, 0)
  })
}

t.test('nothing secret, and nothing made here, gets into the build', async t => {
  const lets = await readContext()

  for (const path of [
    'pki/ca.key',
    '.git/config',
    '.env',
    'node_modules/ws/index.js',
    'packages/common/dist/src/index.js',
    'packages/common/test/a.ts',
    'packages/common/tsconfig.tsbuildinfo',
    'docs/errors.md'
  ]) {
    t.notOk(lets(path), path)
  }
  for (const path of ['package-lock.json', 'packages/common/src/index.ts', 'packages/tsconfig.base.json']) {
    t.ok(lets(path), path)
  }
})

t.test('the defaults of the charts are configurations that the programs take', async t => {
  const files = { cert: 'tls.crt', key: 'tls.key' }
  for (const profile of ['values.yaml', 'values-gardener.yaml']) {
    const values = async (chart: string) => {
      const defaults = parse(await read(`helm/${chart}/values.yaml`))
      return { ...defaults.config, ...parse(await read(`helm/${chart}/${profile}`)).config }
    }
    const server = await values('seed-server')
    server.tunnel.tls = { ...files, clientCa: 'ca.crt' }
    for (const front of server.fronts) front.tls = server.tunnel.tls
    const client = { ...(await values('shoot-client')), tls: { ...files, ca: 'ca.crt' } }

    t.same(seedSchema.safeParse(server).error?.issues, undefined, `seed-server ${profile}`)
    t.same(shootSchema.safeParse(client).error?.issues, undefined, `shoot-client ${profile}`)
  }
})

t.test('a chart knows every key of its configuration, and no path of a file', async t => {
  for (const chart of chartNames) {
    const schema = JSON.parse(valuesSchema(chart))
    const { config } = schema.properties

    t.equal(schema.additionalProperties, false, 'a typo is refused')
    t.equal(config.additionalProperties, false, 'below config too')
    const { tls, tunnel } = config.properties
    for (const file of ['cert', 'key', 'ca', 'clientCa'])
      t.notOk((tls ?? tunnel?.properties.tls)?.properties[file], `${file} is the chart’s`)
    t.notOk(tunnel?.required.includes('tls'), 'nobody has to give a section without certificates')
    t.notMatch(JSON.stringify(config), /x-file|PEM file/)
    const { config: _, ...own } = parse(await read(`helm/${chart}/values.yaml`))
    const { config: __, global: ___, ...known } = schema.properties
    t.same(Object.keys(own).sort(), Object.keys(known).sort(), 'values.yaml has every value there is')
  }
})

t.test('the plain manifests were rendered from the charts as they are', async t => {
  for (const chart of chartNames) {
    const [, hash] = /^# Rendered from (\w+)$/m.exec(await readFile(manifestPath(chart), 'utf8')) ?? []
    t.equal(hash, await chartHash(chart), `${chart}: run node test/dist/e2e/manifests.js`)
    t.ok(existsSync(chartPath(chart)))
  }
})

t.test('dashboard and alerts ask for metrics that exist', async t => {
  const metrics = createMetrics({ program: 'seed-server', version: '0' })
  createServerMetrics(metrics, { registry: { clients: () => [] }, peersUp: () => 0 })
  createWorkersMetrics(metrics, { serving: () => 0 })
  createClientMetrics(metrics.registry)
  const existing = new Set(
    (await metrics.registry.getMetricsAsJSON()).flatMap(({ name, type }) =>
      String(type) === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name]
    )
  )
  const dashboard = JSON.parse(await read('dashboards/tendril.json'))
  const alerts = parse(await read('dashboards/alerts.yaml'))
  const questions: string[] = [
    ...dashboard.panels.flatMap((panel: any) => (panel.targets ?? []).map((target: any) => target.expr)),
    ...alerts.groups.flatMap((group: any) => group.rules.map((rule: any) => rule.expr))
  ]

  t.ok(questions.length > 20)
  for (const question of questions) {
    const asked = question.match(/\b(?:tendril|process|nodejs)_\w+/g) ?? []
    t.ok(asked.length > 0, question)
    for (const name of asked) t.ok(existing.has(name), name)
  }
  for (const { alert, labels, annotations } of alerts.groups[0].rules) {
    t.match(labels.severity, /^(critical|warning)$/, alert)
    t.ok(annotations.summary && annotations.description, alert)
  }
})

t.test('dropped log lines raise an alert, and operations.md says what to do about it', async t => {
  const { groups } = parse(await read('dashboards/alerts.yaml'))
  const rule = groups[0].rules.find(({ expr }: { expr: string }) =>
    expr.includes('tendril_log_lines_dropped_total')
  )

  // Of each program and instance: the log that is lost is that of one process.
  t.match(rule?.expr, /^increase\(tendril_log_lines_dropped_total\[\w+\]\) > 0$/)
  t.match(await read('../docs/operations.md'), `${rule.alert}:`)
})

t.test('operations.md says of every alert what to do about it', async t => {
  const { groups } = parse(await read('dashboards/alerts.yaml'))
  const page = await read('../docs/operations.md')

  for (const { alert } of groups[0].rules) t.match(page, `\n- ${alert}: `)
})

t.test('the examples lead to the Service and the port of the chart', async t => {
  const guides = (await read('../docs/install/control-plane.md')) + (await read('../docs/install/shoot.md'))
  for (const name of (await readdir(deploy('examples'))).filter(file => file.endsWith('.yaml'))) {
    const documents = parseAllDocuments(await read(`examples/${name}`))
    for (const document of documents) {
      t.same(document.errors, [], name)
      const { apiVersion, kind, metadata } = document.toJS()
      // As the guides create it: control-plane.md for what stands before the server, shoot.md for the client's.
      const namespace = name.startsWith('network-policy') ? 'shoot-client' : 'tendril'
      t.ok(apiVersion && kind && metadata.name && metadata.namespace === namespace, `${name}: ${kind}`)
      t.match(guides, `kubectl create namespace ${namespace}\n`)
    }
    if (name.startsWith('network-policy')) continue
    const text = JSON.stringify(documents.map(document => document.toJS()))
    t.match(text, 'seed-server-tunnel')
    t.match(text, 'vpn.example.org')
  }
})

t.test('haproxy and nginx take the examples that are theirs', async t => {
  if (!requireTool(t, 'haproxy', 'nginx')) return
  const run = (command: string, args: string[]) =>
    execFileSync(command, args, { env: { ...process.env, PATH: searchPath }, stdio: 'pipe' })

  t.doesNotThrow(() => run('haproxy', ['-c', '-f', deploy('examples/haproxy.cfg')]))
  t.doesNotThrow(() => run('nginx', ['-t', '-q', '-c', deploy('examples/nginx-stream.conf')]))
})
