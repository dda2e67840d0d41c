/** One HTTP request without keep-alive, for health and metrics: an answer or nothing, never an exception. */
import { get } from 'node:http'

/** For a program that was stopped in its tracks: whoever asks may ask again. */
const TIMEOUT_MS = 20_000

/** One request to an admin listener; status 0 when nobody answers. */
export function ask(url: string): Promise<{ status: number; body: string }> {
  return new Promise(resolve => {
    const nobody = () => {
      resolve({ status: 0, body: '' })
    }
    const call = get(url, { agent: false, timeout: TIMEOUT_MS }, response => {
      let body = ''
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk))
      response.once('error', nobody)
      response.once('end', () => {
        resolve({ status: response.statusCode ?? 0, body })
      })
    })
    call.once('timeout', () => call.destroy())
    call.once('error', nobody)
  })
}
