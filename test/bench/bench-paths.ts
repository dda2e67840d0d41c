/** Where the bench finds the repository; compiled, it lies in test/dist/bench. */
import { join } from 'node:path'

export const ROOT = join(import.meta.dirname, '..', '..', '..')
export const PACKAGES = join(ROOT, 'packages')
/** Ratios that the smoke run compares with. */
export const EXPECTED = join(ROOT, 'test', 'bench', 'expected.json')
export const DOCUMENT = join(ROOT, 'docs', 'benchmarks.md')
/** Plots, and the figures they are drawn from. */
export const PLOTS = join(ROOT, 'docs', 'benchmarks')
