// Keeps one core busy until its parent has gone, or for ever: `npm test -- --busy` starts one for each core.
process.on('disconnect', () => process.exit())
spin()

function spin() {
  const endMs = performance.now() + 100
  while (performance.now() < endMs);
  setImmediate(spin)
}
