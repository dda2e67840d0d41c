/**
 * PEM files and the blocks in them. Not an X.509 parser: it finds, cleans and names blocks, nothing more. Lax
 * where copies suffer (CRLF, indentation, a byte-order mark, text between the blocks: RFC 7468 §2 and §5.2),
 * strict about size.
 */
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import type { Stats } from 'node:fs'
import { TunnelError } from '../errors.js'

/** Default limit of one PEM file, in bytes: four times the CA bundle of a Linux distribution. */
export const PEM_FILE_LIMIT_BYTES = 1024 * 1024

const PEM_BLOCK = /-----BEGIN ([A-Z0-9 ]+)-----([\s\S]*?)-----END \1-----/g
const PEM_LINE = /.{1,64}/g

export type PemBlock = { label: string; body: string }

/** The blocks of a text in order; their bodies without any white space around lines. */
export function pemBlocks(text: string): PemBlock[] {
  return [...text.matchAll(PEM_BLOCK)].map(([, label = '', body = '']) => ({
    label,
    body: body
      .split(/\r\n|\r|\n/)
      .map(line => line.trim())
      .join('\n')
      .trim()
  }))
}

/** One block as every parser likes it: lines of 64 characters, LF. */
export function formatPem(label: string, body: Buffer): string {
  const lines = body.toString('base64').match(PEM_LINE) ?? []
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`
}

export type ReadPemOptions = {
  /** Largest file that is read, in bytes. A larger one is `BAD_IDENTITY`. Default 1 MiB. */
  limitBytes?: number
  /** Looks at the opened file before its content is read; throws to refuse it. */
  inspect?: (stats: Stats, path: string) => void
}

/** Reads a file that should hold PEM. Follows symbolic links. Throws `BAD_IDENTITY` naming the file. */
export async function readPemFile(path: string, options: ReadPemOptions = {}): Promise<PemBlock[]> {
  const { limitBytes = PEM_FILE_LIMIT_BYTES, inspect } = options
  let file: FileHandle | undefined
  try {
    // Non-blocking: opening a FIFO nobody writes to would otherwise wait for ever.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const stats = await file.stat()
    if (!stats.isFile()) throw new TunnelError('BAD_IDENTITY', `${path} is not a regular file`)
    inspect?.(stats, path)
    if (stats.size > limitBytes) {
      throw new TunnelError(
        'BAD_IDENTITY',
        `${path} has ${stats.size} bytes, more than the ${limitBytes} allowed`
      )
    }
    return blocksOf(await file.readFile(), path)
  } catch (error) {
    throw explainReadError(error, path)
  } finally {
    await file?.close()
  }
}

function blocksOf(bytes: Buffer, path: string): PemBlock[] {
  const blocks = pemBlocks(bytes.toString('latin1'))
  if (blocks.length > 0) return blocks
  // 0x30 opens the SEQUENCE that every certificate and key is in DER.
  if (bytes[0] === 0x30) {
    throw new TunnelError(
      'BAD_IDENTITY',
      `${path} looks like DER; convert it to PEM with "openssl x509 -inform der" or "openssl pkey -inform der"`
    )
  }
  throw new TunnelError(
    'BAD_IDENTITY',
    bytes.length === 0 ? `${path} is empty` : `${path} holds no PEM block`
  )
}

function explainReadError(error: unknown, path: string): TunnelError {
  if (error instanceof TunnelError) return error
  const code = (error as NodeJS.ErrnoException).code ?? String(error)
  if (code === 'ENOENT') return new TunnelError('BAD_IDENTITY', `${path} does not exist`, { cause: error })
  if (code === 'EACCES') {
    const uid = process.geteuid?.() ?? 'this user'
    return new TunnelError('BAD_IDENTITY', `${path} may not be read by uid ${uid}`, { cause: error })
  }
  return new TunnelError('BAD_IDENTITY', `${path} cannot be read (${code})`, { cause: error })
}
