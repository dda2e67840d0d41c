/** A pod that never stops talking: one numbered line every 5 ms, so that a gap in a followed log shows. */
let count = 0
setInterval(() => {
  count++
  process.stdout.write(`tick ${String(count).padStart(9, '0')}\n`)
}, 5)
