/** All frames of a message, one after the other, as a session reads them. */
import { type FrameVisitor, frameAt } from '../../src/wire/decode.js'
import { FRAME_LIMIT_BYTES } from '../../src/wire/frame.js'

export function eachFrame(message: Buffer, visit: FrameVisitor, frameLimitBytes = FRAME_LIMIT_BYTES): void {
  let at = 0
  do at = frameAt(message, at, visit, frameLimitBytes)
  while (at < message.length)
}
