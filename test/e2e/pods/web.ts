/** A pod that serves HTTP on POD_IP:8080: says who it is and what it was asked, or sends as many bytes as asked for. */
import { createServer } from 'node:http'

const PORT = 8080

createServer((request, response) => {
  const url = new URL(request.url!, 'http://pod')
  const bytes = Number(url.searchParams.get('bytes'))
  if (bytes > 0) {
    response.end(Buffer.alloc(bytes, 'x'))
    return
  }
  const chunks: Buffer[] = []
  request.on('data', (chunk: Buffer) => chunks.push(chunk))
  request.on('end', () => {
    response.setHeader('content-type', 'application/json')
    const { method, headers } = request
    const body = Buffer.concat(chunks).toString()
    response.end(JSON.stringify({ pod: process.env['HOSTNAME'], method, path: request.url, headers, body }))
  })
}).listen(PORT, process.env['POD_IP'])
