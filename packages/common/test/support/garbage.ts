/** `gc()` without a flag on the command line, for tests that measure memory. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

export async function collectGarbage(): Promise<void> {
  for (let round = 0; round < 3; round++) {
    gc()
    // Buffers are freed by finalizers, which run in a later turn.
    await new Promise(resolve => setImmediate(resolve))
  }
}
