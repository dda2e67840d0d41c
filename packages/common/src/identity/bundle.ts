/**
 * What one TLS endpoint shows and trusts: a certificate with its chain, the key of it, and optionally authorities,
 * read from files, checked, and read again when the files change. Works for certificates of any maker. Directories
 * are watched, not files: Kubernetes swaps the `..data` link of a Secret volume, editors and cert-manager rename.
 */
import { EventEmitter } from 'node:events'
import { watch as watchDirectory } from 'node:fs'
import type { FSWatcher } from 'node:fs'
import { dirname } from 'node:path'
import type { X509Certificate } from 'node:crypto'
import { systemClock } from '../clock.js'
import type { Clock, Timer } from '../clock.js'
import { TunnelError } from '../errors.js'
import type { Log } from '../log.js'
import { loadCredentials } from './credentials.js'
import type { CredentialFiles, Credentials, TlsOptions } from './credentials.js'
import type { Identity } from './identity.js'
import { PEM_FILE_LIMIT_BYTES } from './pem.js'

export type BundleFiles = CredentialFiles

export type BundleOptions = {
  /**
   * How long after the first sign of a change the files are read, in milliseconds. Default 250: several files change
   * together.
   */
  settleMs?: number
  /** How often the files are read without a sign, in milliseconds: some file systems give none. Default 60 000. */
  pollMs?: number
  /** Largest file that is read, in bytes. A larger one is `BAD_IDENTITY`. Default 1 MiB. */
  limitBytes?: number
  clock?: Clock
  /** The wall clock that validity is judged by. Default: the system's. */
  today?: () => Date
}

export type BundleEvents = {
  /** New files were read and are in use. */
  change: []
  /** New files were refused, the old ones stay in use. Said once per reason; without a listener, a process warning. */
  error: [error: TunnelError]
}

export const SETTLE_MS = 250
export const POLL_MS = 60_000

export class Bundle extends EventEmitter<BundleEvents> {
  readonly files: Readonly<BundleFiles>
  readonly #options: Required<BundleOptions>
  #loaded: Credentials
  #watchers: FSWatcher[] = []
  #timer: Timer | undefined
  /** Set while watching. A new object per `watch()`, so that a reload of an earlier watch knows it is late. */
  #watch: { touched: boolean } | undefined
  #lastRefusal: string | undefined

  private constructor(files: BundleFiles, options: Required<BundleOptions>, credentials: Credentials) {
    super()
    this.files = Object.freeze({ ...files })
    this.#options = options
    this.#loaded = credentials
  }

  /**
   * Reads and checks the files. Throws `BAD_IDENTITY` naming the file and what to do: missing, unreadable, exposed,
   * not PEM, encrypted, key and certificate of different pairs, expired (with the date), not valid yet.
   */
  static async load(files: BundleFiles, options: BundleOptions = {}): Promise<Bundle> {
    const { settleMs = SETTLE_MS, pollMs = POLL_MS, limitBytes = PEM_FILE_LIMIT_BYTES } = options
    const { clock = systemClock, today = () => new Date() } = options
    const complete = { settleMs, pollMs, limitBytes, clock, today }
    return new Bundle(files, complete, await loadCredentials(files, { limitBytes, now: today() }))
  }

  get leaf(): X509Certificate {
    return this.#loaded.leaf
  }

  get notAfter(): Date {
    return this.#loaded.identity.notAfter
  }

  /** What our own certificate says we are. */
  get identity(): Identity {
    return this.#loaded.identity
  }

  /** Names of the authorities in `ca`, for messages: see `verifyPeer`. */
  get authorities(): readonly string[] {
    return this.#loaded.authorities
  }

  /** Authorities of the file that have expired, as PEM: no handshake accepts them, `tlsOptions` leaves them out. */
  get expiredAuthorities(): readonly string[] {
    return this.#loaded.expiredAuthorities
  }

  /** What an operator should know of the authorities: one has expired, or may be mixed up with another. */
  get warnings(): readonly string[] {
    return this.#loaded.warnings
  }

  /**
   * `cert`, `key` and `ca` for `tls.createServer`, `tls.connect` or, after `change`, `server.setSecureContext`. The
   * latter forgets what it is not given: pass every other context option (`secureOptions`, `ecdhCurve`) again.
   */
  tlsOptions(): TlsOptions {
    return { ...this.#loaded.tls }
  }

  /** Reads the files now. Resolves to whether they changed; rejects with `BAD_IDENTITY`, keeping the old ones. */
  async reload(): Promise<boolean> {
    return this.#use(await this.#read())
  }

  /** Follows the files until the returned function or `unwatch()` is called. Does not keep the process alive. */
  watch(): () => void {
    if (this.#watch === undefined) {
      this.#watch = { touched: false }
      this.#openWatchers()
      this.#arm(this.#options.pollMs)
    }
    return () => this.unwatch()
  }

  /** Stops following; what is loaded stays usable. Safe to call twice. */
  unwatch(): void {
    this.#watch = undefined
    this.#timer?.cancel()
    this.#timer = undefined
    this.#closeWatchers()
  }

  #read(): Promise<Credentials> {
    const { limitBytes, today } = this.#options
    return loadCredentials(this.files, { limitBytes, now: today() })
  }

  #use(next: Credentials): boolean {
    this.#lastRefusal = undefined
    const { cert, key, ca } = this.#loaded.tls
    if (cert === next.tls.cert && key === next.tls.key && ca?.join() === next.tls.ca?.join()) return false
    this.#loaded = next
    this.emit('change')
    return true
  }

  #arm(delayMs: number): void {
    this.#timer?.cancel()
    this.#timer = this.#options.clock.after(delayMs, () => void this.#timerOnEnd())
  }

  async #timerOnEnd(): Promise<void> {
    const watch = this.#watch
    if (watch === undefined) return
    this.#timer = undefined
    watch.touched = false
    // Opened anew each time, and before reading: a watched directory may itself have been replaced.
    this.#openWatchers()
    const outcome = await this.#read().catch((error: unknown) => TunnelError.from(error, 'BAD_IDENTITY'))
    if (this.#watch !== watch) return
    this.#arm(watch.touched ? this.#options.settleMs : this.#options.pollMs)
    if (outcome instanceof TunnelError) this.#refuse(outcome)
    else this.#use(outcome)
  }

  #watcherOnEvent(): void {
    const watch = this.#watch
    if (watch === undefined || watch.touched) return
    // Not put off by further events: a busy directory must not starve the reload.
    watch.touched = true
    if (this.#timer !== undefined) this.#arm(this.#options.settleMs)
  }

  #refuse(error: TunnelError): void {
    if (error.message === this.#lastRefusal) return
    this.#lastRefusal = error.message
    if (this.listenerCount('error') > 0) this.emit('error', error)
    else process.emitWarning(error)
  }

  #openWatchers(): void {
    this.#closeWatchers()
    const { cert, key, ca } = this.files
    for (const directory of new Set([cert, key, ca ?? cert].map(file => dirname(file)))) {
      try {
        const watcher = watchDirectory(directory, { persistent: false }, () => this.#watcherOnEvent())
        watcher.on('error', () => watcher.close())
        this.#watchers.push(watcher)
      } catch {
        // No directory at the moment, or no inotify watches left: the poll remains.
      }
    }
  }

  #closeWatchers(): void {
    for (const watcher of this.#watchers) watcher.close()
    this.#watchers = []
  }
}

/** Logs what is to be known of a bundle's authorities, now and whenever its files were read anew. */
export function followWarnings(bundle: Pick<Bundle, 'warnings' | 'on'>, log: Pick<Log, 'warn'>): void {
  const logAll = (): void => {
    for (const warning of bundle.warnings) log.warn(warning)
  }
  logAll()
  bundle.on('change', logAll)
}
