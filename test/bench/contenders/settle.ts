/**
 * Loaded into Tendril's processes by the bench (`--import`): collects garbage when asked by SIGUSR2, so that
 * memory per stream is that of the streams and not of garbage that happens to be there.
 */
process.on('SIGUSR2', () => {
  globalThis.gc?.()
  globalThis.gc?.()
})
