// Which test files there are: those of the packages and those of test/.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'

/** Test files by the name of their source. The end-to-end tests need Go and half an hour: `npm run test:e2e`. */
export function findTests(root) {
  const places = [
    ...readdirSync(join(root, 'packages'), { withFileTypes: true })
      .filter(entry => entry.isDirectory())
      .map(({ name }) => ({ source: `packages/${name}/test`, compiled: `packages/${name}/dist/test` })),
    { source: 'test', compiled: 'test/dist' }
  ]
  return places.flatMap(({ source, compiled }) =>
    readdirSync(join(root, compiled), { recursive: true })
      .map(String)
      .filter(path => path.endsWith('.test.js') && !(source === 'test' && path.startsWith('e2e/')))
      .sort()
      .map(path => ({
        name: join(source, path.replace(/\.js$/, '.ts')),
        path: join(root, compiled, path)
      }))
  )
}
