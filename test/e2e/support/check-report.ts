/**
 * Prints each numbered check with its time as it ends, goes on after a failure, and counts. The numbers are those of
 * the list in docs: the part before the dot is the group.
 */
export class Report {
  readonly #only: Set<string> | undefined
  #prefix = ''
  #passed = 0
  #failed: string[] = []

  /** @param only groups to run ("1", "4"); default all */
  constructor(only?: string[]) {
    this.#only = only?.length ? new Set(only) : undefined
  }

  get failed(): number {
    return this.#failed.length
  }

  /** Names what all following checks run over, such as the kind of front. */
  over(name: string): void {
    this.#prefix = name
    this.say(`\n== ${name}`)
  }

  say(line: string): void {
    process.stdout.write(`${line}\n`)
  }

  /** Runs one check. What it returns, a measurement, is printed behind the time. */
  async check(
    number: string,
    sentence: string,
    body: () => Promise<string | undefined> | Promise<void>
  ): Promise<void> {
    if (this.#only && !this.#only.has(number.split('.')[0]!) && !this.#only.has(number)) return
    const begun = performance.now()
    const took = (): string => `${((performance.now() - begun) / 1000).toFixed(1)} s`
    try {
      const remark = await body()
      this.#passed++
      this.say(`ok     ${number.padEnd(5)} ${sentence} (${took()}${remark ? `; ${remark}` : ''})`)
    } catch (error) {
      this.#failed.push(`${this.#prefix} ${number}`)
      this.say(`FAILED ${number.padEnd(5)} ${sentence} (${took()})`)
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
      for (const line of text.split('\n')) this.say(`       ${line}`)
    }
  }

  /** Does what must be done whatever was chosen, such as stopping programs; only a failure is told, and counted. */
  async always(what: string, body: () => Promise<void>): Promise<void> {
    try {
      await body()
    } catch (error) {
      this.#failed.push(`${this.#prefix} ${what}`)
      this.say(`FAILED ${what}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }

  /** The last line; returns the exit code. */
  end(): number {
    if (this.#failed.length) this.say(`failed: ${this.#failed.join(', ')}`)
    this.say(`e2e: ${this.#passed} passed, ${this.#failed.length} failed`)
    return this.#failed.length === 0 && this.#passed > 0 ? 0 : 1
  }
}
