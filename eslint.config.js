// Lint: the recommended rules, the typed ones of typescript-eslint, and three of our own: the import table of
// ARCHITECTURE.md, that every handle has an error path, and words that names must not have. Layout is left to prettier.
import js from '@eslint/js'
import { defineConfig, globalIgnores } from 'eslint/config'
import tseslint from 'typescript-eslint'
import { handleErrors } from './test/support/handle-errors.mjs'
import { importTable } from './test/support/import-table.mjs'
import { noRetiredWords } from './test/support/retired-words.mjs'

const nodeGlobals = Object.fromEntries(
  [
    'process',
    'console',
    'URL',
    'Buffer',
    'setTimeout',
    'clearTimeout',
    'setImmediate',
    'performance',
    'AbortController',
    'AbortSignal',
    'fetch',
    'TextDecoder',
    'structuredClone'
  ].map(name => [name, 'readonly'])
)

export default defineConfig(
  globalIgnores(['**/dist/', '**/node_modules/', '.tap/', 'test/e2e/cache/', 'deploy/helm/']),
  js.configs.recommended,
  tseslint.configs.strictTypeChecked,
  {
    languageOptions: {
      globals: nodeGlobals,
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname }
    },
    rules: {
      // Numbers and booleans read well in a message; objects do not, and stay refused.
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true, allowNullish: false }
      ],
      '@typescript-eslint/no-unused-vars': [
        'error',
        { argsIgnorePattern: '^_', varsIgnorePattern: '^_', caughtErrors: 'none' }
      ],
      // `() => socket.destroy()` is how this project writes a listener.
      '@typescript-eslint/no-confusing-void-expression': 'off',
      // With noUncheckedIndexedAccess a `!` after a checked index is the honest short form.
      '@typescript-eslint/no-non-null-assertion': 'off',
      // An async function without await is how a synchronous answer fits an asynchronous contract.
      '@typescript-eslint/require-await': 'off',
      // Lib types promise more than sockets keep: `socket.remoteAddress`, `error.code`, and loops that others end.
      '@typescript-eslint/no-unnecessary-condition': 'off',
      // Errors of other programs are passed on as they came.
      '@typescript-eslint/only-throw-error': 'off',
      '@typescript-eslint/prefer-promise-reject-errors': 'off',
      // node-forge numbers its ASN.1 types by an enum and takes any of the numbers.
      '@typescript-eslint/no-unsafe-enum-assignment': 'off',
      // `=> void call()` says that the answer is nobody's business, whether there is one or not.
      '@typescript-eslint/no-meaningless-void-operator': 'off',
      // `=== false` after a `?.` says which of three answers is meant; so it may where there are two.
      '@typescript-eslint/no-unnecessary-boolean-literal-compare': 'off',
      // EventEmitter listeners may be async when they catch everything themselves.
      '@typescript-eslint/no-misused-promises': ['error', { checksVoidReturn: false }]
    }
  },
  {
    plugins: {
      tendril: {
        rules: {
          'import-table': importTable,
          'handle-errors': handleErrors,
          'no-retired-words': noRetiredWords
        }
      }
    },
    // Its list names them all.
    ignores: ['test/support/retired-words.mjs'],
    rules: { 'tendril/no-retired-words': 'error' }
  },
  {
    files: ['packages/*/src/**/*.ts'],
    rules: { 'tendril/import-table': 'error', 'tendril/handle-errors': 'error' }
  },
  {
    // tap's assertions return values nobody needs, and a test may hand anything to what it tests.
    files: ['**/test/**/*.ts', 'test/**/*.ts'],
    rules: {
      '@typescript-eslint/no-floating-promises': [
        'error',
        // tap waits for its subtests itself.
        {
          allowForKnownSafePromises: [{ from: 'package', name: 'PromiseWithSubtest', package: '@tapjs/core' }]
        }
      ],
      '@typescript-eslint/no-unsafe-argument': 'off',
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/no-unsafe-call': 'off',
      '@typescript-eslint/no-unsafe-return': 'off',
      '@typescript-eslint/no-explicit-any': 'off',
      '@typescript-eslint/no-empty-function': 'off',
      '@typescript-eslint/unbound-method': 'off'
    }
  },
  {
    files: ['**/*.js', '**/*.mjs'],
    extends: [tseslint.configs.disableTypeChecked]
  }
)
