#!/usr/bin/env node
// The installed command. The program itself is compiled from src/ by `tsc -b` (npm runs it on install).
import { main } from '../dist/src/main.js'

process.exitCode = await main(process.argv.slice(2))
