/**
 * Text of others in log lines: peers choose names, reasons and headers, and a line that holds them must still look like
 * what it is. Characters that show nothing or turn the text around are written as escapes, long text is cut.
 */

/** Most characters of one text in a line, and most elements of a list; the rest is told by its number. */
export const LOG_TEXT_LIMIT = 1_024
export const LOG_LIST_LIMIT = 32
/** Levels of objects in objects. */
const DEPTH_LIMIT = 4

/**
 * Control and format characters (Unicode Cc, Cf: bidirectional controls and zero width among them), U+2028 and U+2029.
 */
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu

/** `text` with every invisible character as `\u202e`: what JSON reads as the same text, and a terminal shows. */
export function visible(text: string): string {
  return text.replace(INVISIBLE, character =>
    character
      .split('')
      .map(unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
      .join('')
  )
}

/** At most LOG_TEXT_LIMIT characters of it, and how many are missing. */
export function cut(text: string, limit = LOG_TEXT_LIMIT): string {
  if (text.length <= limit) return text
  return `${text.slice(0, limit)}… (${text.length - limit} more)`
}

/** The fields of a line, with long texts and lists cut. Errors are described elsewhere. */
export function cutFields(fields: Record<string, unknown>, depth = DEPTH_LIMIT): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, cutValue(value, depth)]))
}

function cutValue(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return cut(value)
  if (typeof value !== 'object' || value === null || value instanceof Error || value instanceof Date)
    return value
  if (depth === 0) return '…'
  if (!Array.isArray(value)) return cutFields(value as Record<string, unknown>, depth - 1)
  const kept = value.slice(0, LOG_LIST_LIMIT).map(element => cutValue(element, depth - 1))
  return value.length > LOG_LIST_LIMIT ? [...kept, `… (${value.length - LOG_LIST_LIMIT} more)`] : kept
}
