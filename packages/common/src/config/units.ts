/**
 * Durations and sizes as people write them in a configuration file, with their unit: `4s`, `500ms`, `64KiB`.
 * A bare number is refused, because nobody remembers whether it meant seconds or milliseconds.
 */
const MS_PER_UNIT = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const BYTES_PER_UNIT = { B: 1, KiB: 1_024, MiB: 1_048_576, GiB: 1_073_741_824 }

export const DURATION_FORM = 'a duration with its unit such as 500ms, 4s, 10m or 1h'
export const SIZE_FORM = 'a size with its unit such as 512B, 64KiB or 32MiB'

/** Milliseconds of a duration: one number and one of ms, s, m, h, d. Undefined for anything else. */
export function parseDuration(text: string): number | undefined {
  return parseQuantity(text, MS_PER_UNIT)
}

/** Bytes of a size: one number and one of B, KiB, MiB, GiB. Undefined for anything else. */
export function parseSize(text: string): number | undefined {
  return parseQuantity(text, BYTES_PER_UNIT)
}

/** The shortest text that `parseDuration` reads back to the same milliseconds. */
export function formatDuration(ms: number): string {
  return formatQuantity(ms, MS_PER_UNIT)
}

/** The shortest text that `parseSize` reads back to the same bytes. */
export function formatSize(bytes: number): string {
  return formatQuantity(bytes, BYTES_PER_UNIT)
}

function parseQuantity(text: string, units: Record<string, number>): number | undefined {
  const match = /^([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z]+)$/.exec(text)
  const factor = Object.hasOwn(units, match?.[2] ?? '') ? units[match?.[2] ?? ''] : undefined
  if (!match || factor === undefined) return undefined
  const amount = Math.round(Number(match[1]) * factor)
  return Number.isSafeInteger(amount) ? amount : undefined
}

function formatQuantity(amount: number, units: Record<string, number>): string {
  const [unit, factor] = Object.entries(units).reduce((best, candidate) =>
    amount % candidate[1] === 0 && amount >= candidate[1] ? candidate : best
  )
  return `${amount / factor}${unit}`
}
